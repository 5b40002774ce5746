// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"slices"
	"time"
)

// A room is what is left for requests that wait for an answer.
type room struct{ number, bytes int }

// take takes room for a request of size bytes, if there is.
func (r *room) take(size int) bool {
	if r.number < 1 || r.bytes < size {
		return false
	}
	r.number--
	r.bytes -= size
	return true
}

func (r *room) release(size int) {
	r.number++
	r.bytes += size
}

// An admission is a caller that waits for room for its request.
type admission struct {
	size  int
	ready chan struct{} // closed when it has the room, or the client has failed
}

// admit takes room for a request of size bytes, and waits for it in turn. It is called with the lock,
// and gives it away while it waits.
func (c *Client) admit(ctx context.Context, size int) error {
	if c.err != nil {
		return ErrNotSent
	}
	if len(c.queue) == 0 && c.room.take(size) {
		return nil
	}
	a := &admission{size: size, ready: make(chan struct{})}
	c.queue = append(c.queue, a)
	c.out.Unlock()
	err := c.await(ctx, a)
	c.out.Lock()
	switch {
	case c.err != nil:
		return ErrNotSent
	case err == nil:
		return nil
	}
	if i := slices.Index(c.queue, a); i >= 0 {
		c.queue = slices.Delete(c.queue, i, i+1)
		c.grant()
	} else { // it got the room at the last moment
		c.release(size)
	}
	return err
}

func (c *Client) await(ctx context.Context, a *admission) error {
	timer := time.NewTimer(c.opts.Timeout)
	defer timer.Stop()
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return Fail(Transient, "too many requests wait")
	}
}

// release gives back the room of an answered request. It is called with the lock.
func (c *Client) release(size int) {
	c.room.release(size)
	c.grant()
}

// grant gives room to those who wait, in turn. It is called with the lock.
func (c *Client) grant() {
	for len(c.queue) > 0 && c.room.take(c.queue[0].size) {
		close(c.queue[0].ready)
		c.queue[0] = nil
		c.queue = c.queue[1:]
	}
}
