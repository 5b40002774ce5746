// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// maxBuffered is how many bytes of a message an HTTP side keeps back before it starts to stream.
const maxBuffered = 64 << 10

// HTTPTransport carries exchanges over HTTP: the message is the body of a POST, the answer that of a
// response with status 200 (§8.12). Redirections are not followed. A small message goes out as one body of known
// length; a larger or flushed one is streamed.
type HTTPTransport struct {
	// URL is where messages are posted.
	URL string
	// RoundTripper sends the requests. Nil means http.DefaultTransport, which keeps only two idle connections to a
	// host: busy callers should raise MaxIdleConnsPerHost.
	RoundTripper http.RoundTripper

	once   sync.Once
	target *http.Request // what all requests have in common
	err    error
}

// Open starts an exchange. Nothing is sent before the message is complete or flushed.
func (t *HTTPTransport) Open(ctx context.Context) (Exchange, error) {
	t.once.Do(func() {
		if t.target, t.err = http.NewRequest(http.MethodPost, t.URL, nil); t.err == nil {
			t.target.Header["Content-Type"] = contentType
			t.target.Header["User-Agent"] = []string{""} // none
		}
	})
	if t.err != nil {
		return nil, t.err
	}
	return &httpExchange{ctx: ctx, transport: t, answered: make(chan struct{})}, nil
}

// httpExchange is one POST. The writing side owns buf until it is posted, and is alone to set pipe and cancel; the
// fields of the answer are written before answered is closed, and read after.
type httpExchange struct {
	ctx       context.Context
	transport *HTTPTransport
	trace     httptrace.ClientTrace

	buf           []byte
	posting, sent atomic.Int32 // how often net/http has begun to send buf, and has done so

	mu     sync.Mutex         // guards these
	pipe   *io.PipeWriter     // once streaming
	cancel context.CancelFunc // likewise
	begun  bool               // or given up

	answered chan struct{}
	resp     *http.Response
	small    []byte // all of the answer's body, if it is small
	memory   *[]byte
	err      error
}

func (x *httpExchange) Write(p []byte) (int, error) {
	if x.pipe == nil && len(x.buf)+len(p) <= maxBuffered {
		x.buf = append(x.buf, p...)
		return len(p), nil
	}
	if err := x.Flush(); err != nil {
		return 0, err
	}
	return x.pipe.Write(p)
}

// keep is Write for bytes that are not used elsewhere.
func (x *httpExchange) keep(p []byte) error {
	if x.pipe == nil && len(x.buf) == 0 && len(p) <= maxBuffered {
		x.buf = p
		return nil
	}
	_, err := x.Write(p)
	recycle(p)
	return err
}

// Flush starts streaming if it has not begun. net/http sends what is written to a streamed body soon.
func (x *httpExchange) Flush() error {
	if x.pipe == nil {
		body, pipe := io.Pipe()
		ctx, cancel := context.WithCancel(x.ctx)
		if err := x.begin(pipe, cancel); err != nil {
			cancel()
			return err
		}
		go func() {
			x.post(ctx, body)
			if x.err != nil {
				body.CloseWithError(x.err)
			}
		}()
	}
	if len(x.buf) == 0 {
		return nil
	}
	_, err := x.pipe.Write(x.buf)
	x.buf = nil
	return err
}

func (x *httpExchange) CloseWrite() error {
	if x.pipe != nil {
		return x.pipe.Close()
	}
	if err := x.begin(nil, nil); err != nil {
		return err
	}
	x.post(x.ctx, nil)
	return x.err
}

// begin must come before post, which is called once.
func (x *httpExchange) begin(pipe *io.PipeWriter, cancel context.CancelFunc) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun {
		return errExchangeClosed
	}
	x.pipe, x.cancel, x.begun = pipe, cancel, true
	return nil
}

// abort gives the exchange up. Read fails from then on, unless it reads a small answer that is there. It
// may be called while others read or write.
func (x *httpExchange) abort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.begun {
		x.begun, x.err = true, errExchangeClosed
		close(x.answered)
	}
	if x.pipe != nil {
		x.pipe.CloseWithError(errExchangeClosed)
		x.cancel()
	}
}

