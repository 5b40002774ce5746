// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// A world is a client and a server with the keys of the vectors, each with an agent, and a transport that
// records what passes.
type world struct {
	t       testing.TB
	now     atomic.Int64 // Unix seconds
	server  *msl.Server
	config  *msl.Config // of the server, until serve
	client  *msl.Config
	keys    msl.ServerKeys
	handler msl.Handler

	forget   bool // do not record requests
	mu       sync.Mutex
	requests [][]byte
	failures []error
	meddle   func(n int, request []byte) ([]byte, error) // may change or fail the n-th request, from 0
	mangle   func(n int, response []byte) []byte
}

type handler func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error

func (h handler) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	return h(ctx, w, m)
}

func echo(_ context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	if !m.Encrypted {
		w.Protection = msl.Unprotected
	}
	_, err := io.Copy(w, m)
	return err
}

// oneUser knows the users of the vectors.
type oneUser struct{}

func (oneUser) EmailPassword(_ context.Context, _, email, password string) (string, bool, error) {
	for _, u := range inproc.Fixtures().Users {
		if u.Email == email && u.Password == password {
			return u.Name, true, nil
		}
	}
	return "", false, nil
}

func rsaKeys(t testing.TB) map[string]*rsa.PublicKey {
	keys := make(map[string]*rsa.PublicKey)
	for id, pair := range inproc.Fixtures().RSAStore {
		k, err := x509.ParsePKIXPublicKey(inproc.Fixtures().KeyPairs[pair].SPKI)
		if err != nil {
			t.Fatal(err)
		}
		keys[id] = k.(*rsa.PublicKey)
	}
	return keys
}

// newWorld returns a world whose client is a PSK entity, and whose server is an RSA one that echoes.
func newWorld(t testing.TB) *world {
	w := &world{t: t, keys: inproc.Agent(t), handler: handler(echo)}
	w.now.Store(inproc.Time.Unix())
	clock := func() time.Time { return time.Unix(w.now.Load(), 0) }
	keys := rsaKeys(t)
	identities := map[string][]string{"rsa-server-key": {"rsa-srv"}, "rsa-client-key": {"rsa-client"}}
	w.config = &msl.Config{
		Entity: msl.RSA("rsa-srv", "rsa-server-key"), EntitySchemes: []string{"PSK", "RSA", "NONE"},
		RSAPublicKeys: keys, RSAIdentities: identities, Users: oneUser{}, Clock: clock,
		ServiceTokenKeys: map[string]string{"": "default"},
	}
	w.client = &msl.Config{Entity: msl.PSK("psk-client"), RSAPublicKeys: keys, RSAIdentities: identities, Clock: clock, RemoteIdentity: "rsa-srv"}
	return w
}

func (w *world) advance(d time.Duration) { w.now.Add(int64(d / time.Second)) }

// newClient starts the server, if it was not, and returns a client of it.
func (w *world) newClient(store msl.Store) *msl.Client {
	w.t.Helper()
	if w.server == nil {
		s, err := msl.NewServer(w.config, w.keys, w.handler)
		if err != nil {
			w.t.Fatal(err)
		}
		s.Failed = func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failures = append(w.failures, err)
		}
		w.server = s
		w.advance(2 * time.Second) // tokens are issued after the server's policy was made
	}
	c, err := msl.NewClient(w.client, inproc.Agent(w.t), w, store)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// count returns how many requests were sent since the last call.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.requests)
	w.requests = nil
	return n
}

// Open implements msl.Transport: an exchange whose request is complete before it is answered.
func (w *world) Open(ctx context.Context) (msl.Exchange, error) {
	return &memExchange{world: w, ctx: ctx, answered: make(chan struct{})}, nil
}

type memExchange struct {
	world    *world
	ctx      context.Context
	request  bytes.Buffer
	response bytes.Buffer
	answered chan struct{}
}

func (x *memExchange) Write(p []byte) (int, error) { return x.request.Write(p) }
func (x *memExchange) Flush() error                { return nil }
func (x *memExchange) Close() error                { return nil }

