// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// ServeHTTP answers messages that are posted, at any path (§8.12). An error message has status 200 as
// well; other statuses mean that there was no MSL at all.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.peers != nil {
		http.Error(w, "HTTP does not carry messages between peers", http.StatusNotImplemented)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "MSL messages are posted", http.StatusMethodNotAllowed)
		return
	}
	w.Header()["Content-Type"] = contentType
	w.Header()["Date"] = nil // MSL has its own clock (§8.7)
	out := &httpResponse{w: w}
	err := s.serveBody(r, out)
	switch {
	case errors.Is(err, errMessageCut), err != nil && !out.started && len(out.buf) == 0:
		panic(http.ErrAbortHandler) // so that the peer does not take a part, or nothing, for an answer
	case !out.started:
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(out.buf))}
	}
	_ = out.finish()
	if !small(r) {
		// net/http panics where it finds the end of a full-duplex body itself (golang.org/issue/68560).
		_ = http.NewResponseController(w).Flush()
		_ = r.Body.Close()
	}
}

// small tells whether the whole body is read at once.
func small(r *http.Request) bool { return 0 <= r.ContentLength && r.ContentLength <= maxBuffered }

var contentType = []string{"application/msl"}

// serveBody answers the message in the body of a request. A small one is read first, so that all its
// parts are opened at once.
func (s *Server) serveBody(r *http.Request, out *httpResponse) error {
	limits := s.config.decoderLimits()
	if small(r) {
		memory := bodies.Get().(*[]byte)
		defer func() {
			mslenc.Poison(*memory)
			bodies.Put(memory)
		}()
		body := resized(memory, int(r.ContentLength))
		n, _ := io.ReadFull(r.Body, body) // less is seen to be cut off
		return s.serve(r.Context(), mslenc.NewBytesDecoder(body[:n], limits), out)
	}
	// Lets a response begin while its request still arrives. Where the protocol does so anyway, as HTTP/2, this fails.
	_ = http.NewResponseController(out.w).EnableFullDuplex()
	return s.serve(r.Context(), mslenc.NewDecoder(r.Body, limits), out)
}

// httpResponse keeps a small response back, so that it goes out with its length known.
type httpResponse struct {
	w       http.ResponseWriter
	buf     []byte
	started bool
}

func (h *httpResponse) Write(p []byte) (int, error) {
	if !h.started && len(h.buf)+len(p) <= maxBuffered {
		h.buf = append(h.buf, p...)
		return len(p), nil
	}
	if err := h.finish(); err != nil {
		return 0, err
	}
	return h.w.Write(p)
}

// keep is Write for bytes that are not used elsewhere.
func (h *httpResponse) keep(p []byte) error {
	if !h.started && len(h.buf) == 0 && len(p) <= maxBuffered {
		h.buf = p
		return nil
	}
	_, err := h.Write(p)
	recycle(p)
	return err
}

func (h *httpResponse) Flush() error {
	if err := h.finish(); err != nil {
		return err
	}
	return http.NewResponseController(h.w).Flush()
}

// finish hands over what was kept back.
func (h *httpResponse) finish() error {
	h.started = true
	if len(h.buf) == 0 {
		return nil
	}
	_, err := h.w.Write(h.buf)
	recycle(h.buf)
	h.buf = nil
	return err
}

// HTTPHandler serves the application data of messages with an HTTP handler: each message becomes a POST
// whose body is its data, with the sender in the header MSL-Entity and the user, if any, in MSL-User. Both are
// removed from what a peer could set: there is no other header. A 2xx response becomes the data of the
// answer. Any other status becomes an error message: transient for 429 and 5xx, else a failure.
func HTTPHandler(h http.Handler) Handler {
	return handlerFunc(func(ctx context.Context, w *ResponseWriter, m *Message) error {
		// Some handlers panic if they cannot complete an answer, others only if they see that there is a server.
		ctx = context.WithValue(ctx, http.ServerContextKey, new(http.Server))
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", io.NopCloser(m))
		if err != nil {
			return err
		}
		r.ContentLength = -1
		r.RequestURI = "/"
		r.Header.Set("MSL-Entity", m.Identity())
		if m.User != "" {
			r.Header.Set("MSL-User", m.User)
		}
		answer := &httpAnswer{w: w, header: make(http.Header)}
		return errors.Join(aborted(h, answer, r), answer.err())
	})
}

var errAborted = errors.New("msl: the HTTP handler gave up")

// aborted calls a handler, and turns the panic by which it gives up into an error.
func aborted(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			err = errAborted
		default:
			panic(v)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// httpAnswer turns what an HTTP handler answers into application data.
type httpAnswer struct {
	w      *ResponseWriter
	header http.Header
	status int
}

func (a *httpAnswer) Header() http.Header { return a.header }

func (a *httpAnswer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

func (a *httpAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.err() != nil {
		return len(p), nil // the text of an HTTP error goes nowhere
	}
	return a.w.Write(p)
}

// FlushError sends what was written so far.
func (a *httpAnswer) FlushError() error {
	if a.err() != nil {
		return nil
	}
	return a.w.Flush()
}

// Flush is FlushError for handlers that know only http.Flusher.
func (a *httpAnswer) Flush() { _ = a.FlushError() }

func (a *httpAnswer) err() error {
	switch {
	case a.status < 300:
		return nil
	case a.status == http.StatusTooManyRequests || a.status >= 500:
		return InternalException
	default:
		return MSLCommsFailure
	}
}
