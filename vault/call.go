// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var (
	errSize      = errors.New("too long, or empty")
	errAnswer    = errors.New("the answer makes no sense")
	errUnreached = errors.New("cannot reach Vault")
)

const (
	firstPause   = 20 * time.Millisecond
	longestPause = 250 * time.Millisecond
)

// A counter counts requests, for tests and measurements.
type counter struct{ atomic.Uint64 }

// A request is one to Vault.
type request struct {
	method, path string
	query        string // NAME=value
	body         []byte
	again        bool // it may be sent more than once
	partial      bool // an answer with this status 400 has results, too
}

// A refusal is an answer that is not one of success. It has nothing of what Vault wrote, which might repeat
// what it was sent, but what is recognised.
type refusal struct {
	status int
	what   string
	data   bool // it has data all the same
}

func (r *refusal) Error() string {
	if r.what == "" {
		return fmt.Sprintf("Vault answered %d", r.status)
	}
	return fmt.Sprintf("Vault answered %d (%s)", r.status, r.what)
}

const (
	invalidSecretID    = "invalid role or secret ID"
	oldInvalidSecretID = "invalid secret id" // before Vault 1.16
)

// phrases are what is recognised in Vault's errors.
var phrases = []string{"Vault is sealed", invalidToken, "permission denied", "key not found", "no existing key", "too old",
	"not initialized", "no handler for route", "rate limit quota exceeded", invalidSecretID, oldInvalidSecretID, "invalid role ID",
	"wrapping token is not valid or does not exist", "unsupported path", "deletion is not allowed"}

func recognised(texts []string) string {
	for _, phrase := range phrases {
		for _, text := range texts {
			if strings.Contains(strings.ToLower(text), strings.ToLower(phrase)) {
				return phrase
			}
		}
	}
	return ""
}

// A reply is the body of an answer.
type reply struct {
	Errors []string        `json:"errors"`
	Data   json.RawMessage `json:"data"`
	Auth   *struct {
		Token     string `json:"client_token"`
		Lease     int64  `json:"lease_duration"`
		Renewable bool   `json:"renewable"`
	} `json:"auth"`
}

// send sends a request once, with a token or none. The reply's data is in a buffer that wipe wipes.
func (c *client) send(ctx context.Context, token string, q request) (out reply, wipe func(), err error) {
	nothing := func() {}
	if err := ctx.Err(); err != nil {
		return out, nothing, err
	}
	r := c.api.NewRequest(q.method, "/v1/"+q.path)
	r.ClientToken = token
	if name, value, ok := strings.Cut(q.query, "="); ok {
		r.Params.Set(name, value)
	}
	if q.body != nil {
		r.BodyBytes = q.body
	}
	c.requests.Add(1)
	//lint:ignore SA1019 the higher methods decode into maps of copies that cannot be wiped
	response, err := c.api.RawRequestWithContext(ctx, r)
	if response == nil || response.Response == nil {
		return out, nothing, unreached(ctx, err)
	}
	defer response.Body.Close()
	body, rerr := readBody(response)
	if rerr != nil {
		secret.Wipe(body)
		return out, nothing, unreached(ctx, rerr)
	}
	return decoded(response, body)
}

// readBody reads an answer, in one buffer if its size is told.
func readBody(response *api.Response) ([]byte, error) {
	if n := response.ContentLength; n >= 0 && n <= maxAnswer {
		body := make([]byte, n)
		_, err := io.ReadFull(response.Body, body)
		return body, err
	}
	return io.ReadAll(response.Body)
}

func decoded(response *api.Response, body []byte) (out reply, wipe func(), err error) {
	if len(body) > 0 {
		err = json.Unmarshal(body, &out)
	}
	wipe = func() {
		secret.Wipe(body)
		secret.Wipe(out.Data)
	}
	good := response.StatusCode >= 200 && response.StatusCode < 300
	if good && err != nil {
		wipe()
		return reply{}, func() {}, errAnswer
	}
	if !good {
		return out, wipe, &refusal{response.StatusCode, recognised(out.Errors), len(out.Data) > 4} // more than null
	}
	return out, wipe, nil
}

