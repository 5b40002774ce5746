// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
	"sync"
)

// errBodyGone is the cause of a ReplayError.
var errBodyGone = errors.New("the body is longer than what is kept of it, and not an io.Seeker")

// A body yields the application data of a request from its beginning, as often as it takes.
type body struct {
	source io.Reader
	seeker io.Seeker // nil if source cannot seek
	start  int64
	used   bool   // the source was read from
	kept   []byte // of a source that cannot seek: what was read so far, while that is little
	lost   bool   // more was read than is kept
}

func newBody(r *Request) *body {
	b := &body{source: r.Body}
	if s, ok := r.Body.(io.Seeker); ok {
		if start, err := s.Seek(0, io.SeekCurrent); err == nil {
			b.seeker, b.start = s, start
		}
	}
	return b
}

// open returns a reader of all the data, or errBodyGone.
func (b *body) open() (io.Reader, error) {
	switch {
	case b.source == nil:
		return nil, nil
	case b.seeker != nil:
		if b.used {
			if _, err := b.seeker.Seek(b.start, io.SeekStart); err != nil {
				return nil, err
			}
		}
		b.used = true
		return b.source, nil
	case b.lost:
		return nil, errBodyGone
	default:
		return &keepingReader{body: b}, nil
	}
}

// close closes the source if it can be closed, which also ends a Read that waits.
func (b *body) close() {
	if c, ok := b.source.(io.Closer); ok {
		c.Close()
	}
}

// keepingReader reads what was kept, then the source, of which it keeps the first maxReplay bytes.
type keepingReader struct {
	body *body
	pos  int
}

func (r *keepingReader) Read(p []byte) (int, error) {
	b := r.body
	if r.pos < len(b.kept) {
		n := copy(p, b.kept[r.pos:])
		r.pos += n
		return n, nil
	}
	n, err := b.source.Read(p)
	switch {
	case b.lost:
	case len(b.kept)+n > maxReplay:
		b.lost, b.kept = true, nil
	default:
		b.kept = append(b.kept, p[:n]...)
		r.pos += n
	}
	return n, err
}

// scratches are for reading the data of small messages.
var scratches = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// write sends the application data and ends the message: at once if there is little of it, else in
// a goroutine whose result x.writing gives.
func (x *exchange) write(ctx context.Context, w *MessageWriter) error {
	if stream := x.request.Stream; stream != nil {
		x.inBackground(func() error { return stream(ctx, w) }, w)
		return nil
	}
	source, err := x.body.open()
	if err != nil {
		return err
	}
	if source == nil {
		return complete(w, x.transport)
	}
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	small := *scratch
	for total := 0; total < maxBuffered; {
		n, err := source.Read(small)
		total += n
		if _, err := w.Write(small[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return complete(w, x.transport)
		}
		if err != nil {
			return err
		}
	}
	x.inBackground(func() error { _, err := io.Copy(w, source); return err }, w)
	return nil
}

// empty reports whether there is no data. It may take data for none that has no size, as some files do.
func (x *exchange) empty() (bool, error) {
	b := x.body
	switch {
	case x.request.Stream != nil || x.peer.serving || x.peer.tokensOnly:
		return false, nil
	case b.source == nil:
		return true, nil
	case b.seeker != nil:
		end, err := b.seeker.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = b.seeker.Seek(b.start, io.SeekStart)
		}
		return end <= b.start, err
	case b.lost || len(b.kept) > 0:
		return false, nil
	}
	one := make([]byte, 1)
	n, err := io.ReadFull(b.source, one)
	b.kept = append(b.kept, one[:n]...)
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// completeHeader ends a message that is nothing but its header, and the request that carries it.
func completeHeader(w *MessageWriter, t Exchange) error {
	if err := w.closeHeader(); err != nil {
		return err
	}
	return sendError(t.CloseWrite())
}

// complete ends the message, and the request that carries it.
func complete(w *MessageWriter, t Exchange) error {
	if err := w.Close(); err != nil {
		return err
	}
	return sendError(t.CloseWrite())
}

func (x *exchange) inBackground(write func() error, w *MessageWriter) {
	done := make(chan error, 1)
	x.writing = done
	transport := x.transport
	go func() {
		err := write()
		if err == nil {
			err = complete(w, transport)
		}
		if err != nil {
			w.abort()
			abort(transport) // the message must not look complete
		}
		done <- err
	}()
}

// abort gives an exchange up while somebody may read from it, and has yet to close it.
func abort(t Exchange) {
	if a, ok := t.(interface{ abort() }); ok {
		a.abort()
		return
	}
	t.Close()
}
