// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"

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

// A StreamTransport carries messages over connections of any kind, such as TCP, TLS or unix sockets. In a
// trusted services network each message and its answer have a connection of their own; in a peer-to-peer
// network all messages of a request have one.
type StreamTransport struct {
	// Dial connects to the peer.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Open connects.
func (t *StreamTransport) Open(ctx context.Context) (Exchange, error) {
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, fail(MSLCommsFailure, "connection", err)
	}
	x := &streamExchange{ctx: ctx, conn: conn, out: bufio.NewWriterSize(conn, maxBuffered)}
	x.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return x, nil
}

// streamExchange is a connection. A message ends where it says so, so the connection stays open both ways.
type streamExchange struct {
	ctx  context.Context
	conn net.Conn
	out  *bufio.Writer
	stop func() bool
}

func (x *streamExchange) Write(p []byte) (int, error) { return x.out.Write(p) }
func (x *streamExchange) Flush() error                { return x.out.Flush() }
func (x *streamExchange) CloseWrite() error           { return x.out.Flush() }

func (x *streamExchange) Read(p []byte) (int, error) {
	n, err := x.conn.Read(p)
	if err != nil && err != io.EOF && x.ctx.Err() != nil {
		err = x.ctx.Err()
	}
	return n, err
}

func (x *streamExchange) Close() error {
	x.stop()
	return x.conn.Close()
}

// A serverConn is a connection to a peer that sends messages. It is the Exchange of what the server says there.
type serverConn struct {
	server *Server
	in     *mslenc.Decoder
	out    *bufio.Writer
	last   lastSent
}

func (c *serverConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *serverConn) Flush() error                { return c.out.Flush() }
func (c *serverConn) CloseWrite() error           { return c.out.Flush() }
func (c *serverConn) Read([]byte) (int, error)    { return 0, io.ErrClosedPipe } // the decoder does that
func (c *serverConn) Close() error                { return nil }

// ServeConn answers the messages of a connection, one after another, until the peer or ctx ends it, and closes
// it. A message that fails ends it only if it cannot go on. The caller bounds how long a connection may be idle,
// by deadlines.
func (s *Server) ServeConn(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer conn.Close()
	defer stop()
	c := &serverConn{server: s, in: mslenc.NewDecoder(conn, s.config.decoderLimits()), out: bufio.NewWriterSize(conn, maxBuffered)}
	for {
		err := findHeader(c.in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errors.Join(s.refuse(ctx, c, err, nil), c.Flush())
		}
		if s.peers != nil {
			err = s.told(s.exchangePeer(ctx, c))
		} else {
			err = s.serve(ctx, c.in, c)
		}
		if failed := c.Flush(); failed != nil || ctx.Err() != nil || errors.Is(err, errMessageCut) {
			return errors.Join(err, failed, ctx.Err())
		}
	}
}
