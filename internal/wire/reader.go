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
	large bool   // the last frame was large, so the next one may be, too
	own   []byte // the large frame that is being read, of which have bytes are there
	have  int
}

// framePool holds *[]byte, of large frames that their receiver needs no more: requests.
var framePool sync.Pool

// recycled is the same for replies.
var recycled sync.Pool

// Recycle takes the memory of a field of a reply, which nothing may refer to any more. To fill fresh memory
// takes longer than to fill some that is in a cache. Small fields are left to the collector.
func Recycle(b []byte) {
	if n := cap(b); largeFrame <= n && n <= keepBuffer {
		poison(b)
		kept := b // so that only what is kept is in memory of its own
		recycled.Put(&kept)
	}
}

func newFrameReader(r io.Reader, max int, pool *sync.Pool) *frameReader {
	return &frameReader{r: r, max: max, pool: pool, buf: make([]byte, readBuffer)}
}

// ready reports that next will not read from the connection.
func (f *frameReader) ready() bool {
	have := f.to - f.from
	return have >= lengthSize && int64(have) >= lengthSize+int64(binary.BigEndian.Uint32(f.buf[f.from:]))
}

// next returns the next frame. The error is io.EOF only between two frames. After errWait, next goes on
// where it was.
func (f *frameReader) next() (frame, error) {
	for {
		fr, ok, err := f.take()
		if ok || err != nil {
			return fr, err
		}
		n, err := f.r.Read(f.space())
		if f.own != nil {
			f.have += n
		} else {
			f.to += n
		}
		if n == 0 && err != nil {
			if err == io.EOF && (f.own != nil || f.from != f.to) {
				err = io.ErrUnexpectedEOF
			}
			return frame{}, err
		}
	}
}

// take returns a frame that has been read entirely.
func (f *frameReader) take() (fr frame, ok bool, err error) {
	if f.own == nil {
		have := f.to - f.from
		if have < lengthSize {
			return frame{}, false, nil
		}
		n := int64(binary.BigEndian.Uint32(f.buf[f.from:]))
		if n < headerSize-lengthSize || n > int64(f.max-lengthSize) {
			return frame{}, false, errFrameSize
		}
		total := lengthSize + int(n)
		if f.large = total >= largeFrame; !f.large {
			if have < total {
				return frame{}, false, nil
			}
			f.from += total
			return newFrame(f.buf[f.from-total:f.from:f.from], nil), true, nil
		}
		f.own = f.memory(total)
		f.have = copy(f.own, f.buf[f.from:f.to])
		f.from += f.have
	}
	if f.have < len(f.own) {
		return frame{}, false, nil
	}
	own := f.own
	f.own = nil
	return newFrame(own, own), true, nil
}

// space returns where the next bytes are to be read.
func (f *frameReader) space() []byte {
	if f.own != nil {
		return f.own[f.have:]
	}
	if f.from > len(f.buf)-largeFrame || f.from == f.to {
		f.to = copy(f.buf, f.buf[f.from:f.to])
		f.from = 0
	}
	// What is read together with the head of a large frame has to be copied, so no more is read with it.
	if f.large && f.to-f.from < headerSize {
		return f.buf[f.to : f.from+headerSize]
	}
	return f.buf[f.to:]
}

func newFrame(b, own []byte) frame {
	return frame{id: binary.BigEndian.Uint64(b[lengthSize:]), code: b[headerSize-1], body: b[headerSize:], own: own}
}

func (f *frameReader) memory(n int) []byte {
	if f.pool != nil {
		if b, ok := f.pool.Get().(*[]byte); ok && cap(*b) >= n {
			return (*b)[:n]
		}
	}
	return make([]byte, n, n+n/8) // so that what comes back, without its head, is enough for the next
}

// giveBack lets the memory of a large frame be used again. Nothing may refer to it any more.
func (f *frameReader) giveBack(fr frame) {
	if fr.own != nil && f.pool != nil && cap(fr.own) <= keepBuffer {
		poison(fr.own)
		kept := fr.own
		f.pool.Put(&kept)
	}
}
