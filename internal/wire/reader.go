// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"io"
	"sync"
)

const (
	readBuffer = 64 << 10
	largeFrame = 16 << 10 // from here on, a frame is read into memory of its own
)

// A frameReader reads frames of at most max bytes: small ones many at a time, large ones straight to
// where they stay.
type frameReader struct {
	r     io.Reader
	max   int
	pool  *sync.Pool // for large frames; nil if they are never given back
	buf   []byte
	from  int // buf[from:to] was read from r and not yet taken
	to    int
	large bool // the last frame was large, so the next one may be, too
}

// framePool holds *[]byte, of large frames that their receiver needs no more.
var framePool sync.Pool

func newFrameReader(r io.Reader, max int, pool *sync.Pool) *frameReader {
	return &frameReader{r: r, max: max, pool: pool, buf: make([]byte, readBuffer)}
}

// ready reports that next will not read from the connection.
func (f *frameReader) ready() bool {
	have := f.to - f.from
	return have >= lengthSize && int64(have) >= lengthSize+int64(binary.BigEndian.Uint32(f.buf[f.from:]))
}

// next returns the next frame. The error is io.EOF only between two frames.
func (f *frameReader) next() (frame, error) {
	// What is read together with the head of a large frame has to be copied, so no more is read with it.
	most := len(f.buf)
	if f.large {
		most = headerSize
	}
	if err := f.fill(lengthSize, most); err != nil {
		if err == io.ErrUnexpectedEOF && f.to == f.from {
			err = io.EOF
		}
		return frame{}, err
	}
	n := int64(binary.BigEndian.Uint32(f.buf[f.from:]))
	if n < headerSize-lengthSize || n > int64(f.max-lengthSize) {
		return frame{}, errFrameSize
	}
	total := lengthSize + int(n)
	f.large = total >= largeFrame
	var b, own []byte
	if f.large {
		own = f.memory(total)
		b = own
		have := copy(b, f.buf[f.from:f.to])
		f.from += have
		if _, err := io.ReadFull(f.r, b[have:]); err != nil {
			return frame{}, io.ErrUnexpectedEOF
		}
	} else {
		if err := f.fill(total, len(f.buf)); err != nil {
			return frame{}, err
		}
		b = f.buf[f.from : f.from+total : f.from+total]
		f.from += total
	}
	return frame{
		id:   binary.BigEndian.Uint64(b[lengthSize:]),
		code: b[headerSize-1],
		body: b[headerSize:],
		own:  own,
	}, nil
}

// fill sees to it that buf holds at least need bytes that are not yet taken, and reads no more than most.
func (f *frameReader) fill(need, most int) error {
	if f.from == f.to {
		f.from, f.to = 0, 0
	}
	if f.from+need > len(f.buf) {
		f.to = copy(f.buf, f.buf[f.from:f.to])
		f.from = 0
	}
	if have := f.to - f.from; have < need {
		n, err := io.ReadAtLeast(f.r, f.buf[f.to:min(len(f.buf), f.from+max(need, most))], need-have)
		f.to += n
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

func (f *frameReader) memory(n int) []byte {
	if f.pool != nil {
		if b, ok := f.pool.Get().(*[]byte); ok && cap(*b) >= n {
			return (*b)[:n]
		}
	}
	return make([]byte, n)
}

// giveBack lets the memory of a large frame be used again. Nothing may refer to it any more.
func (f *frameReader) giveBack(fr frame) {
	if fr.own != nil && f.pool != nil && cap(fr.own) <= keepBuffer {
		f.pool.Put(&fr.own)
	}
}
