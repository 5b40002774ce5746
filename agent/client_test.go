// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

var token = msl.Token{Data: []byte("token"), Signature: []byte("signature")}

func seals(t *testing.T, cc msl.CryptoContext) {
	t.Helper()
	parts, err := cc.Seal(t.Context(), [][]byte{[]byte("a"), []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := cc.Open(t.Context(), parts)
	if err != nil || len(plain) != 2 || string(plain[1]) != "b" {
		t.Fatalf("opened %q, %v", plain, err)
	}
}

func failure(t *testing.T, err error, want msl.Failure) {
	t.Helper()
	e, ok := errors.AsType[msl.FailureError](err)
	if !ok {
		t.Fatalf("%v is not classified", err)
	}
	if got, _ := e.Failure(); got != want {
		t.Errorf("%v is of class %d; want %d", err, got, want)
	}
}

func TestOperations(t *testing.T) {
	f := newFake()
	c := New(wire.Direct{Handler: f})
	ctx := t.Context()

	s, plain, err := c.OpenMasterToken(ctx, token, []msl.Part{{Data: []byte("sealed x")}})
	if err != nil || s.Identity != "device" || string(plain[0]) != "x" {
		t.Fatalf("open master token: %v, %q, %v", s, plain, err)
	}
	seals(t, s)
	if s, _, err := c.OpenMasterToken(ctx, msl.Token{Data: []byte("foreign")}, nil); s != nil || err != nil {
		t.Errorf("a foreign token gives %v, %v", s, err)
	}
	s2, plain, err := c.OpenMasterToken(ctx, token, []msl.Part{{Data: []byte("sealed x")}, {Data: []byte("y")}})
	failure(t, err, msl.VerificationFailed)
	if e, _ := errors.AsType[*Error](err); s2 == nil || len(plain) != 1 || e.Part != 1 {
		t.Errorf("a bad part gives %v, %q, %v", s2, plain, err)
	}
	if _, err = s.Open(ctx, []msl.Part{{Data: []byte("y")}}); err == nil {
		t.Error("a bad part was opened")
	}
	failure(t, err, msl.VerificationFailed)

	entity, err := c.EntityContext(ctx, "PSK", "device", "")
	if err != nil {
		t.Fatal(err)
	}
	seals(t, entity)
	_, err = c.EntityContext(ctx, "PSK", "unknown", "")
	failure(t, err, msl.NoSuchKey)

	for _, r := range []*msl.IssueRequest{{Session: s}, {Entity: entity, Identity: "device"}, {Identity: "device"}} {
		issued, err := c.IssueMasterToken(ctx, r)
		if err != nil || string(issued.Token.Data) != "token" || issued.Session.Identity != "device" {
			t.Fatalf("issue: %+v, %v", issued, err)
		}
		seals(t, issued.Session)
	}
	if u, err := c.OpenUserIDToken(ctx, token); err != nil || u.User != "user" {
		t.Errorf("open user ID token: %v, %v", u, err)
	}
	if tok, err := c.IssueUserIDToken(ctx, s, "user", -1, 1, 2, nil); err != nil || tok.Data == nil {
		t.Errorf("issue user ID token: %v, %v", tok, err)
	}
	if _, ok, err := c.OpenServiceToken(ctx, "other", token); ok || err != nil {
		t.Errorf("open service token: %v, %v", ok, err)
	}
	if data, ok, err := c.OpenServiceToken(ctx, "k", token); string(data) != "data" || !ok || err != nil {
		t.Errorf("open service token: %q, %v, %v", data, ok, err)
	}
	tok, err := c.SealServiceToken(ctx, "k", &msl.ServiceTokenClaims{Name: "n"}, []byte("data"))
	if err != nil || string(tok.Data) != "ndata" {
		t.Errorf("seal service token: %v, %v", tok, err)
	}

	// Contexts of others are refused, and do not panic.
	other := New(wire.Direct{Handler: newFake()})
	for _, cc := range []msl.CryptoContext{nil, (*keys)(nil), (*deviceSession)(nil), struct{ msl.CryptoContext }{}} {
		_, err := c.IssueMasterToken(ctx, &msl.IssueRequest{Session: &msl.Session{CryptoContext: cc}})
		failure(t, err, msl.Malformed)
	}
	_, err = other.IssueUserIDToken(ctx, s, "user", -1, 1, 2, nil)
	failure(t, err, msl.Malformed)
	_, err = c.SealSession(ctx, s)
	failure(t, err, msl.Malformed)
}

func TestAdministration(t *testing.T) {
	c := New(wire.Direct{Handler: newFake()})
	ctx := t.Context()
	if h, err := c.Health(ctx); err != nil || h.Sessions != 3 || len(h.Findings) != 1 || !h.Findings[0].OK {
		t.Errorf("health: %+v, %v", h, err)
	}
	if k, err := c.Keys(ctx, "p"); err != nil || k[0].Name != "p" || k[0].Created.Unix() != 5 || k[0].Opened != 6 {
		t.Errorf("keys: %+v, %v", k, err)
	}
	k, err := c.Keys(ctx, "away")
	if e, ok := errors.AsType[*KeysError](err); !ok || len(e.Failed) != 1 || e.Failed[0].Name != "hsm" || len(k) != 1 {
		t.Errorf("keys of which some are away: %+v, %v", k, err)
	}
	for _, do := range []func() ([]Key, error){
		func() ([]Key, error) { return c.GenerateKey(ctx, "n", "aes-128") },
		func() ([]Key, error) { return c.ImportKey(ctx, "n", "aes-128", "-", "hex") },
		func() ([]Key, error) { return c.RotateKey(ctx, "n") },
	} {
		if k, err := do(); err != nil || k[0].Name != "changed" {
			t.Errorf("change: %+v, %v", k, err)
		}
	}
	if k, der, err := c.PublicKey(ctx, "n", 0); err != nil || k.Name != "n" || string(der) != "der" {
		t.Errorf("public key: %+v, %q, %v", k, der, err)
	}
}

func TestDevice(t *testing.T) {
	f := newFake()
	c := New(wire.Direct{Handler: f})
	ctx := t.Context()
	p, err := c.BeginExchange(ctx, "ASYMMETRIC_WRAPPED", "JWE_RSA", "device", nil)
	if err != nil || string(p.KeyData()) != "request" {
		t.Fatal(p, err)
	}
	s, err := p.Finish(ctx, []byte("response"), token, "device", 1)
	if err != nil {
		t.Fatal(err)
	}
	seals(t, s)
	for range 2 {
		if blob, err := c.SealSession(ctx, s); err != nil || string(blob) != "blob" {
			t.Fatalf("sealed: %q, %v", blob, err)
		}
	}
	if n := f.count(&wire.SealSessionRequest{}); n != 1 {
		t.Errorf("the agent was asked %d times to seal", n)
	}
	p.Discard()
	p.Discard()
	<-f.release
	_, err = p.Finish(ctx, nil, token, "device", 1)
	failure(t, err, msl.Unavailable)
	if s, err = c.UnsealSession(ctx, []byte("blob"), token); err != nil {
		t.Fatal(err)
	}
	seals(t, s)
	_, err = c.UnsealSession(ctx, []byte("another"), token)
	failure(t, err, msl.VerificationFailed)
}

// Whatever the agent has forgotten is opened again, once, however many want it.
func TestStaleHandles(t *testing.T) {
	f := newFake()
	c := New(wire.Direct{Handler: f})
	ctx := t.Context()
	data := bytes.Clone(token.Data)
	server, _, err := c.OpenMasterToken(ctx, msl.Token{Data: data, Signature: token.Signature}, nil)
	if err != nil {
		t.Fatal(err)
	}
	clear(data) // the session must have a copy
	entity, err := c.EntityContext(ctx, "PSK", "device", "")
	if err != nil {
		t.Fatal(err)
	}
	device, err := c.UnsealSession(ctx, []byte("blob"), token)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cc     msl.CryptoContext
		reopen wire.Request
	}{
		{server, &wire.OpenMasterTokenRequest{}},
		{entity, &wire.EntityContextRequest{}},
		{device, &wire.UnsealSessionRequest{}},
	} {
		f.forget()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if _, err := tt.cc.Seal(ctx, [][]byte{[]byte("a")}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := f.count(tt.reopen); n != 1 {
			t.Errorf("%T: asked %d times", tt.reopen, n)
		}
	}
	// It is tried once, and fails as unavailable.
	f.forget()
	f.refuse = wire.Fail(wire.StaleHandle, "")
	_, err = server.Seal(ctx, [][]byte{nil})
	failure(t, err, msl.Unavailable)
	if n := f.count(&wire.OpenMasterTokenRequest{}); n != 1 {
		t.Errorf("tried %d times", n)
	}
	f.refuse = nil
	// A context that ends passes through.
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := server.Seal(ended, nil); err != context.Canceled {
		t.Errorf("canceled: %v", err)
	}
	seals(t, server)

	// An exchange answered under an entity's keys is not, for the entity has to authenticate again.
	f.forget()
	_, err = c.IssueMasterToken(ctx, &msl.IssueRequest{Entity: entity})
	failure(t, err, msl.Unavailable)
	issued, err := c.IssueMasterToken(ctx, &msl.IssueRequest{Session: server})
	if err != nil {
		t.Fatal(err)
	}
	f.forget()
	seals(t, issued.Session)

	// A session that was never sealed is lost.
	p, err := c.BeginExchange(ctx, "", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if device, err = p.Finish(ctx, nil, token, "device", 1); err != nil {
		t.Fatal(err)
	}
	f.forget()
	_, err = device.Seal(ctx, nil)
	failure(t, err, msl.Unavailable)
}