func (x *memExchange) Read(p []byte) (int, error) {
	select {
	case <-x.answered:
		return x.response.Read(p)
	case <-x.ctx.Done():
		return 0, x.ctx.Err()
	}
}

func (x *memExchange) CloseWrite() error {
	defer close(x.answered)
	w := x.world
	w.mu.Lock()
	n := len(w.requests)
	request := x.request.Bytes()
	if !w.forget {
		request = bytes.Clone(request)
		w.requests = append(w.requests, request)
	}
	meddle, mangle := w.meddle, w.mangle
	w.mu.Unlock()
	if meddle != nil {
		var err error
		if request, err = meddle(n, request); err != nil {
			return err
		}
	}
	_ = w.server.ServeExchange(x.ctx, bytes.NewReader(request), &x.response)
	if mangle != nil {
		changed := mangle(n, x.response.Bytes())
		x.response = *bytes.NewBuffer(changed)
	}
	return nil
}

// say sends text and returns the answer's data.
func say(c *msl.Client, r msl.Request, text string) (string, *msl.Response, error) {
	r.Body = strings.NewReader(text)
	answer, err := c.Do(context.Background(), &r)
	if err != nil {
		return "", nil, err
	}
	defer answer.Close()
	data, err := io.ReadAll(answer)
	return string(data), answer, err
}

// mustSay fails the test unless the answer is an echo.
func (w *world) mustSay(c *msl.Client, r msl.Request, text string) *msl.Response {
	w.t.Helper()
	data, answer, err := say(c, r, text)
	if err != nil || data != text {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t.Fatalf("said %q, heard %q: %v; the server: %v", text, data, err, w.failures)
	}
	return answer
}

func (w *world) expectRequests(n int, what string) {
	w.t.Helper()
	if got := w.count(); got != n {
		w.t.Errorf("%s took %d messages, not %d", what, got, n)
	}
}

// TestFirstMessages: a PSK entity sends data at once and gets a session with the answer; one whose scheme
// does not encrypt first makes a handshake (§8.13).
func TestFirstMessages(t *testing.T) {
	for _, c := range []struct {
		name   string
		entity msl.EntityAuthData
		first  int
	}{
		{"PSK", msl.PSK("psk-client"), 1},
		{"RSA", msl.RSA("rsa-client", "rsa-client-key"), 2},
		{"NONE", msl.None("somebody"), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.client.Entity = c.entity
			client := w.newClient(nil)
			defer client.Close()
			answer := w.mustSay(client, msl.Request{}, "hello")
			if !answer.Encrypted || !answer.IntegrityProtected {
				t.Error("the first answer is not protected")
			}
			w.expectRequests(c.first, "the first message")
			answer = w.mustSay(client, msl.Request{}, "again")
			if answer.MasterToken == nil {
				t.Error("the second answer is not under the session")
			}
			w.mustSay(client, msl.Request{NonReplayable: true}, "once")
			w.expectRequests(2, "two more messages")
		})
	}
}

// TestKeyExchanges runs every key exchange of this release with every entity scheme.
func TestKeyExchanges(t *testing.T) {
	for _, entity := range []msl.EntityAuthData{msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key"), msl.None("somebody")} {
		for _, k := range []msl.KeyExchange{
			{"ASYMMETRIC_WRAPPED", "JWE_RSA"}, {"ASYMMETRIC_WRAPPED", "JWEJS_RSA"}, {"ASYMMETRIC_WRAPPED", "JWK_RSA"}, {"SYMMETRIC_WRAPPED", "PSK"},
		} {
			if k.Mechanism == "PSK" && entity.Scheme != "PSK" {
				continue
			}
			t.Run(entity.Scheme+"/"+k.Mechanism, func(t *testing.T) {
				w := newWorld(t)
				w.client.Entity, w.client.KeyExchanges = entity, []msl.KeyExchange{k}
				client := w.newClient(nil)
				defer client.Close()
				w.mustSay(client, msl.Request{}, "hello")
				w.mustSay(client, msl.Request{NonReplayable: true}, "again")
			})
		}
	}
}

