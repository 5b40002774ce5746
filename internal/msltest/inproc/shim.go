// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package inproc

// TEMPORARY, not committed: stands in for package agent until it is there.

import (
	"context"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

type shim struct{ call wire.Direct }
type failure struct{ e *wire.Error }

func (f failure) Error() string { return f.e.Error() }

func (f failure) Failure() (msl.Failure, int) {
	m := map[wire.Code]msl.Failure{wire.NoSuchKey: msl.NoSuchKey, wire.NotSupported: msl.NotSupported, wire.Denied: msl.Denied, wire.Malformed: msl.Malformed, wire.VerificationFailed: msl.VerificationFailed}
	if c, ok := m[f.e.Code]; ok {
		return c, int(f.e.MSL)
	}
	return msl.Unavailable, -1
}
func (s *shim) do(ctx context.Context, q wire.Request, r wire.Reply) error {
	err := s.call.Call(ctx, q, r)
	if e, ok := err.(*wire.Error); ok {
		return failure{e}
	}
	return err
}

type sctx struct {
	s *shim
	h wire.Handle
}

func (c *sctx) Seal(ctx context.Context, plain [][]byte) ([]msl.Part, error) {
	var r wire.SealReply
	if err := c.s.do(ctx, &wire.SealRequest{Context: c.h, Plain: plain}, &r); err != nil {
		return nil, err
	}
	var out []msl.Part
	for _, p := range r.Parts {
		out = append(out, msl.Part(p))
	}
	return out, nil
}
func wparts(parts []msl.Part) (o []wire.Part) {
	for _, p := range parts {
		o = append(o, wire.Part(p))
	}
	return
}
func partErr(plain [][]byte, failed int32) ([][]byte, error) {
	if failed >= 0 {
		return plain, failure{wire.Fail(wire.VerificationFailed, "part")}
	}
	return plain, nil
}
func (c *sctx) Open(ctx context.Context, parts []msl.Part) ([][]byte, error) {
	var r wire.OpenReply
	if err := c.s.do(ctx, &wire.OpenRequest{Context: c.h, Parts: wparts(parts)}, &r); err != nil {
		return nil, err
	}
	return partErr(r.Plain, r.FailedPart)
}
func (s *shim) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	var r wire.EntityContextReply
	if err := s.do(ctx, &wire.EntityContextRequest{Scheme: scheme, Identity: identity, KeyID: keyID}, &r); err != nil {
		return nil, err
	}
	return &sctx{s, r.Context}, nil
}
func (s *shim) OpenMasterToken(ctx context.Context, t msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	var r wire.OpenMasterTokenReply
	if err := s.do(ctx, &wire.OpenMasterTokenRequest{Token: wire.Token(t), Parts: wparts(parts)}, &r); err != nil {
		return nil, nil, err
	}
	if !r.Verified {
		return nil, nil, nil
	}
	plain, err := partErr(r.Plain, r.FailedPart)
	return &msl.Session{CryptoContext: &sctx{s, r.Session}, Identity: r.Identity, IssuerData: r.IssuerData}, plain, err
}
func (s *shim) OpenUserIDToken(ctx context.Context, t msl.Token) (*msl.UserClaims, error) {
	var r wire.OpenUserIDTokenReply
	if err := s.do(ctx, &wire.OpenUserIDTokenRequest{Token: wire.Token(t)}, &r); err != nil || !r.Verified {
		return nil, err
	}
	return &msl.UserClaims{User: r.User, IssuerData: r.IssuerData}, nil
}
func (s *shim) IssueMasterToken(ctx context.Context, q *msl.IssueRequest) (*msl.Issued, error) {
	w := &wire.IssueRequest{Scheme: q.Scheme, KeyData: q.KeyData, Identity: q.Identity, RenewalWindow: q.RenewalWindow, Expiration: q.Expiration, IssuerData: q.IssuerData}
	if q.Session != nil {
		w.Session = q.Session.CryptoContext.(*sctx).h
	}
	if c, ok := q.Entity.(*sctx); ok {
		w.Entity = c.h
	}
	var r wire.IssueReply
	if err := s.do(ctx, w, &r); err != nil {
		return nil, err
	}
	return &msl.Issued{Token: msl.Token(r.Token), KeyData: r.KeyData, Session: &msl.Session{CryptoContext: &sctx{s, r.Session}, Identity: q.Identity}}, nil
}
func (s *shim) IssueUserIDToken(ctx context.Context, se *msl.Session, user string, serial, renewalWindow, expiration int64, issuerData []byte) (msl.Token, error) {
	var r wire.IssueUserIDTokenReply
	err := s.do(ctx, &wire.IssueUserIDTokenRequest{Session: se.CryptoContext.(*sctx).h, User: user, SerialNumber: serial, RenewalWindow: renewalWindow, Expiration: expiration, IssuerData: issuerData}, &r)
	return msl.Token(r.Token), err
}
func (s *shim) OpenServiceToken(ctx context.Context, keys string, t msl.Token) ([]byte, bool, error) {
	var r wire.OpenServiceTokenReply
	err := s.do(ctx, &wire.OpenServiceTokenRequest{Keys: keys, Token: wire.Token(t)}, &r)
	return r.Data, r.Verified, err
}
func (s *shim) SealServiceToken(ctx context.Context, keys string, c *msl.ServiceTokenClaims, data []byte) (msl.Token, error) {
	var r wire.SealServiceTokenReply
	err := s.do(ctx, &wire.SealServiceTokenRequest{Keys: keys, Name: c.Name, MasterTokenSerialNumber: c.MasterTokenSerialNumber, UserIDTokenSerialNumber: c.UserIDTokenSerialNumber, Encrypt: c.Encrypted, Compression: c.Compression, Data: data}, &r)
	return msl.Token(r.Token), err
}

