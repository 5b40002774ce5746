// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

// A deviceSession is the session of a master token that another side issued. Once it was sealed it can
// be opened again.
type deviceSession struct {
	*keys
	token wire.Token

	mu     sync.Mutex
	sealed []byte
}

func (c *Client) deviceSession(h wire.Handle, t wire.Token, sealed []byte) *deviceSession {
	s := &deviceSession{token: cloneToken(t), sealed: sealed}
	s.keys = c.keys(h, func(ctx context.Context) (wire.Handle, error) {
		s.mu.Lock()
		sealed := s.sealed
		s.mu.Unlock()
		if sealed == nil {
			return wire.Handle{}, errStale
		}
		var reply wire.UnsealSessionReply
		err := c.caller.Call(ctx, &wire.UnsealSessionRequest{Sealed: sealed, Token: s.token}, &reply)
		return reply.Session, err
	})
	return s
}

// SealSession is as [msl.SessionSealer] wants it. The client keeps a copy, to open the session again when
// the agent has forgotten it.
func (c *Client) SealSession(ctx context.Context, cc msl.CryptoContext) ([]byte, error) {
	const op = "seal session"
	s, ok := cc.(*deviceSession)
	if !ok || s.c != c {
		return nil, foreign(op)
	}
	s.mu.Lock()
	sealed := s.sealed
	s.mu.Unlock()
	if sealed != nil {
		return bytes.Clone(sealed), nil
	}
	var reply wire.SealSessionReply
	err := s.with(ctx, op, func(h wire.Handle) error {
		reply = wire.SealSessionReply{}
		return c.caller.Call(ctx, &wire.SealSessionRequest{Session: h}, &reply)
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sealed = bytes.Clone(reply.Sealed)
	s.mu.Unlock()
	return reply.Sealed, nil
}

// UnsealSession is as [msl.SessionSealer] wants it.
func (c *Client) UnsealSession(ctx context.Context, sealed []byte, t msl.Token) (msl.CryptoContext, error) {
	var reply wire.UnsealSessionReply
	err := c.call(ctx, "unseal session", &wire.UnsealSessionRequest{Sealed: sealed, Token: wire.Token(t)}, &reply)
	if err != nil {
		return nil, err
	}
	return c.deviceSession(reply.Session, wire.Token(t), bytes.Clone(sealed)), nil
}

// Discard lets the agent wipe the session, which must not be used any more. It does not wait.
func (s *deviceSession) Discard() {
	s.keys.mu.Lock()
	h := s.handle
	s.keys.mu.Unlock()
	s.c.release(h)
}

// release has the agent wipe what a handle names, without waiting for it.
func (c *Client) release(h wire.Handle) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.caller.Call(ctx, &wire.ReleaseRequest{Handles: []wire.Handle{h}}, &wire.ReleaseReply{})
	}()
}

// BeginExchange is as [msl.KeyExchanger] wants it.
func (c *Client) BeginExchange(ctx context.Context, scheme, mechanism, identity string, previous msl.CryptoContext) (msl.PendingExchange, error) {
	const op = "begin key exchange"
	req := &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: mechanism, Identity: identity}
	var reply wire.BeginExchangeReply
	var err error
	if previous == nil {
		err = c.call(ctx, op, req, &reply)
	} else {
		k, ok := c.own(previous)
		if !ok {
			return nil, foreign(op)
		}
		err = k.with(ctx, op, func(h wire.Handle) error {
			req.Session, reply = h, wire.BeginExchangeReply{}
			return c.caller.Call(ctx, req, &reply)
		})
	}
	if err != nil {
		return nil, err
	}
	return &pending{c: c, keyData: reply.KeyData, handle: reply.Pending}, nil
}

// A pending exchange cannot be opened again: its private part is in the agent only.
type pending struct {
	c       *Client
	keyData []byte
	handle  wire.Handle
	discard sync.Once
}

func (p *pending) KeyData() []byte { return p.keyData }

func (p *pending) Finish(ctx context.Context, keyData []byte, t msl.Token, identity string, sequenceNumber int64) (msl.CryptoContext, error) {
	var reply wire.FinishExchangeReply
	err := p.c.call(ctx, "finish key exchange", &wire.FinishExchangeRequest{Pending: p.handle, KeyData: keyData,
		Token: wire.Token(t), Identity: identity, SequenceNumber: sequenceNumber}, &reply)
	if err != nil {
		return nil, err
	}
	return p.c.deviceSession(reply.Session, wire.Token(t), nil), nil
}

// Discard may come to nothing when the agent is down, which has then forgotten the exchange anyway.
func (p *pending) Discard() {
	p.discard.Do(func() { p.c.release(p.handle) })
}