// post sends the request and waits for the head of the answer. The body is what stream gives or, if that is nil, buf.
func (x *httpExchange) post(ctx context.Context, stream io.ReadCloser) {
	defer close(x.answered)
	t := x.transport
	if stream == nil {
		x.trace.WroteRequest = func(httptrace.WroteRequestInfo) { x.sent.Add(1) }
		ctx = httptrace.WithClientTrace(ctx, &x.trace)
	}
	req := t.target.WithContext(ctx)
	req.Body, req.ContentLength = stream, -1
	if stream == nil {
		// net/http sends head and body together if it knows the type of the body.
		req.GetBody = func() (io.ReadCloser, error) {
			x.posting.Add(1)
			return io.NopCloser(bytes.NewReader(x.buf)), nil
		}
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(x.buf))
	}
	rt := t.RoundTripper
	if rt == nil {
		rt = http.DefaultTransport
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		x.err = err
		return
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		x.err = fmt.Errorf("msl: the HTTP server answered %s, not a message", resp.Status)
		return
	}
	x.resp = resp
	if n := resp.ContentLength; 0 <= n && n <= maxBuffered {
		x.memory = bodies.Get().(*[]byte)
		small := resized(x.memory, int(n))
		if _, x.err = io.ReadFull(resp.Body, small); x.err == nil {
			x.small = small
		}
	}
}

// whole returns all of the answer if it is at hand, after CloseWrite, or nil.
func (x *httpExchange) whole() []byte {
	select {
	case <-x.answered:
		return x.small
	default:
		return nil
	}
}

// finished waits until the server has answered, after CloseWrite: only then the request is sure to have arrived.
func (x *httpExchange) finished() error {
	select {
	case <-x.answered:
		return x.err
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
}

func (x *httpExchange) Read(p []byte) (int, error) {
	select {
	case <-x.answered:
	case <-x.ctx.Done():
		return 0, x.ctx.Err()
	}
	switch {
	case x.err != nil:
		return 0, x.err
	case x.small != nil:
		n := copy(p, x.small)
		if x.small = x.small[n:]; n == 0 && len(p) > 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	return x.resp.Body.Read(p)
}

// Close gives the connection back if the answer was read to its end, and else breaks it off.
func (x *httpExchange) Close() error {
	x.abort()
	<-x.answered
	if x.resp == nil {
		return nil
	}
	if x.memory != nil {
		x.small = nil
		mslenc.Poison(*x.memory)
		bodies.Put(x.memory)
		x.memory = nil
	}
	if n := x.posting.Load(); n > 0 && x.sent.Load() == n { // else it may still be read, even after the answer
		recycle(x.buf)
		x.buf = nil
	}
	return x.resp.Body.Close()
}

var errExchangeClosed = errors.New("msl: exchange closed")

// bodies are memory for small messages. What is in it came from the network or goes there.
var bodies = sync.Pool{New: func() any { b := make([]byte, 8<<10); return &b }}

// boxes hold nothing, until recycle puts them around memory that goes to bodies.
var boxes = sync.Pool{New: func() any { return new([]byte) }}

// buffer returns an empty slice to which n bytes can be appended. recycle takes it back.
func buffer(n int) []byte {
	if n > maxBuffered {
		return make([]byte, 0, n)
	}
	box := bodies.Get().(*[]byte)
	b := resized(box, n)[:0]
	*box = nil
	boxes.Put(box)
	return b
}

// recycle gives back memory of a message that nobody uses any more.
func recycle(b []byte) {
	if 0 < cap(b) && cap(b) <= maxBuffered {
		mslenc.Poison(b)
		box := boxes.Get().(*[]byte)
		*box = b
		bodies.Put(box)
	}
}

// arenas are for the parts of a message while it is opened.
var arenas = sync.Pool{New: func() any { return mslenc.NewArena(16 << 10) }}

func giveBack(a *mslenc.Arena) {
	a.Reset()
	arenas.Put(a)
}

// resized returns n bytes of *b, which it replaces if it is too small.
func resized(b *[]byte, n int) []byte {
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	return (*b)[:n]
}