type spending struct {
	s    *shim
	h    wire.Handle
	data []byte
}

func (p *spending) KeyData() []byte { return p.data }
func (p *spending) Discard() {
	p.s.do(context.Background(), &wire.ReleaseRequest{Handles: []wire.Handle{p.h}}, new(wire.ReleaseReply))
}
func (p *spending) Finish(ctx context.Context, keyData []byte, t msl.Token, identity string, n int64) (msl.CryptoContext, error) {
	var r wire.FinishExchangeReply
	if err := p.s.do(ctx, &wire.FinishExchangeRequest{Pending: p.h, KeyData: keyData, Token: wire.Token(t), Identity: identity, SequenceNumber: n}, &r); err != nil {
		return nil, err
	}
	return &sctx{p.s, r.Session}, nil
}
func (s *shim) BeginExchange(ctx context.Context, scheme, mechanism, identity string) (msl.PendingExchange, error) {
	var r wire.BeginExchangeReply
	if err := s.do(ctx, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: mechanism, Identity: identity}, &r); err != nil {
		return nil, err
	}
	return &spending{s, r.Pending, r.KeyData}, nil
}
func (s *shim) SealSession(ctx context.Context, c msl.CryptoContext) ([]byte, error) {
	var r wire.SealSessionReply
	err := s.do(ctx, &wire.SealSessionRequest{Session: c.(*sctx).h}, &r)
	return r.Sealed, err
}
func (s *shim) UnsealSession(ctx context.Context, sealed []byte, t msl.Token) (msl.CryptoContext, error) {
	var r wire.UnsealSessionReply
	if err := s.do(ctx, &wire.UnsealSessionRequest{Sealed: sealed, Token: wire.Token(t)}, &r); err != nil {
		return nil, err
	}
	return &sctx{s, r.Session}, nil
}

// Agent is the agent of a test.
func Agent(t testing.TB) *shim { return withKeys(t, nil) }

func withKeys(t testing.TB, extra map[string]KeySet) *shim {
	p := newEngine(t, extra).NewPeer()
	t.Cleanup(p.Close)
	return &shim{wire.Direct{Handler: p}}
}
