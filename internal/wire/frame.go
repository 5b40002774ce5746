// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
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
	keepBuffer    = 8 << 20 // larger write buffers are not kept for the next write
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
	// own is the memory of this frame alone, or nil if body is valid only until the next frame is read.
	own []byte
}

// keep returns the body in memory that stays valid.
func (f *frame) keep() []byte {
	if f.own != nil {
		return f.body
	}
	return bytes.Clone(f.body)
}
