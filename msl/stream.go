// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// skipLimit is how many bytes of payloads are passed over to find the header of the next message.
const skipLimit = 64 << 20

// findHeader puts d before the next message. Payloads that are left of the one before, which some stacks send
// even after the answer to a handshake (§8.6), are dropped. The error is io.EOF if the stream ends there.
func findHeader(d *mslenc.Decoder) error {
	for skipped := 0; skipped <= skipLimit; {
		o, err := d.NextHeader()
		if err == io.EOF {
			return err
		}
		if err != nil {
			return decoderError(err, "header")
		}
		if !o.Has("payload") {
			d.Unread()
			return nil
		}
		skipped += len(o.Encoding())
	}
	return fail(MSLParseError, "header", mslenc.ErrLimit)
}

// Of a StreamTransport, where its fields are zero.
const (
	defaultMaxIdle     = 256
	defaultIdleTimeout = time.Minute // less than a Server's, which should not be the first to hang up
)

// A StreamTransport carries messages over connections of any kind, such as TCP, TLS, unix sockets or WebSockets. A
// connection carries one exchange at a time; when both messages are complete it is kept for the next one.
//
// A connection that was kept may turn out to be dead. Then the message is sent again on a new one, if nothing of an
// answer has arrived, and it may be replayed (or nothing of it was sent), and its data can be read again.
type StreamTransport struct {
	// Dial connects to the peer. A connection that tells by a method Idle() bool whether its peer has neither
	// closed it nor sent anything, is asked before it is used again. Those of package net, and what crypto/tls makes of
	// them, are looked at anyway.
	Dial func(ctx context.Context) (net.Conn, error)

	// MaxIdle is how many connections are kept at most, and IdleTimeout for how long. Zero means 256, and a
	// minute. With a negative MaxIdle none is kept.
	MaxIdle     int
	IdleTimeout time.Duration

	mu   sync.Mutex
	idle []*streamConn // the one that was used last is at the end
}

// A streamConn is a connection while it is kept and used. One exchange at a time has it.
type streamConn struct {
	net.Conn
	timer *time.Timer // closes it; nil if it was never kept
	in    *mslenc.Decoder

	heard, failed bool // in the present exchange: something was read; nothing can be any more
}

func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.heard, c.failed = c.heard || n > 0, c.failed || err != nil
	return n, err
}

// Open takes a connection that was kept, or makes a new one.
func (t *StreamTransport) Open(ctx context.Context) (Exchange, error) {
	for c := t.take(); c != nil; c = t.take() {
		if idle(c.Conn) {
			c.heard = false
			return begin(ctx, t, c, true), nil
		}
		c.Close()
	}
	return t.open(ctx)
}

// open makes a new connection.
func (t *StreamTransport) open(ctx context.Context) (Exchange, error) {
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, fail(MSLCommsFailure, "connection", err)
	}
	return begin(ctx, t, &streamConn{Conn: conn}, false), nil
}

func (t *StreamTransport) take() *streamConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := len(t.idle) - 1; n >= 0; n-- {
		c := t.idle[n]
		t.idle[n] = nil
		t.idle = t.idle[:n]
		if c.timer.Stop() {
			return c
		}
	}
	return nil
}

// keep takes a connection back, or closes it.
func (t *StreamTransport) keep(c *streamConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.idle) >= orDefault(t.MaxIdle, defaultMaxIdle) {
		c.Close()
		return
	}
	timeout := orDefault(t.IdleTimeout, defaultIdleTimeout)
	if c.timer == nil {
		c.timer = time.AfterFunc(timeout, func() { t.drop(c) })
	} else {
		c.timer.Reset(timeout)
	}
	t.idle = append(t.idle, c)
}

// drop closes a connection whose time is over. If it is not there any more, take has seen that, and leaves it to drop.
func (t *StreamTransport) drop(c *streamConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.idle {
		if other == c {
			t.idle = append(t.idle[:i], t.idle[i+1:]...)
			break
		}
	}
	c.Close()
}

// CloseIdle closes the connections that are kept. Those in use are kept afterwards as ever.
func (t *StreamTransport) CloseIdle() {
	for c := t.take(); c != nil; c = t.take() {
		c.Close()
	}
}

// A streamExchange is the use of a connection for an exchange. A message ends where it says so, so the
// connection stays open both ways.
type streamExchange struct {
	ctx       context.Context
	transport *StreamTransport
	conn      *streamConn
	out       connWriter
	reused    bool
	stop      func() bool
	ended     sync.Once // by release or Close
}

func begin(ctx context.Context, t *StreamTransport, c *streamConn, reused bool) *streamExchange {
	x := &streamExchange{ctx: ctx, transport: t, conn: c, out: connWriter{conn: c.Conn}, reused: reused}
	x.stop = context.AfterFunc(ctx, func() { c.Close() })
	return x
}

func (x *streamExchange) Write(p []byte) (int, error) { return x.out.Write(p) }
func (x *streamExchange) keep(p []byte) error         { return x.out.keep(p) }
func (x *streamExchange) Flush() error                { return x.out.Flush() }
func (x *streamExchange) CloseWrite() error           { return x.out.Flush() }

func (x *streamExchange) Read(p []byte) (int, error) {
	n, err := x.conn.Read(p)
	if err != nil && x.ctx.Err() != nil {
		err = x.ctx.Err()
	}
	return n, err
}

// decoder returns what reads the connection, which may have read ahead (§1.6).
func (x *streamExchange) decoder(l mslenc.Limits) *mslenc.Decoder {
	if x.conn.in == nil {
		x.conn.in = mslenc.NewDecoder(x.conn, l)
	}
	return x.conn.in
}

// lost reports whether a connection that was kept has failed before anything of an answer came; unsent, whether nothing of
// the request went out either. Both are for when the exchange has failed, and nobody writes any more.
func (x *streamExchange) lost() (lost, unsent bool) {
	return x.reused && !x.conn.heard && (x.conn.failed || x.out.failed != nil), x.out.sent == 0
}

// abort gives the exchange up. If writing has failed, the peer has hung up, perhaps after telling why, which reading
// will show.
func (x *streamExchange) abort() {
	if x.out.failed == nil {
		x.Close()
	}
}

// release gives back a connection on which both messages are complete.
func (x *streamExchange) release() {
	x.ended.Do(func() {
		if x.stop() && x.out.clean() && x.conn.in != nil && x.conn.in.Clean() {
			x.transport.keep(x.conn)
		} else {
			x.conn.Close()
		}
	})
}

func (x *streamExchange) Close() (err error) {
	x.ended.Do(func() {
		x.stop()
		err = x.conn.Close()
	})
	return err
}
