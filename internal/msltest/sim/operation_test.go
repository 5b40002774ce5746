// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/mslkeep/mslkeep/msl"
)

// An operation is one request of a client. All that it will do is decided when it is made.
type operation struct {
	id     int
	client *client
	text   []byte
	ctx    context.Context
	cancel context.CancelFunc

	protection    msl.Protection
	nonReplayable bool
	requestTokens bool
	oneWay        bool
	push          bool   // the server pushes messages, after its answer or in its place
	user          string // or none
	login         login
	tokens        []msl.NewServiceToken // of the client
	close         bool                  // the answer is closed before its end
	seekable      bool                  // the data can be read again
	stream        bool                  // the data is written piece by piece
	chunk         int

	// What the server does.
	answerTokens []msl.NewServiceToken
	refusals     atomic.Int32 // how often it refuses
	refusal      error
	pushes       int // messages, if not after an answer then in its place
	noAnswer     bool

	heard string // what came back
	err   error
	done  bool
}

// A login is what a user does when asked for credentials.
type login uint8

const (
	noLogin login = iota
	goodPassword
	badPassword // first
	earlierToken
	loginFails
)

func (o *operation) String() string { return fmt.Sprintf("operation %d of %s", o.id, o.client.name) }

func (o *operation) encrypted() bool { return o.protection == msl.Encrypted }

func (o *operation) account() string { return account(o.client.name, o.user) }

// mustHaveUser tells whether the message must never come without the user.
func (o *operation) mustHaveUser() bool {
	return o.user != "" && o.login != noLogin && o.login != loginFails
}

