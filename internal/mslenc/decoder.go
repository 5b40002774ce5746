// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"io"
	"slices"
)

const (
	firstBuffer = 8 << 10   // bytes
	keptBuffer  = 256 << 10 // holds a payload with 64 KiB of data; a larger buffer is let go when the object that needed it is done
	emptyReads  = 100       // in a row, before a reader is given up
)

// A Decoder reads objects one after another from a stream (§1.6). It reads ahead, so it belongs with
// the connection and not with one message. It is not safe for concurrent use.
type Decoder struct {
	r       io.Reader
	limits  Limits
	buf     []byte
	start   int // of the object that comes next, in buf
	given   int // length of the object that Next returned last; it goes when Next is called again
	s       scanner
	scanned bool        // s has read to the end of the next object
	bad     error       // of the stream's content; final
	readErr error       // that came with bytes
	first   [2][8]entry // memory for s, and for the object that was returned last, in turns
	turn    int

	// Bytes of white space skipped before the object that comes next, and before the last one.
	space, spaceGiven int
}

// NewDecoder returns a Decoder that holds each object to l.
func NewDecoder(r io.Reader, l Limits) *Decoder {
	l = l.orDefault()
	d := &Decoder{r: r, limits: l}
	d.s = scanner{limits: l, entries: d.first[0][:0]}
	return d
}

// NewBytesDecoder returns a Decoder of a stream that is at hand whole. It keeps b, and what it returns
// aliases it.
func NewBytesDecoder(b []byte, l Limits) *Decoder {
	l = l.orDefault()
	d := &Decoder{buf: b[:len(b):len(b)], readErr: io.EOF, limits: l}
	d.s = scanner{limits: l, entries: d.first[0][:0]}
	return d
}

// Next returns the next object, which is valid until the next call of Next or NextHeader. White space
// may precede it. The error is io.EOF when the stream ends after an object, io.ErrUnexpectedEOF when
// it ends elsewhere, the reader's error, or a [*FieldError]. After a FieldError the stream cannot be
// read on.
func (d *Decoder) Next() (Object, error) { return d.next(true) }

// NextHeader is Next for the first object of a message: white space may not precede it (§1.2).
func (d *Decoder) NextHeader() (Object, error) { return d.next(false) }

// Unread gives the object that Next returned last back: the next call returns it again. It does
// nothing if the last call failed.
func (d *Decoder) Unread() {
	if d.given == 0 {
		return
	}
	d.given = 0
	d.restart()
	d.space = d.spaceGiven
	d.bad = nil // what Ready found is found again
}

// Ready reports whether the next object, or an error of its content, is in the buffer already, so that
// Next will not read. The object that Next returned last stays valid.
func (d *Decoder) Ready() bool {
	d.scan()
	return d.scanned || d.bad != nil
}

// Clean reports whether nothing was read of what follows the object that Next returned last.
func (d *Decoder) Clean() bool {
	return d.start+d.given == len(d.buf) && d.space == 0 && d.readErr == nil && d.bad == nil
}

func (d *Decoder) next(spaceAllowed bool) (Object, error) {
	d.release()
	for {
		d.scan()
		if d.space > 0 && !spaceAllowed && d.bad == nil {
			d.bad = syntaxError("the first byte")
		}
		if d.bad != nil {
			return Object{}, d.bad
		}
		if d.scanned {
			break
		}
		if err := d.fill(); err != nil {
			return Object{}, err
		}
	}
	end := d.start + d.s.pos
	o := Object{raw: d.buf[d.start:end:end], members: slices.Clip(d.s.entries)}
	d.given, d.spaceGiven = d.s.pos, d.space
	d.turn = 1 - d.turn
	d.s.entries = d.first[d.turn][:0]
	d.restart()
	return o, nil
}

// release gives up the object that was returned last.
func (d *Decoder) release() {
	d.start += d.given
	d.given = 0
	rest := d.buf[d.start:]
	switch {
	case cap(d.buf) > keptBuffer && len(rest) <= keptBuffer/2:
		d.buf = append(make([]byte, 0, max(firstBuffer, len(rest))), rest...)
		d.start = 0
	case len(rest) == 0:
		d.buf = d.buf[:0]
		d.start = 0
	}
}

// restart readies the scanner for the next object.
func (d *Decoder) restart() {
	d.s = scanner{limits: d.limits, entries: d.s.entries[:0]}
	d.space = 0
	d.scanned = false
}

// scan scans what is buffered of the next object.
func (d *Decoder) scan() {
	if d.scanned || d.bad != nil {
		return
	}
	at := d.start + d.given
	if d.s.pos == 0 {
		// White space moves the start past itself, and is lost with the object before it.
		for at < len(d.buf) && isSpace(d.buf[at]) {
			at++
			d.space++
			if d.given > 0 {
				d.given++
			} else {
				d.start++
			}
		}
		if d.space > d.limits.Size {
			d.bad = limitError("white space")
		} else if at < len(d.buf) && d.buf[at] != '{' {
			d.bad = syntaxError("the first byte")
		}
	}
	if d.bad != nil || at == len(d.buf) {
		return
	}
	b := d.buf[at:]
	over := len(b) > d.limits.Size
	if over {
		b = b[:d.limits.Size]
	}
	d.scanned, d.bad = d.s.scan(b)
	if over && !d.scanned && d.bad == nil {
		d.bad = limitError("size")
	}
}

// fill reads more of the stream into the buffer. No object is on loan.
func (d *Decoder) fill() error {
	if d.readErr != nil {
		err := d.readErr
		if d.r != nil {
			d.readErr = nil
		}
		return d.ended(err)
	}
	if len(d.buf) == cap(d.buf) {
		rest := d.buf[d.start:]
		if d.start > 0 {
			d.buf = d.buf[:copy(d.buf, rest)]
		} else {
			d.buf = append(make([]byte, 0, max(firstBuffer, 2*cap(d.buf))), rest...)
		}
		d.start = 0
	}
	for range emptyReads {
		n, err := d.r.Read(d.buf[len(d.buf):cap(d.buf)])
		d.buf = d.buf[:len(d.buf)+n]
		if n > 0 {
			d.readErr = err
			return nil
		}
		if err != nil {
			return d.ended(err)
		}
	}
	return io.ErrNoProgress
}

// ended turns the end of the stream inside an object, or after white space, into an unexpected one.
func (d *Decoder) ended(err error) error {
	if err == io.EOF && (d.s.pos > 0 || d.space > 0) {
		return io.ErrUnexpectedEOF
	}
	return err
}
