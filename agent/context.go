// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

// A keys is a msl.CryptoContext: a handle of the agent's, and how to get a new one.
type keys struct {
	c      *Client
	reopen func(context.Context) (wire.Handle, error)

	opening chan struct{} // holds a value while someone opens it again

	mu       sync.Mutex // guards these
	handle   wire.Handle
	attempts int   // to open it again, so far
	err      error // of the last one
}

func (c *Client) keys(h wire.Handle, reopen func(context.Context) (wire.Handle, error)) *keys {
	return &keys{c: c, reopen: reopen, handle: h, opening: make(chan struct{}, 1)}
}

// with calls do with the handle. If the agent does not know it any more, since it has evicted what it
// named or was started anew, it is opened again and do called once more.
func (k *keys) with(ctx context.Context, op string, do func(wire.Handle) error) error {
	k.mu.Lock()
	h, seen := k.handle, k.attempts
	k.mu.Unlock()
	err := do(h)
	if err == nil || !errors.Is(err, wire.StaleHandle) {
		return failed(op, err)
	}
	h, err = k.again(ctx, h, seen)
	if err != nil {
		return failed(op, err)
	}
	return failed(op, do(h))
}

// again returns a handle other than stale. Of many that come at once, one asks the agent, and all take
// what it gets.
func (k *keys) again(ctx context.Context, stale wire.Handle, seen int) (wire.Handle, error) {
	select {
	case k.opening <- struct{}{}:
		defer func() { <-k.opening }()
	case <-ctx.Done():
		return wire.Handle{}, ctx.Err()
	}
	k.mu.Lock()
	h, attempts, err := k.handle, k.attempts, k.err
	k.mu.Unlock()
	switch {
	case h != stale:
		return h, nil
	case attempts != seen && err != nil:
		return wire.Handle{}, err
	}
	h, err = k.reopen(ctx)
	if err != nil && ctx.Err() != nil { // says nothing to others
		return wire.Handle{}, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attempts++
	k.err = err
	if err == nil {
		k.handle = h
	}
	return h, err
}

// Seal is as msl.CryptoContext wants it.
func (k *keys) Seal(ctx context.Context, plain [][]byte) ([]msl.Part, error) {
	return k.SealInto(ctx, nil, plain)
}

// SealInto is Seal with small parts in the memory of buf, if that is large enough for all of them.
func (k *keys) SealInto(ctx context.Context, buf []byte, plain [][]byte) ([]msl.Part, error) {
	const op = "seal"
	c := sealCalls.Get().(*sealCall)
	defer c.giveBack()
	c.req.Plain = plain
	err := k.with(ctx, op, func(h wire.Handle) error {
		c.req.Context = h
		c.reply = wire.SealReply{Parts: c.parts[:0]}
		return k.c.callInto(ctx, buf, &c.req, &c.reply)
	})
	if err != nil {
		return nil, err
	}
	if len(c.reply.Parts) != len(plain) {
		return nil, badReply(op)
	}
	parts := make([]msl.Part, len(plain))
	for i, p := range c.reply.Parts {
		parts[i] = msl.Part(p)
	}
	return parts, nil
}

// A sealCall is the memory of a call, which is used again.
type sealCall struct {
	req   wire.SealRequest
	reply wire.SealReply
	parts [2]wire.Part
}

var sealCalls = sync.Pool{New: func() any { return new(sealCall) }}

func (c *sealCall) giveBack() {
	*c = sealCall{}
	sealCalls.Put(c)
}

// Open is as msl.CryptoContext wants it.
func (k *keys) Open(ctx context.Context, parts []msl.Part) (plain [][]byte, err error) {
	const op = "open"
	c := newOpenCall(parts)
	defer c.giveBack()
	err = k.with(ctx, op, func(h wire.Handle) error { return c.call(ctx, k.c, h) })
	if err != nil {
		return nil, err
	}
	return opened(op, len(parts), c.reply.Plain, c.reply.FailedPart)
}

// open is Open without a second attempt: a handle that the agent does not know is [wire.StaleHandle].
func (k *keys) open(ctx context.Context, parts []msl.Part) ([][]byte, error) {
	const op = "open"
	k.mu.Lock()
	h := k.handle
	k.mu.Unlock()
	c := newOpenCall(parts)
	defer c.giveBack()
	if err := failed(op, c.call(ctx, k.c, h)); err != nil {
		return nil, err
	}
	return opened(op, len(parts), c.reply.Plain, c.reply.FailedPart)
}

// An openCall is the memory of a call, which is used again.
type openCall struct {
	req   wire.OpenRequest
	reply wire.OpenReply
	parts [4]wire.Part
}

var openCalls = sync.Pool{New: func() any { return new(openCall) }}

func newOpenCall(parts []msl.Part) *openCall {
	c := openCalls.Get().(*openCall)
	c.req.Parts = toWire(c.parts[:0], parts)
	return c
}

func (c *openCall) call(ctx context.Context, to *Client, h wire.Handle) error {
	c.req.Context, c.reply = h, wire.OpenReply{}
	return to.caller.Call(ctx, &c.req, &c.reply)
}

func (c *openCall) giveBack() {
	*c = openCall{}
	openCalls.Put(c)
}

// Recycle takes back memory of large parts that Seal or Open has returned, and the caller needs no more.
func (k *keys) Recycle(part []byte) { wire.Recycle(part) }

// toWire appends parts to dst.
func toWire(dst []wire.Part, parts []msl.Part) []wire.Part {
	for _, p := range parts {
		dst = append(dst, wire.Part(p))
	}
	return dst
}

// opened checks what the agent says that it has opened of n parts.
func opened(op string, n int, plain [][]byte, failed int32) ([][]byte, error) {
	switch {
	case failed == -1 && len(plain) == n:
		return plain, nil
	case failed >= 0 && int(failed) < n && len(plain) == int(failed):
		return plain, badPart(op, failed)
	}
	return nil, badReply(op)
}

// EntityContext is as [msl.EntityKeys] wants it. The agent lets go of the context when it likes.
func (c *Client) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	reopen := func(ctx context.Context) (wire.Handle, error) {
		record, err := c.record(ctx, scheme, identity)
		if err != nil {
			return wire.Handle{}, err
		}
		var reply wire.EntityContextReply
		err = c.caller.Call(ctx, &wire.EntityContextRequest{Scheme: scheme, Identity: identity, KeyID: keyID, Record: record}, &reply)
		return reply.Context, err
	}
	h, err := reopen(ctx)
	if err != nil {
		return nil, failed("entity context", err)
	}
	return c.keys(h, reopen), nil
}

// own returns the keys behind a context that this client has made.
func (c *Client) own(cc msl.CryptoContext) (*keys, bool) {
	switch k := cc.(type) {
	case *keys:
		return k, k != nil && k.c == c
	case *deviceSession:
		if k != nil && k.keys.c == c {
			return k.keys, true
		}
	}
	return nil, false
}

func cloneToken(t wire.Token) wire.Token {
	return wire.Token{Data: bytes.Clone(t.Data), Signature: bytes.Clone(t.Signature)}
}
