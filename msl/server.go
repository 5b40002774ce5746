// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
	"time"

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

// A Server answers messages (§8.6): it authenticates entities and users, issues and renews tokens, and hands
// messages to its handler. In a trusted services network it keeps no state of its clients: whatever concerns one
// is in the tokens that it carries. In a peer-to-peer network it keeps, in memory, the tokens that they have
// issued to it. It is safe for concurrent use.
type Server struct {
	// Failed, if not nil, is told of each message that failed, and why. Set it before the first message.
	Failed func(error)

	// Of the connections that ServeConn and Serve serve. IdleTimeout is how long a peer may be silent, between two messages and within
	// one, and how long it may take to accept what is written; zero means 2 minutes. Grace is how long a message that has begun
	// may take when the server stops; zero means 10 seconds. MaxConns is how many connections Serve has at once, while others wait;
	// zero means 4096.
	IdleTimeout, Grace time.Duration
	MaxConns           int

	config  *Config
	keys    ServerKeys
	handler Handler
	cache   *tokenCache
	peers   *peerTable // nil in a trusted services network
}

// NewServer returns a server. Serve it with net/http, connections with ServeConn, or single messages with
// ServeExchange. In a peer-to-peer network keys must be ClientKeys as well, and only ServeConn serves.
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
	s := &Server{config: &config, keys: keys, handler: h, cache: newTokenCache()}
	if c.PeerToPeer {
		var err error
		if s.peers, err = newPeerTable(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// errMessageCut means that an answer was begun and could not be completed.
var errMessageCut = errors.New("msl: the answer was cut off")

// ServeExchange reads one message of a trusted services network from r and writes the answer to w, whose Flush() error method it calls
// if there is one. The error says what failed, even if the peer was told so by an error message; it
// is for logs. r may be read until ServeExchange returns.
func (s *Server) ServeExchange(ctx context.Context, r io.Reader, w io.Writer) error {
	if s.peers != nil {
		return s.told(fail(InternalException, "a single message between peers", nil))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.serve(ctx, mslenc.NewDecoder(r, s.config.decoderLimits()), w)
}

func (s *Server) serve(ctx context.Context, d *mslenc.Decoder, w io.Writer) error {
	return s.told(s.exchange(ctx, d, w))
}

// told passes an error on to who wants to know.
func (s *Server) told(err error) error {
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
		return s.ended(answer, answer.closeHeader())
	}
	return s.ended(answer, answer.serve())
}

// ended tells the peer if answering failed, as far as that is possible still. It returns err.
func (s *Server) ended(answer *ResponseWriter, err error) error {
	switch {
	case err == nil:
		return nil
	case answer.out.sent:
		answer.abort()
		return errors.Join(errMessageCut, err)
	}
	request := answer.request
	if answer.peer != nil {
		request = answer.peer.peer.answering // the last one
	}
	return s.refuse(answer.ctx, answer.out, withID(err, request.ID), request.Capabilities)
}

// refuse answers with an error message (§4.12). It returns err, which is what it answers to.
func (s *Server) refuse(ctx context.Context, w io.Writer, err error, c *Capabilities) error {
	if errors.Is(err, errGivenUp) || ctx.Err() != nil {
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
