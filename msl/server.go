// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A Handler answers messages. It reads the data of m and writes that of the answer, in any order, and
// sets the fields of w before it writes. The message and the writer are valid until it returns.
//
// An error that it returns is sent to the peer if nothing of the answer was sent yet: its Code if it has
// one, else InternalException. Otherwise the answer is cut off, which the peer notices. MasterTokenRejectedByApp and
// its like are what applications send to refuse an entity or a user; see [Reject].
type Handler interface {
	ServeMSL(ctx context.Context, w *ResponseWriter, m *Message) error
}

// handlerFunc is a function that is a Handler.
type handlerFunc func(ctx context.Context, w *ResponseWriter, m *Message) error

func (f handlerFunc) ServeMSL(ctx context.Context, w *ResponseWriter, m *Message) error {
	return f(ctx, w, m)
}

// A Server answers messages in a trusted services network (§8.6): it authenticates entities and users,
// issues and renews tokens, and hands messages to its handler. It keeps no state of its clients: whatever
// concerns one is in the tokens that it carries. It is safe for concurrent use.
type Server struct {
	// Failed, if not nil, is told of each message that failed, and why. Set it before the first message.
	Failed func(error)

	config  *Config
	keys    ServerKeys
	handler Handler
	cache   *tokenCache
}

// NewServer returns a server. Serve it with net/http, or message by message with ServeExchange.
func NewServer(c *Config, keys ServerKeys, h Handler) (*Server, error) {
	if _, err := c.ownScheme(); err != nil {
		return nil, err
	}
	if err := errors.Join(c.checkSchemes(), c.checkKeyExchanges()); err != nil {
		return nil, err
	}
	config := *c
	config.Capabilities = config.capabilities().ready()
	if config.Policy == nil {
		config.Policy = NewMemoryPolicy(&config)
	}
	return &Server{config: &config, keys: keys, handler: h, cache: newTokenCache()}, nil
}

// errMessageCut means that an answer was begun and could not be completed.
var errMessageCut = errors.New("msl: the answer was cut off")

// ServeExchange reads one message from r and writes the answer to w, whose Flush() error method it calls
// if there is one. The error says what failed, even if the peer was told so by an error message; it
// is for logs. r may be read until ServeExchange returns.
func (s *Server) ServeExchange(ctx context.Context, r io.Reader, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.serve(ctx, mslenc.NewDecoder(r, s.config.decoderLimits()), w)
}

func (s *Server) serve(ctx context.Context, d *mslenc.Decoder, w io.Writer) error {
	err := s.exchange(ctx, d, w)
	if err != nil && s.Failed != nil {
		s.Failed(err)
	}
	return err
}

// exchange receives one message and responds (§8.6).
func (s *Server) exchange(ctx context.Context, d *mslenc.Decoder, w io.Writer) error {
	o := opener{cfg: s.config, entities: s.keys, tokens: s.keys, services: s.keys, cache: s.cache}
	m, err := o.open(ctx, d)
	if err != nil {
		return s.refuse(ctx, w, err, nil)
	}
	defer m.Close()
	if m.Err != nil {
		return m.Err // nothing is said to an error message
	}
	answer := &ResponseWriter{ctx: ctx, server: s, request: m, out: &sentWriter{w: w}}
	if m.Handshake() {
		answer.Protection = Unprotected
		err = answer.closeHeader()
	} else if err = s.handler.ServeMSL(ctx, answer, m); err == nil {
		err = answer.close()
	}
	switch {
	case err == nil:
		return nil
	case answer.out.sent:
		answer.writer.abort()
		return errors.Join(errMessageCut, err)
	}
	return s.refuse(ctx, w, withID(err, m.ID), m.Capabilities)
}

// refuse answers with an error message (§4.12). It returns err, which is what it answers to.
func (s *Server) refuse(ctx context.Context, w io.Writer, err error, c *Capabilities) error {
	if ctx.Err() != nil {
		return err // nobody waits for an answer any more (§8.11)
	}
	var languages []string
	if c != nil {
		languages = c.Languages
	}
	message, failed := sealError(ctx, s.config, s.keys, err, languages)
	if failed == nil {
		_, failed = w.Write(message)
	}
	return errors.Join(err, failed)
}

// Reject returns the error with which an application refuses the sender of a message, or its user
// (§8.6): the client then authenticates anew.
func Reject(m *Message, user bool) error {
	switch {
	case user && m.UserIDToken != nil:
		return UserIDTokenRejectedByApp
	case user:
		return UserRejectedByApp
	case m.MasterToken != nil:
		return MasterTokenRejectedByApp
	default:
		return EntityRejectedByApp
	}
}

// A ResponseWriter writes the answer to one message. The header is built when the first data is written,
// or the handler returns; the fields must be set before. It is not safe for concurrent use.
type ResponseWriter struct {
	// Protection is what the answer's data must have. If the answer cannot have it, the client is told to
	// exchange keys first (§8.6).
	Protection Protection

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

func (w *ResponseWriter) close() error {
	if err := w.begin(); err != nil {
		return err
	}
	return w.writer.Close()
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
		w.failed = w.start()
	}
	return w.failed
}

func (w *ResponseWriter) start() error {
	s := w.server
	r := responder{cfg: s.config, entities: s.keys, issuer: s.keys}
	out, err := r.respond(w.ctx, w.request)
	if err != nil {
		return err
	}
	scheme, err := s.config.ownScheme()
	if err != nil {
		return err
	}
	session := w.request.Session
	if fresh, ok := out.payloadContext.(*Session); ok {
		session = fresh
	}
	switch {
	case w.Protection <= IntegrityProtected && session == nil && !scheme.protects:
		return ResponseRequiresIntegrityProtection
	case w.Protection == Encrypted && session == nil && !scheme.encrypts:
		return ResponseRequiresEncryption
	case w.User != "" && session == nil:
		return ResponseRequiresMasterToken
	case w.User != "" && out.header.UserIDToken == nil:
		if out.header.UserIDToken, err = r.issueUser(w.ctx, session, w.User, -1, nil, s.config.now()); err != nil {
			return err
		}
	}
	verifier := out.header.verifier(out.outer.master)
	for i := range w.ServiceTokens {
		t, err := w.ServiceTokens[i].seal(w.ctx, s.config, s.keys, verifier, out.header.UserIDToken)
		if err != nil {
			return err
		}
		if t != nil {
			out.header.ServiceTokens = replaceServiceToken(out.header.ServiceTokens, t)
		}
	}
	out.compression, out.chunkSize = w.Compression, w.ChunkSize
	w.writer, err = newMessageWriter(w.ctx, w.out, out)
	return err
}
