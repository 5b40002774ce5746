// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// stale requires that a handle names nothing.
func stale(t *testing.T, p *Peer, h wire.Handle) {
	t.Helper()
	for _, req := range []wire.Request{
		&wire.SealRequest{Context: h, Plain: [][]byte{{1}}},
		&wire.OpenRequest{Context: h, Parts: []wire.Part{{}}},
		&wire.SealSessionRequest{Session: h},
		&wire.IssueUserIDTokenRequest{Session: h},
		&wire.FinishExchangeRequest{Pending: h},
		&wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", Session: h, Entity: h, Identity: "psk-client"},
	} {
		_, err := p.Handle(t.Context(), req)
		if _, issue := req.(*wire.IssueRequest); !errors.Is(err, wire.StaleHandle) && (!issue || h != (wire.Handle{}) || err == nil) {
			t.Errorf("%T: %v", req, err)
		}
		if p.Quick(req) {
			t.Errorf("%T is quick, with a stale handle", req)
		}
	}
}

func live(t *testing.T, p *Peer, h wire.Handle) {
	t.Helper()
	ask[*wire.SealReply](t, p, &wire.SealRequest{Context: h, Plain: [][]byte{{1}}})
}

func TestHandleLimits(t *testing.T) {
	clock := newClock()
	limited := func(t *testing.T, l Limits) (*Peer, wire.Handle) {
		t.Helper()
		a := newAgent(t, func(c *Config) { c.Limits, c.Now = l, clock.Now })
		p := newPeer(t, a)
		issued, _ := exchanged(t, p)
		return p, issued.Session
	}
	t.Run("age", func(t *testing.T) {
		p, h := limited(t, Limits{Age: time.Minute, Idle: time.Hour})
		clock.advance(59 * time.Second)
		live(t, p, h)
		clock.advance(time.Second)
		stale(t, p, h)
	})
	t.Run("idle", func(t *testing.T) {
		p, h := limited(t, Limits{Age: time.Hour, Idle: time.Minute})
		for range 3 {
			clock.advance(59 * time.Second)
			live(t, p, h)
		}
		clock.advance(time.Minute)
		stale(t, p, h)
	})
	t.Run("uses", func(t *testing.T) {
		p, h := limited(t, Limits{Uses: 4})
		for range 4 {
			live(t, p, h)
		}
		stale(t, p, h)
	})
	t.Run("bytes", func(t *testing.T) {
		p, h := limited(t, Limits{Bytes: 100})
		ask[*wire.SealReply](t, p, &wire.SealRequest{Context: h, Plain: [][]byte{make([]byte, 99)}})
		live(t, p, h)
		stale(t, p, h)
	})
	t.Run("count", func(t *testing.T) {
		p, first := limited(t, Limits{Sessions: 4})
		second, _ := exchanged(t, p) // two sessions each
		live(t, p, first)            // no longer the least recently used
		third, _ := exchanged(t, p)
		live(t, p, third.Session)
		live(t, p, first)
		stale(t, p, second.Session)
		if n := p.agent.sessions.Load(); n != 4 {
			t.Errorf("%d sessions", n)
		}
	})
	t.Run("sweep", func(t *testing.T) {
		p, h := limited(t, Limits{Idle: time.Minute})
		e := p.sessions.acquire(h)
		p.sessions.release(e, 0, 0)
		clock.advance(time.Hour)
		p.sweep()
		if e.value.keys.enc.Len() != 0 || p.agent.sessions.Load() != 0 {
			t.Error("a session that nobody asks for is not wiped")
		}
	})
}

func TestHandlesBelongToTheirPeer(t *testing.T) {
	a := newAgent(t, nil)
	p, other := newPeer(t, a), newPeer(t, a)
	issued, finished := exchanged(t, p)
	stale(t, other, issued.Session)
	stale(t, other, finished.Session)
	stale(t, other, authenticated(t, p, "psk-client"))
	stale(t, p, wire.Handle{})
	ask[*wire.ReleaseReply](t, other, &wire.ReleaseRequest{Handles: []wire.Handle{issued.Session}})
	live(t, p, issued.Session)
	ask[*wire.ReleaseReply](t, p, &wire.ReleaseRequest{Handles: []wire.Handle{{}, issued.Session, issued.Session}})
	stale(t, p, issued.Session)
}

