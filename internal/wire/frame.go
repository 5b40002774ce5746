// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"time"
)

// A frame is
//
//	length   4 bytes  of all that follows
//	id       8 bytes  chosen by the client, unique among the requests that wait
//	code     1 byte   which message follows
//	deadline 4 bytes  requests only: milliseconds from now; 0 is refused
//	message
const (
	lengthSize   = 4
	headerSize   = lengthSize + 8 + 1
	deadlineSize = 4

	maxFrameLimit = 1 << 30 // MaxFrame cannot be larger
	readBuffer    = 64 << 10
	keepBuffer    = 1 << 20 // larger write buffers are not kept for the next write
)

// Options are limits of one connection. Zero fields mean the defaults said there.
type Options struct {
	MaxFrame    int           // bytes of one frame, header included; 0 means 8 MiB
	MaxInFlight int           // requests that wait for an answer at once; 0 means 1024
	MaxBytes    int           // bytes of such requests, and of what waits to be written; 0 means 64 MiB
	Timeout     time.Duration // of a request whose context has no deadline; 0 means 30 s
	Logger      *slog.Logger  // told of panics in a Handler; nil means nobody is
}

func (o Options) withDefaults() Options {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.MaxFrame, 8<<20)
	o.MaxFrame = min(o.MaxFrame, maxFrameLimit)
	def(&o.MaxInFlight, 1024)
	def(&o.MaxBytes, 64<<20)
	o.MaxBytes = max(o.MaxBytes, o.MaxFrame)
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

var (
	errFrameSize = errors.New("wire: frame length out of bounds")
	errProtocol  = errors.New("wire: protocol violation")
	errVersion   = errors.New("wire: client has another version of the contract")
)

// appendFrame appends the frame of m, which encodes to size bytes. A request has a deadline, which is
// not 0; nothing else has.
func appendFrame(b []byte, c *coder, id uint64, deadline uint32, m message, size int) []byte {
	n := headerSize - lengthSize + size
	if deadline != 0 {
		n += deadlineSize
	}
	b = appendHeader(b, n, id, m.code())
	if deadline != 0 {
		b = binary.BigEndian.AppendUint32(b, deadline)
	}
	return c.encode(b, m)
}

func appendHeader(b []byte, length int, id uint64, code uint8) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, code)
}

func appendCancel(b []byte, id uint64) []byte {
	return appendHeader(b, headerSize-lengthSize, id, cancelCode)
}

// A frame is what was read: body is all after the code.
type frame struct {
	id   uint64
	code uint8
	body []byte
	// own says that body is memory of this frame alone. Else it is valid until the next frame is read.
	own bool
}

// keep returns the body in memory that stays valid.
func (f *frame) keep() []byte {
	if f.own {
		return f.body
	}
	// Not bytes.Clone: the capacity must not exceed the frame.
	b := make([]byte, len(f.body))
	copy(b, f.body)
	return b
}

// A frameReader reads frames of at most max bytes.
type frameReader struct {
	r   *bufio.Reader
	max int
}

func newFrameReader(r io.Reader, max int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBuffer), max: max}
}

// ready reports that next will not read from the connection.
func (f *frameReader) ready() bool {
	if f.r.Buffered() < lengthSize {
		return false
	}
	b, _ := f.r.Peek(lengthSize)
	return int64(f.r.Buffered()) >= lengthSize+int64(binary.BigEndian.Uint32(b))
}

// next returns the next frame. The error is io.EOF only between two frames.
func (f *frameReader) next() (frame, error) {
	b, err := f.r.Peek(lengthSize)
	if err != nil {
		if len(b) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n < headerSize-lengthSize || n > int64(f.max-lengthSize) {
		return frame{}, errFrameSize
	}
	total, own := lengthSize+int(n), false
	if total <= f.r.Size()/4 {
		b, err = f.r.Peek(total)
		if err == nil {
			_, err = f.r.Discard(total)
		}
	} else {
		// A large frame is read into its own memory, so that it is copied once less.
		b, own = make([]byte, total), true
		_, err = io.ReadFull(f.r, b)
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return frame{
		id:   binary.BigEndian.Uint64(b[lengthSize:]),
		code: b[headerSize-1],
		body: b[headerSize:total:total],
		own:  own,
	}, nil
}
