// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"sync/atomic"
	"time"
)

// A caller who is alone reads its own answer: to wake one goroutine that reads and then another that
// waits takes longer than what was asked for. As soon as there are others, or the answer takes its
// time, the client's goroutine reads for all.

// A reader says who reads the client's connection.
type reader uint8

const (
	watching reader = iota // the client's goroutine does
	leading                // a caller does
	nobody                 // no request waits for an answer; the client's goroutine waits for the end
)

const (
	leadTime = 50 * time.Microsecond // a caller reads no longer
	calm     = 8                     // requests that came alone before a caller reads
	maxMiss  = 6                     // after n answers that took longer, 1<<n callers do not read
)

// turns is who reads, guarded by the lock of the outbox, but for others.
type turns struct {
	socket *socket // nil: the connection cannot be shared, and reader stays watching
	reader reader
	most   time.Duration // leadTime
	missed bool          // the goroutine was woken while a caller read
	alone  int           // requests that came alone
	misses int           // answers that took longer than leadTime, in a row
	skip   int           // callers that are not to read
	others atomic.Bool   // somebody waits besides the caller who reads
}

// enter is called with the lock, after a request was added. It returns true if its caller is to read.
func (c *Client) enter(size int) bool {
	t := &c.turns
	if c.calls.len() > 1 {
		t.alone = 0
	}
	switch {
	case t.reader == leading:
		t.others.Store(true)
	case t.reader == nobody && (size >= largeFrame || t.skip > 0):
		t.skip = max(t.skip-1, 0)
		t.reader = watching
		t.socket.listen(true)
	case t.reader == nobody:
		t.reader, t.missed = leading, false
		t.others.Store(false)
		return true
	}
	return false
}

// lead reads until k has its answer, or another should read.
func (c *Client) lead(ctx context.Context, k *call) {
	start := time.Now()
	late := false
	for {
		if err := c.readAll(); err != errWait {
			c.fail(err)
			return
		}
		if len(k.done) > 0 || c.turns.others.Load() || ctx.Err() != nil {
			break
		}
		if late = time.Since(start) > c.turns.most; late {
			break
		}
		yield()
	}
	c.out.Lock()
	defer c.out.Unlock()
	t := &c.turns
	if late {
		t.misses = min(t.misses+1, maxMiss)
		t.skip = 1 << t.misses
	} else {
		t.misses = 0
	}
	c.leave()
}

// leave is called with the lock when its caller will read no more for now.
func (c *Client) leave() {
	t := &c.turns
	t.reader = nobody
	if c.calls.len() > 0 || t.missed {
		t.reader = watching
		t.socket.listen(true)
	}
}

// readAll takes answers to their callers until there are no more.
func (c *Client) readAll() error {
	for {
		f, err := c.frames.next()
		if err == nil {
			err = c.deliver(f)
		}
		if err != nil {
			return err
		}
	}
}

// read reads whenever no caller does, until the connection ends.
func (c *Client) read() {
	t := &c.turns
	var err error
	if t.socket == nil {
		err = c.readAll()
	} else if e := t.socket.wait(func() bool { err = c.turn(); return err != errWait }); e != nil {
		err = e
	}
	c.fail(err)
	c.stream.Close()
}

// turn is called when something has arrived, or the connection is lost.
func (c *Client) turn() error {
	t := &c.turns
	c.out.Lock()
	if t.reader == leading {
		t.missed = true
		c.out.Unlock()
		return errWait
	}
	if t.reader == nobody { // it is lost
		t.reader = watching
		t.socket.listen(true)
	}
	c.out.Unlock()
	err := c.readAll()
	if err != errWait {
		return err
	}
	c.out.Lock()
	defer c.out.Unlock()
	if c.calls.len() == 0 {
		if t.alone++; t.alone > calm {
			t.socket.listen(false)
			t.reader = nobody
		}
	}
	return err
}