// TestEvictionWipes looks at the bytes.
func TestEvictionWipes(t *testing.T) {
	p := newAgent(t, nil).NewPeer()
	issued, finished := exchanged(t, p)
	var held [][]byte
	for _, h := range []wire.Handle{issued.Session, finished.Session} {
		e := p.sessions.acquire(h)
		held = append(held, secret.Reveal(e.value.keys.enc), secret.Reveal(e.value.keys.mac))
		p.sessions.release(e, 0, 0)
	}
	for _, b := range held {
		if bytes.Equal(b, make([]byte, len(b))) {
			t.Fatal("no keys")
		}
	}
	busy := p.sessions.acquire(finished.Session)
	p.Close()
	for i, b := range held {
		if wiped := bytes.Equal(b, make([]byte, len(b))); wiped != (i < 2) {
			t.Errorf("key %d: wiped %v", i, wiped)
		}
	}
	if _, err := busy.value.seal(t.Context(), []byte{1}); err != nil {
		t.Error("a session was wiped in use:", err)
	}
	p.sessions.release(busy, 1, 1)
	for i, b := range held {
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("key %d is not wiped", i)
		}
	}
	if _, err := p.Handle(t.Context(), &wire.OpenMasterTokenRequest{Token: issued.Token}); !errors.Is(err, wire.StaleHandle) {
		t.Error("a closed peer opens a session:", err)
	}
}

// TestEvictWhileSealing is for the race detector, and for sessions that are wiped in use.
func TestEvictWhileSealing(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, _ := exchanged(t, p)
	var wg sync.WaitGroup
	plain := bytes.Repeat([]byte("plain"), 100)
	for range 4 {
		wg.Go(func() {
			for range 300 {
				opened, err := try[*wire.OpenMasterTokenReply](p, &wire.OpenMasterTokenRequest{Token: issued.Token})
				if err != nil {
					t.Error(err)
					return
				}
				sealed, err := try[*wire.SealReply](p, &wire.SealRequest{Context: opened.Session, Plain: [][]byte{plain, plain}})
				if errors.Is(err, wire.StaleHandle) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				back, err := try[*wire.OpenMasterTokenReply](p, &wire.OpenMasterTokenRequest{Token: issued.Token, Parts: sealed.Parts})
				if err != nil || back.FailedPart != -1 || !bytes.Equal(back.Plain[1], plain) {
					t.Error("sealed under other keys", err)
					return
				}
				if _, err := try[*wire.ReleaseReply](p, &wire.ReleaseRequest{Handles: []wire.Handle{opened.Session}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestQuick(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, _ := exchanged(t, p)
	entity := authenticated(t, p, "psk-client")
	for _, x := range []struct {
		req   wire.Request
		quick bool
	}{
		{&wire.SealRequest{Context: issued.Session, Plain: [][]byte{{1}}}, true},
		{&wire.SealRequest{Context: issued.Session, Plain: [][]byte{make([]byte, 15<<10), make([]byte, 2<<10)}}, false},
		{&wire.SealRequest{Context: entity, Plain: [][]byte{{1}}}, false},
		{&wire.OpenRequest{Context: issued.Session}, true},
		{&wire.OpenMasterTokenRequest{Token: issued.Token}, true},
		{&wire.OpenMasterTokenRequest{Token: wire.Token{Data: issued.Token.Data}}, false},
		{&wire.KeysRequest{}, false},
	} {
		if p.Quick(x.req) != x.quick {
			t.Errorf("%T is quick: %v", x.req, !x.quick)
		}
	}
}

// TestCanceled: a caller that gave up gets nothing half done.
func TestCanceled(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, _ := exchanged(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Handle(ctx, &wire.SealRequest{Context: issued.Session, Plain: [][]byte{{1}}})
	if !errors.Is(err, wire.Canceled) {
		t.Error(err)
	}
}
