// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A countedProvider counts the calls of a provider and its keys, and fails one of them.
type countedProvider struct {
	providers.Provider
	operations atomic.Int64 // on keys
	calls      atomic.Int64
	failAt     atomic.Int64 // number of the call that fails; 0: none
	code       atomic.Int64
}

func (p *countedProvider) call() error {
	if n := p.calls.Add(1); n == p.failAt.Load() {
		return &providers.Error{Code: providers.Code(p.code.Load()), Op: "failing"}
	}
	return nil
}

func (p *countedProvider) operation() error {
	p.operations.Add(1)
	return p.call()
}

func (p *countedProvider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	if err := p.call(); err != nil {
		return nil, err
	}
	key, err := p.Provider.Open(ctx, name, version)
	if err != nil {
		return nil, err
	}
	switch key.(type) {
	case providers.MACer:
		return countedMAC{key, p}, nil
	case providers.Encrypter:
		return countedAES{key, p}, nil
	}
	return key, nil
}

type countedMAC struct {
	providers.Key
	p *countedProvider
}

func (k countedMAC) MAC(ctx context.Context, message []byte) ([]byte, error) {
	if err := k.p.operation(); err != nil {
		return nil, err
	}
	return k.Key.(providers.MACer).MAC(ctx, message)
}

func (k countedMAC) VerifyMAC(ctx context.Context, message, mac []byte) error {
	if err := k.p.operation(); err != nil {
		return err
	}
	return k.Key.(providers.MACVerifier).VerifyMAC(ctx, message, mac)
}

type countedAES struct {
	providers.Key
	p *countedProvider
}

func (k countedAES) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	if err := k.p.operation(); err != nil {
		return nil, err
	}
	return k.Key.(providers.Encrypter).Encrypt(ctx, m, iv, plaintext, aad)
}

func (k countedAES) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	if err := k.p.operation(); err != nil {
		return nil, err
	}
	return k.Key.(providers.Decrypter).Decrypt(ctx, m, iv, ciphertext, aad)
}

func (k countedAES) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	if err := k.p.operation(); err != nil {
		return nil, err
	}
	return k.Key.(providers.Wrapper).Wrap(ctx, key)
}

func (k countedAES) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	if err := k.p.operation(); err != nil {
		return nil, err
	}
	return k.Key.(providers.Unwrapper).Unwrap(ctx, wrapped)
}

// TestProviderIsAskedOncePerToken: however many messages carry a token.
func TestProviderIsAskedOncePerToken(t *testing.T) {
	counted := &countedProvider{Provider: fixtureProvider(t)}
	a := newAgent(t, func(c *Config) { c.Provider = counted })
	issued, _ := exchanged(t, newPeer(t, a))
	p := newPeer(t, a)
	user := ask[*wire.IssueUserIDTokenReply](t, p, &wire.IssueUserIDTokenRequest{
		Session: ask[*wire.OpenMasterTokenReply](t, p, &wire.OpenMasterTokenRequest{Token: issued.Token}).Session,
		User:    "user1", SerialNumber: -1, RenewalWindow: 1, Expiration: 2})
	p = newPeer(t, a)
	counted.operations.Store(0)
	handles := make(chan wire.Handle)
	const messages = 50
	for range messages {
		go func() {
			r, err := try[*wire.OpenMasterTokenReply](p, &wire.OpenMasterTokenRequest{Token: issued.Token})
			if err != nil {
				t.Error(err)
				handles <- wire.Handle{}
				return
			}
			handles <- r.Session
		}()
	}
	first := <-handles
	for range messages - 1 {
		if h := <-handles; h != first {
			t.Error("the same token has two handles")
		}
	}
	if n := counted.operations.Load(); n != 2 { // verify, decrypt
		t.Errorf("the provider was asked for %d operations", n)
	}
	for range 10 {
		if r := ask[*wire.OpenUserIDTokenReply](t, p, &wire.OpenUserIDTokenRequest{Token: user.Token}); r.User != "user1" {
			t.Error("another user")
		}
	}
	if n := counted.operations.Load(); n != 4 {
		t.Errorf("the provider was asked for %d operations", n)
	}
}

