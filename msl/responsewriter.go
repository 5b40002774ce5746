// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
)

// A ResponseWriter writes the answer to one message. The header is built when the first data is written,
// or the handler returns; the fields must be set before. It is not safe for concurrent use.
type ResponseWriter struct {
	// Protection is what the answer's data must have. If the answer cannot have it, the client is told to
	// exchange keys first (§8.6). Peers exchange them by themselves.
	Protection Protection

	// Silent sends no answer, unless data is written: the message was one-way (§8.1).
	Silent bool

	// User, if not empty, is the user to whom a user ID token is issued, unless the message has one already.
	User string

	// ServiceTokens are added to those of the message, which are echoed, and replace those of the same name
	// and binding. One with empty data tells the client to delete its own.
	ServiceTokens []NewServiceToken

	// Compression is "" for the first algorithm that both sides have, "NONE", "GZIP" or "LZW".
	Compression string

	// ChunkSize is the most data in one payload, in bytes. 0 means 64 KiB.
	ChunkSize int

	ctx     context.Context
	server  *Server
	request *Message
	out     *sentWriter
	writer  *MessageWriter
	failed  error
	given   *given          // once the header was built
	peer    *peerExchange   // in a peer-to-peer network
	empty   bool            // nothing was written, and nothing will
	pushing bool            // this is a pushed message
	next    *ResponseWriter // the pushed message after this one
}

// A sentWriter knows whether anything was sent.
type sentWriter struct {
	w    io.Writer
	sent bool
}

func (s *sentWriter) Write(p []byte) (int, error) {
	s.sent = true
	return s.w.Write(p)
}

func (s *sentWriter) keep(p []byte) error {
	s.sent = true
	return give(s.w, p)
}

func (s *sentWriter) Flush() error {
	if f, ok := s.w.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}

// Write adds data to the answer. Nothing is sent before Flush, a full chunk, or the end.
func (w *ResponseWriter) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	return w.writer.Write(p)
}

// Flush sends what was written so far, as a chunk of its own.
func (w *ResponseWriter) Flush() error {
	if err := w.begin(); err != nil {
		return err
	}
	return w.writer.Flush()
}

// errPeersPush: peers send requests to each other instead.
var errPeersPush = errors.New("msl: in a peer-to-peer network nothing is pushed")

// Push begins another message to the peer (§8.6), with the tokens of the answer but without issuing any, and
// a random id. It completes the message that w writes, if that was begun; otherwise there is no
// such message, and the pushed one takes its place. Handlers may push as many as they like, each with the writer of the last.
func (w *ResponseWriter) Push() (*ResponseWriter, error) {
	switch {
	case w.peer != nil:
		return nil, errPeersPush
	case w.next != nil:
		return nil, errClosed
	case w.failed != nil:
		return nil, w.failed
	}
	next := &ResponseWriter{ctx: w.ctx, server: w.server, request: w.request, out: w.out, given: w.given, pushing: true}
	if w.writer != nil {
		if err := w.writer.Close(); err != nil {
			return nil, err
		}
	}
	w.next, w.failed = next, errClosed
	return next, nil
}

// serve has the handler write the answer, and completes it.
func (w *ResponseWriter) serve() error {
	err := w.server.handler.ServeMSL(w.ctx, w, w.request)
	last := w.last()
	switch {
	case err != nil && last.failed != nil && !errors.Is(err, last.failed):
		return errors.Join(last.failed, err) // the handler may not tell why it could not write
	case err != nil:
		return err
	}
	if last.Silent && last.writer == nil && last.failed == nil {
		return nil
	}
	last.empty = last.writer == nil
	if err := last.begin(); err != nil {
		return err
	}
	return last.writer.Close()
}

// last returns the writer of the message that is being written.
func (w *ResponseWriter) last() *ResponseWriter {
	for w.next != nil {
		w = w.next
	}
	return w
}

// abort makes sure that the peer does not take the message for whole.
func (w *ResponseWriter) abort() {
	if last := w.last(); last.writer != nil {
		last.writer.abort()
	}
}

// closeHeader ends the answer to a handshake, which has no chunks and is not a handshake itself.
func (w *ResponseWriter) closeHeader() error {
	if err := w.begin(); err != nil {
		return err
	}
	return w.writer.closeHeader()
}

// begin builds the header of the answer (§8.6), once.
func (w *ResponseWriter) begin() error {
	if w.writer == nil && w.failed == nil {
		if w.peer != nil {
			w.failed = w.peer.start(w)
		} else {
			w.failed = w.start()
		}
	}
	return w.failed
}

func (w *ResponseWriter) start() (err error) {
	s := w.server
	r := responder{cfg: s.config, entities: s.keys, issuer: s.keys}
	if w.given, err = w.give(&r); err != nil {
		return err
	}
	scheme, err := s.config.ownScheme()
	switch session := w.given.session; {
	case err != nil:
		return err
	case w.Protection <= IntegrityProtected && session == nil && !scheme.protects:
		return ResponseRequiresIntegrityProtection
	case w.Protection == Encrypted && session == nil && !scheme.encrypts:
		return ResponseRequiresEncryption
	}
	if err := r.add(w.ctx, s.keys, w.given, w.User, w.ServiceTokens); err != nil {
		return err
	}
	out, err := r.respond(w.ctx, w.request, w.given)
	if err != nil {
		return err
	}
	if w.pushing {
		out.header.MessageID = randomID()
	}
	out.compression, out.chunkSize = w.Compression, w.ChunkSize
	w.writer, err = newMessageWriter(w.ctx, w.out, out)
	return err
}

// give has tokens issued for the answer. A pushed message has those of the answer before it, or of the request.
func (w *ResponseWriter) give(r *responder) (*given, error) {
	switch {
	case !w.pushing:
		return r.give(w.ctx, w.request)
	case w.given == nil:
		return echoed(w.request), nil
	}
	again := *w.given
	again.response = nil // the peer has the new token by now
	return &again, nil
}