// TestRenewal: in its renewal window a token is replaced by the next of the same serial number, while
// messages go on; an expired one is replaced in one exchange too.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "1")
	before := w.mustSay(client, msl.Request{}, "2").MasterToken
	for i, wait := range []time.Duration{2 * time.Hour, 2 * time.Hour, 48 * time.Hour} {
		w.count()
		w.advance(wait)
		answer := w.mustSay(client, msl.Request{NonReplayable: i == 1}, "renew")
		if answer.KeyResponse == nil {
			t.Fatal("the token was not renewed")
		}
		w.expectRequests(1, "a renewal")
		after := w.mustSay(client, msl.Request{}, "go on").MasterToken
		if after.SerialNumber != before.SerialNumber || after.SequenceNumber != before.SequenceNumber+1 {
			t.Errorf("from serial %d sequence %d to serial %d sequence %d", before.SerialNumber, before.SequenceNumber, after.SerialNumber, after.SequenceNumber)
		}
		before = after
	}
}

// TestRestart: what a store holds is enough to go on without a new key exchange.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	store := new(msl.MemoryStore)
	client := w.newClient(store)
	user := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
	w.mustSay(client, user, "hello")
	w.mustSay(client, msl.Request{NonReplayable: true}, "once")
	client.Close()
	w.count()
	client = w.newClient(store)
	defer client.Close()
	answer := w.mustSay(client, msl.Request{User: "me", NonReplayable: true}, "back")
	if answer.MasterToken == nil || answer.UserIDToken == nil {
		t.Error("the tokens were lost")
	}
	w.expectRequests(1, "the first message after a restart")
}

func login(email, password string) func(context.Context, bool) (*msl.UserAuthData, error) {
	return func(_ context.Context, again bool) (*msl.UserAuthData, error) {
		if again {
			return nil, errors.New("no other password")
		}
		return msl.EmailPassword(email, password), nil
	}
}

// TestUsers: a user authenticates once, and is then known by a token.
func TestUsers(t *testing.T) {
	for _, entity := range []msl.EntityAuthData{msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key")} {
		w := newWorld(t)
		w.client.Entity = entity
		var user atomic.Value
		w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
			user.Store(m.User)
			return echo(ctx, rw, m)
		})
		client := w.newClient(nil)
		asked := 0
		r := msl.Request{User: "me", Credentials: func(context.Context, bool) (*msl.UserAuthData, error) {
			asked++
			return msl.EmailPassword("user1@example.com", "pass-1"), nil
		}}
		w.mustSay(client, r, "hello")
		w.mustSay(client, r, "again")
		if asked != 1 || user.Load() != "user1" {
			t.Errorf("%s: asked for the password %d times, the user is %v", entity.Scheme, asked, user.Load())
		}
		_, _, err := say(client, msl.Request{User: "other", Credentials: login("user1@example.com", "wrong")}, "hello")
		if err == nil || user.Load() != "user1" {
			t.Errorf("%s: a wrong password: %v", entity.Scheme, err)
		}
		w.mustSay(client, r, "still here")
		client.Close()
	}
}

// TestServiceTokens: a server's tokens come back with each message until it deletes them.
func TestServiceTokens(t *testing.T) {
	w := newWorld(t)
	var step atomic.Int32
	seen := make(chan string, 10)
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		var have []string
		for _, st := range m.ServiceTokens {
			have = append(have, fmt.Sprintf("%s=%s", st.Name, st.Value))
		}
		seen <- strings.Join(have, " ")
		switch step.Add(1) {
		case 2:
			rw.ServiceTokens = []msl.NewServiceToken{{Name: "bound", BoundToEntity: true, Encrypt: true, Data: []byte("b")}, {Name: "free", Data: []byte("f")}}
		case 4:
			rw.ServiceTokens = []msl.NewServiceToken{{Name: "bound", BoundToEntity: true}}
		}
		return echo(ctx, rw, m)
	})
	client := w.newClient(nil)
	defer client.Close()
	for i, want := range []string{"", "", "bound=b free=f", "bound=b free=f", "free=f"} {
		w.mustSay(client, msl.Request{}, "x")
		if got := <-seen; got != want {
			t.Errorf("message %d carried %q, not %q", i+1, got, want)
		}
	}
}
