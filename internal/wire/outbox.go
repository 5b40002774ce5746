// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"sync"
)

// An outbox gathers frames and writes many with one call. Whoever appends a frame while nobody
// flushes becomes the flusher: no goroutine waits for work, and no work waits for a goroutine.
type outbox struct {
	sync.Mutex        // guards these, and whatever its owner likes
	buf        []byte // frames that nobody has begun to write
	spare      []byte // for the next buf
	flushing   bool   // there is a flusher, or the outbox has failed

	// Of the flusher alone.
	stream stream
	socket *socket // stream, or nil
	batch  []byte  // being written
	left   []byte  // what is left of it
}

func newOutbox(s stream) *outbox {
	o := &outbox{stream: s}
	o.socket, _ = s.(*socket)
	return o
}

// claim makes the caller the flusher if there is something to write and nobody else is. The caller
// holds the lock, and calls flush without it.
func (o *outbox) claim() bool {
	if o.flushing || len(o.buf) == 0 {
		return false
	}
	o.flushing = true
	return true
}

// flush writes what was appended. With block it goes on until nothing is left. Without, it writes once,
// as much as the connection takes at once; if rest is true the caller is still the flusher, and must
// have flush called again, with block. After an error nothing is ever written again.
func (o *outbox) flush(block bool) (rest bool, err error) {
	for round := 0; ; round++ {
		if len(o.left) == 0 && !o.next() {
			return false, nil
		}
		if !block && round > 0 {
			return true, nil
		}
		var n int
		if block {
			n, err = o.stream.Write(o.left)
		} else {
			n, err = o.writeSome()
		}
		if err != nil {
			return false, err
		}
		o.left = o.left[n:]
		if len(o.left) > 0 {
			return true, nil
		}
	}
}

// next takes what was appended as the next batch. If there is nothing, the caller is the flusher no more.
func (o *outbox) next() bool {
	o.Lock()
	defer o.Unlock()
	if o.batch != nil && cap(o.batch) <= keepBuffer {
		o.spare = o.batch[:0]
	}
	o.batch = nil
	if len(o.buf) == 0 {
		o.flushing = false
		return false
	}
	o.batch, o.buf, o.spare = o.buf, o.spare, nil
	o.left = o.batch
	return true
}

// writeSome writes as much as the connection takes without blocking.
func (o *outbox) writeSome() (int, error) {
	if o.socket == nil {
		return 0, nil
	}
	n, err := o.socket.tryWrite(o.left)
	if err == errWait {
		err = nil
	}
	return n, err
}
