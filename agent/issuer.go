// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"sync/atomic"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

// OpenMasterToken is as [msl.TokenOpener] wants it. A token that was opened lately does not travel again:
// its session's handle goes instead.
func (c *Client) OpenMasterToken(ctx context.Context, t msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	const op = "open master token"
	slot := c.opened.slot(t)
	if s := slot.Load(); s != nil && s.of(t) {
		plain, err := s.keys.open(ctx, parts)
		switch {
		case err == nil, errors.Is(err, wire.VerificationFailed):
			return s.session, plain, err
		case !errors.Is(err, wire.StaleHandle):
			return nil, nil, err
		}
	}
	var reply wire.OpenMasterTokenReply
	req := wire.OpenMasterTokenRequest{Token: wire.Token(t), Parts: toWire(nil, parts)}
	if err := c.call(ctx, op, &req, &reply); err != nil {
		return nil, nil, err
	}
	if !reply.Verified {
		return nil, nil, nil
	}
	s := c.session(reply.Session, wire.Token(t), reply.Identity, reply.IssuerData)
	slot.Store(s)
	plain, err := opened(op, len(parts), reply.Plain, reply.FailedPart)
	return s.session, plain, err
}

// openedTokens remembers some of the master tokens that the agent has opened, and their sessions. The
// agent decides how long a session lives; when it does not know a handle any more, the token is opened
// again.
type openedTokens struct {
	seed  maphash.Seed
	slots [256]atomic.Pointer[openedToken]
}

type openedToken struct {
	token   wire.Token
	keys    *keys
	session *msl.Session
}

func (o *openedTokens) slot(t msl.Token) *atomic.Pointer[openedToken] {
	return &o.slots[maphash.Bytes(o.seed, t.Signature)%uint64(len(o.slots))]
}

// of compares tokens to the last byte, signature included.
func (o *openedToken) of(t msl.Token) bool {
	return bytes.Equal(o.token.Data, t.Data) && bytes.Equal(o.token.Signature, t.Signature)
}

// session returns the session of a master token that this side issued.
func (c *Client) session(h wire.Handle, t wire.Token, identity string, issuerData []byte) *openedToken {
	t = cloneToken(t)
	reopen := func(ctx context.Context) (wire.Handle, error) {
		var reply wire.OpenMasterTokenReply
		err := c.caller.Call(ctx, &wire.OpenMasterTokenRequest{Token: t}, &reply)
		if err == nil && !reply.Verified {
			err = errStale // its token keys have gone
		}
		return reply.Session, err
	}
	k := c.keys(h, reopen)
	return &openedToken{t, k, &msl.Session{CryptoContext: k, Identity: identity, IssuerData: issuerData}}
}

// IssueMasterToken is as [msl.TokenIssuer] wants it.
func (c *Client) IssueMasterToken(ctx context.Context, r *msl.IssueRequest) (*msl.Issued, error) {
	const op = "issue master token"
	req := wire.IssueRequest{Scheme: r.Scheme, KeyData: r.KeyData, Identity: r.Identity,
		RenewalWindow: r.RenewalWindow, Expiration: r.Expiration, IssuerData: r.IssuerData}
	var reply wire.IssueReply
	call := func() error {
		reply = wire.IssueReply{}
		return c.caller.Call(ctx, &req, &reply)
	}
	var err error
	identity, issuerData := r.Identity, r.IssuerData
	if req.Record, err = c.recordOf(ctx, r); err != nil {
		return nil, failed(op, err)
	}
	switch {
	case r.Session != nil:
		k, ok := c.own(r.Session.CryptoContext)
		if !ok {
			return nil, foreign(op)
		}
		identity = r.Session.Identity
		if issuerData == nil {
			issuerData = r.Session.IssuerData
		}
		err = k.with(ctx, op, func(h wire.Handle) error {
			req.Session = h
			return call()
		})
	case r.Entity != nil:
		k, ok := c.own(r.Entity)
		if !ok {
			return nil, foreign(op)
		}
		// Not opened again: the agent would demand that the entity authenticates again, too.
		k.mu.Lock()
		req.Entity = k.handle
		k.mu.Unlock()
		err = failed(op, call())
	default:
		err = failed(op, call())
	}
	if err != nil {
		return nil, err
	}
	return &msl.Issued{Token: msl.Token(reply.Token), KeyData: reply.KeyData,
		Session: c.session(reply.Session, reply.Token, identity, issuerData).session}, nil
}

// OpenUserIDToken is as [msl.TokenOpener] wants it.
func (c *Client) OpenUserIDToken(ctx context.Context, t msl.Token) (*msl.UserClaims, error) {
	var reply wire.OpenUserIDTokenReply
	err := c.call(ctx, "open user ID token", &wire.OpenUserIDTokenRequest{Token: wire.Token(t)}, &reply)
	if err != nil || !reply.Verified {
		return nil, err
	}
	return &msl.UserClaims{User: reply.User, IssuerData: reply.IssuerData}, nil
}

// IssueUserIDToken is as [msl.TokenIssuer] wants it.
func (c *Client) IssueUserIDToken(ctx context.Context, s *msl.Session, user string, serial, renewalWindow, expiration int64, issuerData []byte) (msl.Token, error) {
	const op = "issue user ID token"
	if s == nil {
		return msl.Token{}, foreign(op)
	}
	k, ok := c.own(s.CryptoContext)
	if !ok {
		return msl.Token{}, foreign(op)
	}
	var reply wire.IssueUserIDTokenReply
	err := k.with(ctx, op, func(h wire.Handle) error {
		reply = wire.IssueUserIDTokenReply{}
		return c.caller.Call(ctx, &wire.IssueUserIDTokenRequest{Session: h, User: user, SerialNumber: serial,
			RenewalWindow: renewalWindow, Expiration: expiration, IssuerData: issuerData}, &reply)
	})
	return msl.Token(reply.Token), err
}

// OpenServiceToken is as [msl.ServiceTokenKeys] wants it.
func (c *Client) OpenServiceToken(ctx context.Context, keys string, t msl.Token) (data []byte, ok bool, err error) {
	var reply wire.OpenServiceTokenReply
	err = c.call(ctx, "open service token", &wire.OpenServiceTokenRequest{Keys: keys, Token: wire.Token(t)}, &reply)
	if err != nil || !reply.Verified {
		return nil, false, err
	}
	return reply.Data, true, nil
}

// SealServiceToken is as [msl.ServiceTokenKeys] wants it.
func (c *Client) SealServiceToken(ctx context.Context, keys string, claims *msl.ServiceTokenClaims, data []byte) (msl.Token, error) {
	var reply wire.SealServiceTokenReply
	err := c.call(ctx, "seal service token", &wire.SealServiceTokenRequest{
		Keys:                    keys,
		Name:                    claims.Name,
		MasterTokenSerialNumber: claims.MasterTokenSerialNumber,
		UserIDTokenSerialNumber: claims.UserIDTokenSerialNumber,
		Encrypt:                 claims.Encrypted,
		Compression:             claims.Compression,
		Data:                    data,
	}, &reply)
	return msl.Token(reply.Token), err
}
