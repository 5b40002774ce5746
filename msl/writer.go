// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
)

const (
	defaultChunk = 64 << 10 // bytes of application data in one payload
	maxChunk     = 1 << 20
	maxInFlight  = 4 // payloads that are being sealed at once
)

// An outgoing is a message about to be sent.
type outgoing struct {
	outer          outerHeader // names the sender
	header         *headerData
	headerContext  CryptoContext
	payloadContext CryptoContext // nil for headerContext (§4.7)
	chunkSize      int           // most bytes of application data in one payload; 0 for 64 KiB
	compression    string        // "" for the first of the header's capabilities, "NONE", GZIP or LZW
}

// A MessageWriter writes the application data of one message (§4.8). It gathers data into chunks and seals
// several at a time, in order; it never holds more than a few of them. Nothing reaches the peer before the
// first Flush, Close, or more than a full chunk: a chunk may wait until the next one is full or Flush is called.
// Flush and Close return when everything written so far was handed on.
// It must be closed for the message to be complete. It is not safe for concurrent use.
type MessageWriter struct {
	ctx    context.Context    // of the message; io.Writer gives none
	cancel context.CancelFunc // of what is being sealed in the background, or nil
	out    io.Writer
	m      outgoing

	oneContext  bool   // header and payloads are sealed together
	plainHeader []byte // until it is being sealed
	buf         []byte // data of the next chunk
	spare       []byte // memory for the chunk after it
	sequence    int64  // of the next chunk
	inFlight    []chan sealed
	err         error
	closed      bool
}

// sealed is the encoding of what a seal call covered.
type sealed struct {
	encoded []byte
	spare   []byte // memory of the data, to be used again
	err     error
}

// newMessageWriter returns the writer of a message to out, whose Flush() error method it calls if there
// is one. Nothing is written yet.
func newMessageWriter(ctx context.Context, out io.Writer, m *outgoing) (*MessageWriter, error) {
	if err := m.header.checkBindings(m.outer.master); err != nil {
		return nil, withID(err, m.header.MessageID)
	}
	w := &MessageWriter{out: out, m: *m, plainHeader: m.header.append(buffer(1<<10), m.outer.master != nil), sequence: 1}
	if w.m.chunkSize <= 0 {
		w.m.chunkSize = defaultChunk
	}
	w.m.chunkSize = min(w.m.chunkSize, maxChunk)
	if m.payloadContext == nil {
		w.m.payloadContext = m.headerContext
	}
	w.oneContext = sameContext(w.m.payloadContext, m.headerContext)
	switch m.compression {
	case "":
		w.m.compression = m.header.Capabilities.compression()
	case "NONE":
		w.m.compression = ""
	default:
		if err := w.checkCompression(m.compression); err != nil {
			return nil, err
		}
	}
	w.ctx = ctx
	return w, nil
}

// sameContext reports whether two contexts are one, so that one call can serve both.
func sameContext(a, b CryptoContext) bool {
	return reflect.TypeOf(a).Comparable() && a == b
}

var (
	errNoPayloads = errors.New("msl: a handshake has no application data")
	errClosed     = errors.New("msl: the message was closed")
)

// Write adds application data.
func (w *MessageWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if err := w.usable(); err != nil {
			return written, err
		}
		if len(w.buf) == w.m.chunkSize {
			w.start(w.chunk(false))
			continue
		}
		if w.buf == nil {
			w.buf = buffer(min(len(p), w.m.chunkSize))
		}
		n := min(len(p), w.m.chunkSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		written += n
	}
	return written, w.err
}

// Flush sends the header, and what was written so far as a chunk of its own.
func (w *MessageWriter) Flush() error {
	switch {
	case w.closed:
		return errClosed
	case w.err != nil:
		return w.err
	case len(w.buf) > 0:
		w.start(w.chunk(false))
	case w.plainHeader != nil:
		w.start(job{})
	}
	w.finish()
	if f, ok := w.out.(interface{ Flush() error }); ok && w.err == nil {
		w.fail(sendError(f.Flush()))
	}
	return w.err
}

// SetCompression selects the algorithm for the data that follows: one of the capabilities in the message's
// header, or "" for none. What was written before goes into a chunk of its own.
func (w *MessageWriter) SetCompression(algo string) error {
	if algo == w.m.compression {
		return w.err
	}
	if err := w.checkCompression(algo); err != nil {
		return err
	}
	if err := w.usable(); err != nil {
		return err
	}
	if len(w.buf) > 0 {
		w.start(w.chunk(false))
	}
	w.m.compression = algo
	return w.err
}

func (w *MessageWriter) checkCompression(algo string) error {
	c := w.m.header.Capabilities
	if algo != "" && (c == nil || !slices.Contains(c.Compression, algo)) {
		return fail(UnsupportedCompression, "message", nil)
	}
	return nil
}

// Close completes the message: it sends what is left as the last chunk, which says so. A handshake is
// its header alone. The connection stays open. A second Close does nothing.
func (w *MessageWriter) Close() error {
	if w.closed {
		return w.err
	}
	if w.err == nil {
		if w.m.header.Handshake {
			w.start(job{})
		} else {
			w.start(w.chunk(true))
		}
		w.finish()
		recycle(w.spare)
		w.spare = nil
	}
	w.closed = true
	w.stop()
	return w.err
}

// abort ends the writing without completing the message, so that the peer cannot take it for whole.
func (w *MessageWriter) abort() {
	w.fail(errClosed)
	w.closed = true
}

// closeHeader completes a message that is nothing but its header though it is no handshake: the answer
// to one (§8.6).
func (w *MessageWriter) closeHeader() error {
	if w.err == nil && !w.closed {
		w.start(job{})
		w.finish()
	}
	w.closed = true
	w.stop()
	return w.err
}

// stop cancels what is being sealed in the background.
func (w *MessageWriter) stop() {
	if w.cancel != nil {
		w.cancel()
	}
}

func (w *MessageWriter) usable() error {
	switch {
	case w.err != nil:
		return w.err
	case w.closed:
		return errClosed
	case w.m.header.Handshake:
		return errNoPayloads
	}
	return nil
}

// fail keeps the first error, and waits until nothing is being sealed any more.
func (w *MessageWriter) fail(err error) {
	if err == nil || w.err != nil {
		return
	}
	w.err = withID(err, w.m.header.MessageID)
	w.stop()
	for _, c := range w.inFlight {
		<-c
	}
	w.inFlight, w.buf = nil, nil
}
