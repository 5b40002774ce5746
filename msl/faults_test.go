// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// faults fails one call of all those that a client makes of custody, store and transport.
type faults struct {
	calls  atomic.Int64
	failAt atomic.Int64 // the n-th call from now on; 0: none
}

// errFault is custody that is away for a moment.
type errFault struct{}

func (errFault) Error() string               { return "fault" }
func (errFault) Failure() (msl.Failure, int) { return msl.Unavailable, -1 }

func (f *faults) call() error {
	if f.calls.Add(1) == f.failAt.Load() {
		return errFault{}
	}
	return nil
}

func (f *faults) arm(n int64) { f.calls.Store(0); f.failAt.Store(n) }

// faultyKeys is custody some of whose calls fail.
type faultyKeys struct {
	msl.ClientKeys
	f *faults
}

type faultyContext struct {
	msl.CryptoContext
	f *faults
}

func (c *faultyContext) Seal(ctx context.Context, plain [][]byte) ([]msl.Part, error) {
	if err := c.f.call(); err != nil {
		return nil, err
	}
	return c.CryptoContext.Seal(ctx, plain)
}

func (c *faultyContext) Open(ctx context.Context, parts []msl.Part) ([][]byte, error) {
	if err := c.f.call(); err != nil {
		return nil, err
	}
	return c.CryptoContext.Open(ctx, parts)
}

func (k *faultyKeys) wrap(c msl.CryptoContext, err error) (msl.CryptoContext, error) {
	if err != nil {
		return nil, err
	}
	return &faultyContext{c, k.f}, nil
}

func (k *faultyKeys) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	return k.wrap(k.ClientKeys.EntityContext(ctx, scheme, identity, keyID))
}

func (k *faultyKeys) BeginExchange(ctx context.Context, scheme, mechanism, identity string, previous msl.CryptoContext) (msl.PendingExchange, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	if c, ok := previous.(*faultyContext); ok {
		previous = c.CryptoContext
	}
	p, err := k.ClientKeys.BeginExchange(ctx, scheme, mechanism, identity, previous)
	if err != nil {
		return nil, err
	}
	return &faultyPending{p, k}, nil
}

func (k *faultyKeys) SealSession(ctx context.Context, s msl.CryptoContext) ([]byte, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	return k.ClientKeys.SealSession(ctx, s.(*faultyContext).CryptoContext)
}

func (k *faultyKeys) UnsealSession(ctx context.Context, sealed []byte, t msl.Token) (msl.CryptoContext, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	return k.wrap(k.ClientKeys.UnsealSession(ctx, sealed, t))
}

type faultyPending struct {
	msl.PendingExchange
	k *faultyKeys
}

func (p *faultyPending) Finish(ctx context.Context, keyData []byte, t msl.Token, identity string, sequence int64) (msl.CryptoContext, error) {
	if err := p.k.f.call(); err != nil {
		return nil, err
	}
	return p.k.wrap(p.PendingExchange.Finish(ctx, keyData, t, identity, sequence))
}

// faultyStore and faultyTransport likewise.
type faultyStore struct {
	msl.MemoryStore
	f *faults
}

func (s *faultyStore) Load(ctx context.Context) (*msl.State, error) {
	if err := s.f.call(); err != nil {
		return nil, err
	}
	return s.MemoryStore.Load(ctx)
}

func (s *faultyStore) Save(ctx context.Context, state *msl.State) error {
	if err := s.f.call(); err != nil {
		return err
	}
	return s.MemoryStore.Save(ctx, state)
}

type faultyTransport struct {
	msl.Transport
	f *faults
}

func (t *faultyTransport) Open(ctx context.Context) (msl.Exchange, error) {
	if err := t.f.call(); err != nil {
		return nil, err
	}
	x, err := t.Transport.Open(ctx)
	return &faultyExchange{x, t.f}, err
}