// newOperation draws an operation of a client.
func (s *simulation) newOperation(c *client) *operation {
	r := s.rng
	o := &operation{id: len(s.operations), client: c, seekable: r.IntN(4) > 0}
	if r.IntN(6) == 0 {
		o.protection = msl.IntegrityProtected + msl.Protection(r.IntN(2))
	}
	o.nonReplayable = r.IntN(3) == 0
	o.requestTokens = r.IntN(10) == 0
	o.oneWay = r.IntN(20) == 0
	o.close = r.IntN(30) == 0
	if len(c.users) > 0 && r.IntN(2) == 0 {
		o.user = c.users[r.IntN(len(c.users))]
		o.login = login(r.IntN(16))
		if o.login > loginFails {
			o.login = goodPassword
		}
	}
	if r.IntN(5) == 0 {
		o.tokens = append(o.tokens, s.newServiceToken(c, o.user, "c"))
	}
	if r.IntN(5) == 0 {
		o.answerTokens = append(o.answerTokens, s.newServiceToken(c, o.user, "s"))
	}
	if r.IntN(15) == 0 {
		o.refusals.Store(int32(1 + r.IntN(2)))
		o.refusal = refusals[r.IntN(len(refusals))]
	}
	if !c.config.PeerToPeer && !o.oneWay && r.IntN(20) == 0 {
		o.push, o.pushes, o.noAnswer = true, r.IntN(3), r.IntN(2) == 0
	}
	o.stream = r.IntN(15) == 0
	o.fill(r.IntN(100))
	o.ctx, o.cancel = context.WithCancel(labelled(context.Background(), fmt.Sprintf("op %d", o.id)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.operations = append(s.operations, o)
	return o
}

// refusals are what servers say that do not like a message.
var refusals = []error{msl.InternalException, msl.MSLCommsFailure, msl.MasterTokenRejectedByApp, msl.UserIDTokenRejectedByApp,
	msl.MessageExpired, msl.MessageReplayed, msl.ResponseRequiresEncryption}

// calmOperation is one that must succeed when nothing bad happens.
func (s *simulation) calmOperation(c *client) *operation {
	o := s.newOperation(c)
	o.refusals.Store(0)
	o.close, o.seekable = false, true
	if o.user != "" {
		o.login = goodPassword
	}
	return o
}

func (s *simulation) newServiceToken(c *client, user, prefix string) msl.NewServiceToken {
	r := s.rng
	t := msl.NewServiceToken{Name: fmt.Sprint(prefix, r.IntN(2)), Encrypt: true, Data: tokenValue(c.name, user)}
	switch r.IntN(4) {
	case 0:
		t.BoundToEntity = true
	case 1, 2:
		t.BoundToUser = true
	}
	if r.IntN(4) == 0 {
		t.Data = nil
	}
	return t
}

// fill makes the text, mostly a short one.
func (o *operation) fill(n int) {
	secret := "secret!"
	if o.protection != msl.Encrypted {
		secret = "open"
	}
	size := 0
	switch {
	case n < 2:
		size = 100_000 + n*150_000
	case n < 10:
		size = 1000 * n
	}
	if size > 200_000 {
		o.chunk = 5000
	}
	o.text = fmt.Appendf(nil, "%s %d\n", secret, o.id)
	o.text = append(o.text, bytes.Repeat([]byte("0123456789abcdef"), size/16)...)
}

// operation finds the operation that a text belongs to.
func (s *simulation) operation(text []byte) *operation {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var secret string
	id := -1
	_, _ = fmt.Sscan(string(line), &secret, &id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if id < 0 || id >= len(s.operations) {
		return nil
	}
	return s.operations[id]
}

// serve is what the server does with the operation.
func (o *operation) serve(w *msl.ResponseWriter) error {
	if o.refusals.Add(-1) >= 0 {
		return o.refusal
	}
	w.ServiceTokens, w.ChunkSize = o.answerTokens, o.chunk
	w.Silent = o.oneWay
	return nil
}

// run carries the operation out.
func (o *operation) run() {
	s := o.client.sim
	defer s.caught(o.String())
	defer func() {
		o.check()
		o.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		o.done = true
		o.client.active--
		s.active--
	}()
	var body io.Reader = bytes.NewReader(o.text)
	if !o.seekable {
		body = struct{ io.Reader }{body}
	}
	request := &msl.Request{
		Body: body, Protection: o.protection, NonReplayable: o.nonReplayable, RequestTokens: o.requestTokens, User: o.user,
		ServiceTokens: o.tokens, ChunkSize: o.chunk, AcceptPush: o.push,
	}
	if o.login != noLogin {
		request.Credentials = o.credentials
	}
	if o.stream {
		request.Body, request.Stream = nil, o.write
	}
	if o.oneWay {
		o.err = o.client.client.Send(o.ctx, request)
		return
	}
	answer, err := o.client.client.Do(o.ctx, request)
	if err != nil {
		o.err = err
		return
	}
	if o.close {
		answer.Close()
		o.heard = "closed"
		return
	}
	o.hear(answer)
	for o.push && o.err == nil {
		if o.err = answer.Next(o.ctx); o.err == nil {
			o.hear(answer)
		} else if o.err == io.EOF {
			o.err = nil
			break
		}
	}
	answer.Close()
}

// write writes the data in two pieces.
func (o *operation) write(_ context.Context, w *msl.MessageWriter) error {
	half := (bytes.IndexByte(o.text, '\n') + 1 + len(o.text)) / 2
	_, err := w.Write(o.text[:half])
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		_, err = w.Write(o.text[half:])
	}
	return err
}

// hear reads an answer, or what was pushed after it, and checks that it is for this operation. Something that was pushed
// may be for an earlier one of the same user.
func (o *operation) hear(answer *msl.Response) {
	s := o.client.sim
	data, err := io.ReadAll(answer)
	o.err = err
	o.carried(answer.Message)
	if !answer.IntegrityProtected || err != nil {
		return
	}
	o.heard = string(data)
	if o.heard == string(o.text) {
		return
	}
	if other := s.operation(data); !o.push || other == nil || other.client != o.client || other.user != o.user && other.mustHaveUser() {
		s.broken("%s heard %.60q", o, o.heard)
	}
}

// check looks at how it ended.
func (o *operation) check() {
	if o.err != nil && !typed(o.err) {
		o.client.sim.broken("%s failed without an error of MSL: %T %w", o, o.err, o.err)
	}
}

// carried checks the service tokens of an answer.
func (o *operation) carried(m *msl.Message) {
	tokens := m.ServiceTokens
	if o.client.config.PeerToPeer {
		tokens = m.PeerServiceTokens
	}
	for _, t := range tokens {
		if t.Verified && !belongs(t, o.client.name, o.user) {
			o.client.sim.broken("%s got service token %q", o, t.Value)
		}
	}
}

func (o *operation) credentials(_ context.Context, again bool) (*msl.UserAuthData, error) {
	c := o.client
	switch {
	case o.login == loginFails:
		return nil, &errSimulated{"the user"}
	case o.login == badPassword && !again:
		return msl.EmailPassword(o.user, "password! that is wrong"), nil
	case o.login == earlierToken && !again:
		for _, state := range c.earlier {
			if data, err := msl.EarlierUserIDToken(state, o.user); err == nil {
				return data, nil
			}
		}
	}
	return msl.EmailPassword(o.user, passwordOf(c.name, o.user)), nil
}

// typed tells whether an error is one that callers can do something with: of MSL, of the agent, or of what the simulation
// gave.
func typed(err error) bool {
	_, own := errors.AsType[*msl.Error](err)
	_, remote := errors.AsType[*msl.RemoteError](err)
	_, replay := errors.AsType[*msl.ReplayError](err)
	_, code := errors.AsType[msl.Code](err)
	_, agent := errors.AsType[msl.FailureError](err)
	_, simulated := errors.AsType[*errSimulated](err)
	return own || remote || replay || code || agent || simulated || errors.Is(err, context.Canceled)
}
