// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A connWriter gathers small writes to a connection. It holds memory only while something is unsent.
type connWriter struct {
	conn   net.Conn
	buf    []byte
	sent   int64 // bytes that the connection took
	failed error // final
}

func (w *connWriter) Write(p []byte) (int, error) {
	if w.buf == nil && len(p) <= maxBuffered {
		w.buf = buffer(len(p))
	}
	if len(w.buf)+len(p) <= maxBuffered {
		w.buf = append(w.buf, p...)
		return len(p), w.failed
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	return w.send(p)
}

// keep is Write for bytes that are not used elsewhere.
func (w *connWriter) keep(p []byte) error {
	if w.buf == nil && len(p) <= maxBuffered {
		w.buf = p
		return w.failed
	}
	_, err := w.Write(p)
	recycle(p)
	return err
}

// Flush sends what was gathered.
func (w *connWriter) Flush() error {
	if w.buf == nil || w.failed != nil {
		return w.failed
	}
	_, err := w.send(w.buf)
	w.drop()
	return err
}

func (w *connWriter) send(p []byte) (int, error) {
	if w.failed != nil {
		return 0, w.failed
	}
	n, err := w.conn.Write(p)
	w.sent += int64(n)
	w.failed = err
	return n, err
}

// clean reports whether all that was written was sent.
func (w *connWriter) clean() bool { return w.buf == nil && w.failed == nil }

// drop gives back the memory of what was not sent.
func (w *connWriter) drop() {
	if w.buf != nil {
		recycle(w.buf)
		w.buf = nil
	}
}

// idle reports whether the peer has neither closed a connection nor sent anything, as far as that can be seen
// without waiting.
func idle(conn net.Conn) bool {
	switch c := conn.(type) {
	case interface{ Idle() bool }:
		return c.Idle()
	case interface{ NetConn() net.Conn }: // *tls.Conn
		return idle(c.NetConn())
	}
	return nothingToRead(conn)
}

// What a server waits for, where it is not told otherwise.
const (
	connIdle   = 2 * time.Minute
	headerTime = 10 * time.Second // for the rest of a header that has begun
	lingerTime = time.Second
)

// Where a connection stands.
type connPhase uint8

const (
	between  connPhase = iota // messages: there is nothing of the next one yet
	inHeader                  // of a message, or in what precedes it
	inMessage
)

// A patientConn is a connection whose peer is waited for, but not for ever.
type patientConn struct {
	net.Conn
	idle   time.Duration // for the peer's next byte; 0 for ever
	writes time.Duration // for the peer to take what is written

	mu       sync.Mutex
	phase    connPhase
	begun    time.Time // the header
	stopping bool
}

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.wait(); err != nil && err != io.ErrClosedPipe { // which reading a net.Pipe shows
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.phase == between {
			c.phase, c.begun = inHeader, time.Now()
		}
	}
	return n, err
}

// wait sets the deadline for the next byte.
func (c *patientConn) wait() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var deadline time.Time
	switch {
	case c.stopping && c.phase != inMessage:
		return errStopping
	case c.phase == inHeader:
		deadline = c.begun.Add(headerTime)
	case c.idle > 0:
		deadline = time.Now().Add(c.idle)
	}
	return c.Conn.SetReadDeadline(deadline)
}

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.writes)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// next notes that a message has ended, or that one has begun, and reports whether the server is stopping.
func (c *patientConn) next(p connPhase) (stopping bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = p
	return c.stopping
}

var errStopping = errors.New("msl: the server is stopping")

// stop lets the message that has begun be answered, and no other one be read.
func (c *patientConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if c.phase != inMessage {
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// stopped reports whether reading has failed because the server is stopping, or because no message has begun for
// too long, neither of which is anybody's mistake.
func (c *patientConn) stopped(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping || c.phase == between && errors.Is(err, os.ErrDeadlineExceeded)
}

// linger lets the peer read the last message before the connection is closed: closing one on which something is
// unread resets it.
func (c *patientConn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, drainLimit)
	}
}