type faultyExchange struct {
	msl.Exchange
	f *faults
}

func (x *faultyExchange) Write(p []byte) (int, error) {
	if err := x.f.call(); err != nil {
		return 0, err
	}
	return x.Exchange.Write(p)
}

func (x *faultyExchange) CloseWrite() error {
	if err := x.f.call(); err != nil {
		return err
	}
	return x.Exchange.CloseWrite()
}

func (x *faultyExchange) Read(p []byte) (int, error) {
	if err := x.f.call(); err != nil {
		return 0, err
	}
	return x.Exchange.Read(p)
}

// TestFailEveryCall fails each call of a client's life in turn: first message, session, renewal, user,
// non-replayable message, restart. After it the next request must succeed, and a token that was good before
// must still be used.
func TestFailEveryCall(t *testing.T) {
	user := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
	for _, stage := range []struct {
		name    string
		entity  msl.EntityAuthData
		prepare func(*world, *msl.Client)
		request msl.Request
		restart bool
		hasMT   bool // a good master token is there before

		exchanges string
	}{
		{name: "first message, PSK", entity: msl.PSK("psk-client"), request: msl.Request{}},
		{name: "first message, RSA", entity: msl.RSA("rsa-client", "rsa-client-key"), request: msl.Request{}},
		{name: "in a session", entity: msl.PSK("psk-client"), request: msl.Request{}, hasMT: true},
		{name: "non-replayable", entity: msl.PSK("psk-client"), request: msl.Request{NonReplayable: true}, hasMT: true},
		{name: "user", entity: msl.PSK("psk-client"), request: user, hasMT: true},
		{name: "renewal", entity: msl.PSK("psk-client"), request: msl.Request{}, hasMT: true,
			prepare: func(w *world, _ *msl.Client) { w.advance(2 * time.Hour) }},
		{name: "renewal by a ladder", entity: msl.PSK("psk-client"), request: msl.Request{}, hasMT: true,
			prepare: func(w *world, _ *msl.Client) { w.advance(2 * time.Hour) }, exchanges: "JWE_LADDER/WRAP JWE_LADDER/PSK"},
		{name: "restart with a ladder", entity: msl.PSK("psk-client"), request: msl.Request{}, hasMT: true, restart: true,
			prepare: func(w *world, _ *msl.Client) { w.advance(2 * time.Hour) }, exchanges: "JWK_LADDER/WRAP JWK_LADDER/PSK"},
		{name: "restart", entity: msl.PSK("psk-client"), request: msl.Request{}, hasMT: true, restart: true},
	} {
		t.Run(stage.name, func(t *testing.T) {
			for n := int64(1); ; n++ {
				f := new(faults)
				w := newWorld(t)
				w.client.Entity, w.client.KeyExchanges = stage.entity, exchangesNamed(stage.exchanges)
				w.newClient(nil).Close() // starts the server
				store := &faultyStore{f: f}
				start := func() *msl.Client {
					c, err := msl.NewClient(w.client, &faultyKeys{inproc.Agent(t), f}, &faultyTransport{w, f}, store)
					if err != nil {
						t.Fatal(err)
					}
					return c
				}
				client := start()
				if stage.hasMT {
					w.mustSay(client, msl.Request{}, "get a token")
				}
				if stage.prepare != nil {
					stage.prepare(w, client)
				}
				if stage.restart {
					client.Close()
					client = start()
				}
				w.count()
				f.arm(n)
				_, _, err := say(client, stage.request, "hello")
				reached := f.calls.Load() >= n
				f.arm(0)
				w.mustSay(client, stage.request, fmt.Sprintf("after call %d failed with %v", n, err))
				for i, request := range w.requests {
					if stage.hasMT && !bytes.Contains(request, []byte(`"mastertoken"`)) {
						t.Errorf("call %d: message %d of those after it has no master token: it was lost", n, i)
					}
				}
				client.Close()
				if !reached {
					if err != nil {
						t.Errorf("without a fault: %v", err)
					}
					if n < 5 {
						t.Errorf("only %d calls were made", n-1)
					}
					return
				}
			}
		})
	}
}

