// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// errReset is what a connection fails with that was cut.
var errReset = errors.New("simulated: connection reset")

// A flow is one direction of a connection.
type flow struct {
	mu       sync.Mutex
	data     []byte
	end      error // after data
	deadline time.Time
	changed  chan struct{} // of one that waits
}

func newFlow() *flow { return &flow{changed: make(chan struct{}, 1)} }

func (f *flow) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *flow) add(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == nil {
		f.data = append(f.data, p...)
		f.wake()
	}
}

func (f *flow) finish(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == nil {
		f.end = err
		f.wake()
	}
}

func (f *flow) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.end != nil
}

func (f *flow) read(p []byte) (int, error) {
	for {
		f.mu.Lock()
		n, end, deadline := copy(p, f.data), f.end, f.deadline
		f.data = f.data[n:]
		f.mu.Unlock()
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if end != nil {
			return 0, end
		}
		var late <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-f.changed:
		case <-late:
		}
	}
}

// A conn is one end of a connection between a client and a server.
type conn struct {
	sim      *simulation
	label    string
	in, out  *flow
	recorded *bytes.Buffer // what was written, or nil
}

// connect makes a connection to a server.
func (v *server) connect(ctx context.Context, label string) (net.Conn, error) {
	if f := v.sim.wait(label+" dial", atDial); f.what != nothing {
		return nil, &errSimulated{"connecting"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	there, back := newFlow(), newFlow()
	near := &conn{v.sim, label + " >", back, there, new(bytes.Buffer)}
	v.serve(label+" served", &conn{v.sim, label + " <", there, back, nil})
	return near, nil
}

func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

func (c *conn) Write(p []byte) (int, error) {
	f := c.sim.wait(c.label, atWrite)
	if c.out.ended() {
		return 0, errReset
	}
	switch f.what {
	case failure:
		c.reset()
		return 0, errReset
	case loss:
		c.reset()
		return len(p), nil
	case cut:
		c.out.add(p[:int(f.where*float64(len(p)))])
		c.reset()
		return len(p), nil
	case corrupted:
		c.out.add(changed(p, f))
		return len(p), nil
	}
	if c.recorded != nil {
		c.recorded.Write(p)
	}
	c.out.add(p)
	return len(p), nil
}

func (c *conn) reset() {
	c.in.finish(errReset)
	c.out.finish(errReset)
}

// Close ends both directions. What was written can still be read.
func (c *conn) Close() error {
	c.in.finish(net.ErrClosed)
	c.out.finish(io.EOF)
	return nil
}

// Idle is as msl.StreamTransport wants it.
func (c *conn) Idle() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.data) == 0 && c.in.end == nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.wake()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) LocalAddr() net.Addr              { return address(c.label) }
func (c *conn) RemoteAddr() net.Addr             { return address(c.label) }

type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// line is the way of a client to its server, by connections.
type line struct {
	server *server
	name   string
	mu     sync.Mutex
	dials  int
}

func (l *line) dial(ctx context.Context) (net.Conn, error) {
	l.mu.Lock()
	l.dials++
	n := l.dials
	l.mu.Unlock()
	c, err := l.server.connect(ctx, fmt.Sprintf("%s line %d", l.name, n))
	if err != nil {
		return nil, err
	}
	v := l.server
	v.mu.Lock()
	defer v.mu.Unlock()
	v.recordings = append(v.recordings, c.(*conn).recorded)
	if len(v.recordings) > remembered {
		v.recordings = v.recordings[1:]
	}
	return c, nil
}
