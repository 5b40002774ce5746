// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import "sync"

// An outbox gathers frames and writes many with one call. Whoever appends a frame while nobody
// flushes becomes the flusher: no goroutine waits for work, and no work waits for a goroutine.
type outbox struct {
	sync.Mutex        // guards these, and whatever its owner likes
	batch             // frames that nobody has begun to write
	spare      []byte // for the buf of the next batch
	flushing   bool   // there is a flusher, or the outbox has failed

	// Of the flusher alone.
	stream stream
	done   func(answer) // called with each answer that was written; nil for a client
	now    batch        // being written
	pieces [][]byte     // the memory of left
	left   [][]byte     // what is left of it
}

// A batch is frames that are written together. Large fields stay where they are.
type batch struct {
	buf  []byte   // all but refs
	refs []ref    // in order
	size int      // bytes of refs
	own  []answer // whose memory refs may be in
}

// An answer is a request and the reply to it.
type answer struct {
	req   frame
	reply message
}

// A ref is bytes that belong before buf[at:].
type ref struct {
	at int
	b  []byte
}

// refSize is the size from which on a field is written from where it is: to copy less is not dearer.
const refSize = 16 << 10

// claim makes the caller the flusher if there is something to write and nobody else is. The caller
// holds the lock, and calls flush without it.
func (o *outbox) claim() bool {
	if o.flushing || len(o.buf) == 0 {
		return false
	}
	o.flushing = true
	return true
}

// frame appends a frame as appendFrame does, and is called with the lock. If stays is true, what m
// refers to stays as it is until it has been written.
func (o *outbox) frame(c *coder, id uint64, deadline uint32, m message, size int, stays bool) {
	c.refs = nil
	if stays && size >= refSize {
		c.refs = &o.batch
	}
	o.buf = appendFrame(o.buf, c, id, deadline, m, size)
	c.refs = nil
}

// waits returns the number of bytes that nobody has begun to write.
func (o *outbox) waits() int { return len(o.buf) + o.size }

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
		n, err := o.stream.write(o.left, block)
		if err != nil {
			return false, err
		}
		o.written(n)
		if len(o.left) > 0 && !block {
			o.keep()
			return true, nil
		}
	}
}

// written takes away the first n bytes of left.
func (o *outbox) written(n int) {
	for len(o.left) > 0 && n >= len(o.left[0]) {
		n -= len(o.left[0])
		o.left[0] = nil
		o.left = o.left[1:]
	}
	if n > 0 {
		o.left[0] = o.left[0][n:]
	}
}

// keep copies what is left, if it is not the outbox's own.
func (o *outbox) keep() {
	if len(o.now.refs) == 0 {
		return
	}
	var all []byte
	for _, b := range o.left {
		all = append(all, b...)
	}
	clear(o.left)
	o.left = append(o.left[:0], all)
}

// next takes what was appended as the next batch. If there is nothing, the caller is the flusher no more.
func (o *outbox) next() bool {
	for _, a := range o.now.own {
		o.done(a)
	}
	o.Lock()
	defer o.Unlock()
	if o.now.buf != nil && cap(o.now.buf) <= keepBuffer {
		o.spare = o.now.buf[:0]
	}
	clear(o.now.refs)
	clear(o.now.own)
	refs, own := o.now.refs[:0], o.now.own[:0]
	o.now = batch{}
	if len(o.buf) == 0 {
		o.now.refs, o.now.own = refs, own
		o.flushing = false
		return false
	}
	o.now = o.batch
	o.batch = batch{buf: o.spare, refs: refs, own: own}
	o.spare = nil
	o.cut()
	return true
}

// cut makes left of now.
func (o *outbox) cut() {
	o.pieces = o.pieces[:0]
	from := 0
	for _, r := range o.now.refs {
		o.pieces = append(o.pieces, o.now.buf[from:r.at], r.b)
		from = r.at
	}
	if from < len(o.now.buf) {
		o.pieces = append(o.pieces, o.now.buf[from:])
	}
	o.left = o.pieces
}