// everyOperation does all that needs the provider, and stops at the first error.
func everyOperation(p *Peer) error {
	var err error
	check := func(r wire.Reply, e error) wire.Reply {
		if err == nil {
			err = e
		}
		return r
	}
	do := func(req wire.Request) wire.Reply {
		if err != nil {
			return nil
		}
		return check(p.Handle(context.Background(), req))
	}
	steps := func() {
		entity := do(&wire.EntityContextRequest{Scheme: "PSK", Identity: "psk-client"}).(*wire.EntityContextReply)
		sealed := do(&wire.SealRequest{Context: entity.Context, Plain: [][]byte{{1}, {2}}}).(*wire.SealReply)
		opened := do(&wire.OpenRequest{Context: entity.Context, Parts: sealed.Parts}).(*wire.OpenReply)
		if opened.FailedPart != -1 {
			err = errors.New("a good part did not open")
			return
		}
		begun := do(&wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "psk-client"}).(*wire.BeginExchangeReply)
		issued := do(&wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: begun.KeyData, Entity: entity.Context, Expiration: 1}).(*wire.IssueReply)
		finished := do(&wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token}).(*wire.FinishExchangeReply)
		for _, mechanism := range []string{"PSK", "WRAP"} {
			req := &wire.BeginExchangeRequest{Scheme: "JWE_LADDER", Mechanism: mechanism, Identity: "psk-client"}
			if mechanism == "WRAP" {
				req.Session = finished.Session
			}
			begun = do(req).(*wire.BeginExchangeReply)
			issued = do(&wire.IssueRequest{Scheme: "JWE_LADDER", KeyData: begun.KeyData, Session: issued.Session, Expiration: 1}).(*wire.IssueReply)
			finished = do(&wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token}).(*wire.FinishExchangeReply)
		}
		stored := do(&wire.SealSessionRequest{Session: finished.Session}).(*wire.SealSessionReply)
		do(&wire.UnsealSessionRequest{Sealed: stored.Sealed, Token: issued.Token})
		do(&wire.ReleaseRequest{Handles: []wire.Handle{issued.Session}})
		token := do(&wire.OpenMasterTokenRequest{Token: issued.Token}).(*wire.OpenMasterTokenReply)
		if !token.Verified {
			err = errors.New("a good token did not verify")
			return
		}
		user := do(&wire.IssueUserIDTokenRequest{Session: token.Session, User: "user1", SerialNumber: 5, Expiration: 1}).(*wire.IssueUserIDTokenReply)
		do(&wire.OpenUserIDTokenRequest{Token: user.Token})
		service := do(&wire.SealServiceTokenRequest{Name: "n", MasterTokenSerialNumber: -1, UserIDTokenSerialNumber: -1, Encrypt: true, Data: []byte("data")}).(*wire.SealServiceTokenReply)
		do(&wire.OpenServiceTokenRequest{Token: service.Token})
		do(&wire.HealthRequest{})
		do(&wire.PublicKeyRequest{Name: "rsa/rsa-server-key"})
	}
	func() {
		defer func() {
			if r := recover(); r != nil && err == nil { // a nil reply after an error, and nothing else
				panic(r)
			}
		}()
		steps()
	}()
	return err
}

// TestEveryCallFails fails each call to the provider in turn.
func TestEveryCallFails(t *testing.T) {
	wanted := map[providers.Code]wire.Code{
		providers.Transient: wire.Transient, providers.Device: wire.Device, providers.Denied: wire.Denied,
		providers.Locked: wire.Device, providers.NotSupported: wire.NotSupported,
	}
	software := fixtureProvider(t)
	clock := newClock()
	for code, want := range wanted {
		counted := &countedProvider{Provider: software}
		a := newAgent(t, func(c *Config) { c.Provider, c.Now = counted, clock.Now })
		counted.code.Store(int64(code))
		failures := 0
		for n := int64(1); ; n++ {
			a.ring.forget()
			p := a.NewPeer()
			counted.calls.Store(0)
			counted.failAt.Store(n)
			err := everyOperation(p)
			if counted.calls.Load() < n {
				p.Close()
				break
			}
			counted.failAt.Store(0)
			if err != nil {
				failures++
				if e, ok := err.(*wire.Error); !ok || e.Code != want {
					t.Errorf("%v at call %d: %v", code, n, err)
				}
			}
			if err := everyOperation(p); err != nil {
				t.Errorf("%v at call %d, afterwards: %v", code, n, err)
			}
			p.Close()
		}
		if failures < 20 {
			t.Errorf("%v: only %d calls mattered", code, failures)
		}
		if a.sessions.Load() != 0 || a.entities.Load() != 0 || a.pendings.Load() != 0 {
			t.Errorf("%v: %d sessions, %d entities and %d exchanges are left", code, a.sessions.Load(), a.entities.Load(), a.pendings.Load())
		}
	}
}
