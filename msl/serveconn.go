// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// Of a Server, where its fields are zero.
const (
	defaultConns = 4096
	defaultGrace = 10 * time.Second
)

// A serverConn is a connection to a peer that sends messages. It is the Exchange of what the server says there.
type serverConn struct {
	server *Server
	conn   *patientConn
	in     *mslenc.Decoder
	out    connWriter
	last   lastSent
}

func (c *serverConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *serverConn) keep(p []byte) error         { return c.out.keep(p) }
func (c *serverConn) Flush() error                { return c.out.Flush() }
func (c *serverConn) CloseWrite() error           { return c.out.Flush() }
func (c *serverConn) Read([]byte) (int, error)    { return 0, io.ErrClosedPipe } // the decoder does that
func (c *serverConn) Close() error                { return nil }

func (s *Server) newConn(conn net.Conn) *serverConn {
	idle := orDefault(s.IdleTimeout, connIdle)
	p := &patientConn{Conn: conn, idle: idle, writes: idle}
	if k, ok := conn.(interface{ KeepsAlive() bool }); ok && k.KeepsAlive() {
		p.idle = 0
	}
	return &serverConn{server: s, conn: p, in: mslenc.NewDecoder(p, s.config.decoderLimits()), out: connWriter{conn: p}}
}

// ServeConn answers the messages of a connection, one after another, and closes it. A message that fails ends it
// only if it is not clear where the next one begins. The peer may be silent for s.IdleTimeout, unless the
// connection tells by a method KeepsAlive() bool that it looks after its peer itself.
//
// When ctx ends, the message that has begun is answered, for which there is s.Grace, and no other one. The context of
// its handler has the values of ctx, and ends after that. The error says what ended the connection, or is nil if the peer or ctx did.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) (err error) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer conn.Close()
	c := s.newConn(conn)
	defer context.AfterFunc(work, func() { conn.Close() })()
	defer context.AfterFunc(ctx, func() {
		c.conn.stop()
		select {
		case <-time.After(orDefault(s.Grace, defaultGrace)):
			cancel()
		case <-work.Done():
		}
	})()
	defer func() {
		if v := recover(); v != nil { // as net/http does
			err = s.told(panicked(v))
		}
	}()
	return c.serve(work)
}

// panicked says what happened, but not the value of a panic, which may hold data.
func panicked(v any) error {
	what := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	return fmt.Errorf("msl: a handler has panicked: %s\n%s", what, debug.Stack())
}

func (c *serverConn) serve(ctx context.Context) error {
	var failed error
	for {
		if c.conn.next(between) {
			return nil
		}
		if err := findHeader(c.in); err != nil {
			return c.ended(ctx, err, failed != nil)
		}
		c.conn.next(inMessage)
		failed = c.exchange(ctx)
		if err := c.out.Flush(); err != nil || ctx.Err() != nil || errors.Is(failed, errMessageCut) || errors.Is(failed, errOutOfStep) {
			return errors.Join(failed, err, ctx.Err())
		}
	}
}

func (c *serverConn) exchange(ctx context.Context) error {
	if c.server.peers != nil {
		return c.server.told(c.server.exchangePeer(ctx, c))
	}
	return c.server.serve(ctx, c.in, c)
}

// ended tells the peer why nothing more is read from it, if that is its doing and it was not told before.
func (c *serverConn) ended(ctx context.Context, err error, told bool) error {
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == io.EOF || c.conn.stopped(err):
		return nil
	case told || !ok || e.Code == MSLCommsFailure:
	default:
		err = errors.Join(c.server.told(c.server.refuse(ctx, c, err, nil)), c.Flush())
	}
	c.conn.linger()
	return err
}

// Serve serves the connections that l accepts, s.MaxConns at a time, until ctx ends, and then waits for the
// last one. It closes l. If accepting fails it returns why, when all connections have ended as if ctx had.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	slots := make(chan struct{}, max(1, orDefault(s.MaxConns, defaultConns)))
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := accept(ctx, l)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		conns.Go(func() {
			defer func() { <-slots }()
			_ = s.ServeConn(ctx, conn) // s.Failed was told
		})
	}
}

// accept waits for a connection, also while the system has no room for one.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := l.Accept()
		switch {
		case err == nil && ctx.Err() != nil:
			conn.Close()
			return nil, ctx.Err()
		case !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ECONNABORTED):
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
