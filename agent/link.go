// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
)

// patience is how long a call waits for an agent that is down.
const patience = 2 * time.Second

// A link is a Caller by way of the connection that is there at the time.
type link struct {
	mu      sync.RWMutex
	conn    *wire.Client  // nil or lost while there is none
	changed chan struct{} // closed when conn is replaced, or closed becomes true
	closed  bool
}

// Call does not repeat a request that was sent: the agent may have done what it asks.
func (l *link) Call(ctx context.Context, req wire.Request, reply wire.Reply) error {
	return l.CallInto(ctx, nil, req, reply)
}

// CallInto is Call with wire.Client's CallInto.
func (l *link) CallInto(ctx context.Context, buf []byte, req wire.Request, reply wire.Reply) error {
	for attempt := 1; ; attempt++ {
		conn, changed, err := l.current()
		if err != nil {
			return err
		}
		if conn == nil {
			if conn, err = l.wait(ctx, changed); err != nil {
				return err
			}
		}
		if err := conn.CallInto(ctx, buf, req, reply); err != wire.ErrNotSent || attempt == 3 {
			return err
		}
	}
}

// current returns the connection, or nil if it is lost, and what will be closed when there is a new one.
func (l *link) current() (*wire.Client, <-chan struct{}, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return nil, nil, wire.Fail(wire.Transient, "client is closed")
	}
	if l.conn != nil {
		select {
		case <-l.conn.Done():
		default:
			return l.conn, nil, nil
		}
	}
	return nil, l.changed, nil
}

func (l *link) wait(ctx context.Context, changed <-chan struct{}) (*wire.Client, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, wire.Fail(wire.Transient, "agent is down")
		}
		var conn *wire.Client
		var err error
		if conn, changed, err = l.current(); conn != nil || err != nil {
			return conn, err
		}
	}
}

// use makes conn the connection until it is lost or ctx ends. up learns how the greeting went.
func (l *link) use(ctx context.Context, conn net.Conn, up func(error)) error {
	c, err := wire.NewClient(ctx, conn, wire.Options{})
	if err != nil {
		up(err)
		return err
	}
	defer c.Close()
	l.replace(c)
	up(nil)
	select {
	case <-c.Done():
	case <-ctx.Done():
	}
	return nil
}

func (l *link) replace(c *wire.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.conn = c
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.changed)
	}
}