// TestConcurrentRenewal: many goroutines share a client whose token is renewed, rejected and expires under them.
func TestConcurrentRenewal(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newWorld(t)
	policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
	w.config.Policy = policy
	client := w.newClient(nil)
	var workers sync.WaitGroup
	for g := range 16 {
		workers.Go(func() {
			for i := range 20 {
				r := msl.Request{NonReplayable: g%4 == 0}
				if g%4 == 1 {
					r.User, r.Credentials = "me", login("user1@example.com", "pass-1")
				}
				text := fmt.Sprintf("%d of %d", i, g)
				if got, _, err := say(client, r, text); err != nil || got != text {
					t.Errorf("said %q, heard %q: %v", text, got, err)
				}
				switch {
				case g == 2 && i%5 == 4:
					w.advance(2 * time.Hour)
				case g == 3 && i == 10:
					w.advance(30 * time.Hour)
				case g == 6 && i%7 == 6:
					policy.master.Store(uint32(msl.MasterTokenIdentityRevoked))
				}
			}
		})
	}
	workers.Wait()
	client.Close()
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before+2 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines are left over:\n%s", n-before, buf[:runtime.Stack(buf, true)])
	}
}

// TestTamperExchange flips every byte of a request and of an answer. Nothing may come through changed.
func TestTamperExchange(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	w.count()
	w.mustSay(client, msl.Request{NonReplayable: true}, "hello")
	request := w.requests[0]
	var answer bytes.Buffer
	if err := w.server.ServeExchange(t.Context(), bytes.NewReader(request), &answer); !errors.Is(err, msl.MessageReplayed) {
		t.Fatalf("the same request again: %v", err)
	}
	w.count()
	w.mustSay(client, msl.Request{}, "hello")
	request = w.requests[0]
	for i := range request {
		changed := bytes.Clone(request)
		changed[i] ^= 1
		answer.Reset()
		err := w.server.ServeExchange(t.Context(), bytes.NewReader(changed), &answer)
		if err == nil && !sameButSpace(request, changed, i) {
			t.Errorf("byte %d of the request (%q to %q) was changed and nobody noticed", i, request[i], changed[i])
		}
	}
	length := 1
	for i := 0; i < length; i++ {
		w.mangle = func(_ int, answer []byte) []byte {
			length = len(answer)
			changed := bytes.Clone(answer)
			changed[min(i, len(answer)-1)] ^= 1
			return changed
		}
		if got, _, err := say(client, msl.Request{}, "hello"); err == nil {
			t.Errorf("byte %d of the answer was changed and the client heard %q", i, got)
		}
	}
	w.mangle = nil
	w.mustSay(client, msl.Request{}, "afterwards")
}

// sameButSpace reports whether a change is one that the encoding does not see: of a member name that is
// ignored anyway there is none in our messages, so only the unused bits of padded base64 remain.
func sameButSpace(a, b []byte, i int) bool {
	return i+1 < len(a) && a[i+1] == '=' && strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", rune(b[i]))
}

// TestCancel: a request ends when its context does, whatever it waits for.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	ctx, cancel := context.WithCancel(t.Context())
	w.mu.Lock()
	w.meddle = func(_ int, r []byte) ([]byte, error) { cancel(); return r, nil }
	w.mu.Unlock()
	answer, err := client.Do(ctx, &msl.Request{Body: strings.NewReader("x")})
	if err == nil {
		_, err = io.ReadAll(answer)
		answer.Close()
	}
	if err == nil {
		t.Error("a canceled request succeeded")
	}
	w.mu.Lock()
	w.meddle = nil
	w.mu.Unlock()
	w.mustSay(client, msl.Request{}, "afterwards")
}