// unreached is the error of a request that has no answer. What went wrong is told without addresses and names
// that came from Vault.
func unreached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, word := range []string{"server gave HTTP response to HTTPS client", "connection refused", "certificate", "no such host", "connection reset", "EOF", "timeout", "no route"} {
		if err != nil && strings.Contains(err.Error(), word) {
			return fmt.Errorf("%w: %s", errUnreached, word)
		}
	}
	return errUnreached
}

// busy reports whether an error is one after which the same request may succeed soon.
func busy(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return false
	}
	switch r.status {
	case http.StatusServiceUnavailable:
		return r.what != "Vault is sealed" // that takes somebody to unseal it
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout, 472, 473:
		return true
	}
	return false
}

// patiently sends a request, again as long as Vault is busy and the deadline lets it, if it may be.
func (c *client) patiently(ctx context.Context, token string, q request) (reply, func(), error) {
	pause := firstPause
	for {
		out, wipe, err := c.send(ctx, token, q)
		if !q.again || !busy(err) {
			return out, wipe, err
		}
		wait := pause/2 + rand.N(pause/2)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return out, wipe, err
		}
		wipe()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return reply{}, func() {}, ctx.Err()
		}
		pause = min(2*pause, longestPause)
	}
}

// early bounds an operation by the timeout, and so that it ends a moment before its caller's deadline: a provider that has
// not answered by then is killed.
func (p *Provider) early(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(p.timeout)
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if early := deadline.Add(-min(left/10, 100*time.Millisecond)); early.Before(end) {
			end = early
		}
	}
	return context.WithDeadline(ctx, end)
}

// call makes a request with the token and decodes the answer's data into out, unless it is nil. Errors are of
// type *providers.Error. A token that is refused is replaced, once.
func (p *Provider) call(ctx context.Context, op string, q request, out any) error {
	ctx, cancel := p.early(ctx)
	defer cancel()
	token, err := p.session.current(ctx)
	if err != nil {
		return coded(op, err)
	}
	r, wipe, err := p.client.patiently(ctx, token, q)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status == http.StatusForbidden {
		if token, rerr := p.session.replaced(ctx, token, refused); rerr == nil {
			wipe()
			r, wipe, err = p.client.patiently(ctx, token, q)
		} else if !errors.Is(rerr, errJustReplaced) {
			err = rerr
		}
	}
	defer wipe()
	if refused, ok := errors.AsType[*refusal](err); ok && q.partial && refused.status == http.StatusBadRequest && refused.data {
		err = nil
	}
	if err != nil {
		return coded(op, err)
	}
	if out == nil {
		return nil
	}
	if len(r.Data) == 0 || json.Unmarshal(r.Data, out) != nil {
		return failure(providers.Device, op, errAnswer)
	}
	return nil
}

func forbidden(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusForbidden
}

// coded gives an error its code.
func coded(op string, err error) error {
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return err
	}
	code := providers.Transient
	if errors.Is(err, errAnswer) {
		code = providers.Device
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		code = r.code()
	}
	return failure(code, op, err)
}

func (r *refusal) code() providers.Code {
	switch {
	case r.status == http.StatusForbidden && r.what != invalidToken:
		return providers.Denied
	case r.status == http.StatusNotFound && r.what != "no handler for route", r.what == "key not found", r.what == "no existing key", r.what == "too old":
		return providers.NoSuchKey
	case r.status == http.StatusNotFound:
		return providers.Denied // there is no such engine
	case r.status == http.StatusBadRequest, r.status == http.StatusRequestEntityTooLarge:
		return providers.Malformed
	case r.status == http.StatusInternalServerError, r.status == http.StatusNotImplemented:
		return providers.Device
	}
	return providers.Transient
}
