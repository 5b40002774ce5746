// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"sync"
)

// maxParties is how many peers a server remembers the tokens of. With one that it forgot it exchanges keys again.
const maxParties = 1 << 14

// A peerTable is what a server of a peer-to-peer network remembers of its peers: for each, the tokens that it
// has issued to this side. A peer is known by the master token that this side has issued to it, which,
// unlike the name of an entity, nobody can claim who has not authenticated as its owner.
type peerTable struct {
	server *Server
	scheme *entityScheme
	keys   ClientKeys

	mu      sync.Mutex
	parties map[int64]*Client // by serial number
}

func newPeerTable(s *Server) (*peerTable, error) {
	keys, ok := s.keys.(ClientKeys)
	if !ok {
		return nil, errors.New("msl: a peer-to-peer network needs custody that exchanges keys")
	}
	scheme, err := s.config.ownScheme()
	return &peerTable{server: s, scheme: scheme, keys: keys, parties: make(map[int64]*Client)}, err
}

// party returns this side's tokens for whoever sent a message.
func (t *peerTable) party(m *Message) *Client {
	if m.MasterToken != nil {
		t.mu.Lock()
		c := t.parties[m.MasterToken.SerialNumber]
		t.mu.Unlock()
		if c != nil {
			return c
		}
	}
	s := t.server
	c := &Client{config: s.config, scheme: t.scheme, keys: t.keys, issuer: s.keys, cache: s.cache}
	c.state = clientState{store: new(MemoryStore), keys: t.keys}
	return c
}

// remember keeps a party under the token that its peer has from now on. Another one that is there already, because
// the peer sent two messages at once, stays.
func (t *peerTable) remember(m *MasterToken, c *Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parties[m.SerialNumber] != nil {
		return
	}
	for serial, other := range t.parties {
		if len(t.parties) < maxParties {
			break
		}
		delete(t.parties, serial)
		other.Close()
	}
	t.parties[m.SerialNumber] = c
}

// lastSent is the last message on a connection that showed a master token.
type lastSent struct {
	client *Client
	token  *MasterToken
	to     string // identity
}

// A peerExchange is the side of an exchange that was asked.
type peerExchange struct {
	*exchange
	conn *serverConn
	sent *headerData // the message with data
}

// exchangePeer receives one message of a peer and responds, which may take several more each way (§8.14).
func (s *Server) exchangePeer(ctx context.Context, c *serverConn) error {
	o := opener{cfg: s.config, entities: s.keys, tokens: s.keys, services: s.keys, cache: s.cache}
	m, err := o.open(ctx, c.in)
	if err != nil {
		return s.refuse(ctx, c, err, nil)
	}
	if m.Err != nil {
		c.complaint(ctx, m.Err)
		return m.Err // nothing is said to an error message
	}
	p := s.newPeerExchange(ctx, c, m)
	defer p.close()
	if m, err = p.greet(ctx, m); err != nil {
		return s.refuse(ctx, c, withID(err, p.peer.answering.ID), p.peer.answering.Capabilities)
	}
	defer m.Close()
	answer := &ResponseWriter{ctx: ctx, server: s, request: m, out: &sentWriter{w: c}, peer: p}
	if err := answer.serve(); err != nil {
		return s.ended(answer, err)
	}
	if p.sent == nil || p.sent.KeyRequests == nil {
		return nil
	}
	if err := c.Flush(); err != nil {
		return sendError(err)
	}
	_ = m.Close() // what is left of its data stands before the reply
	if _, err = p.hear(ctx, p.sent); err != nil && !errors.Is(err, errGivenUp) {
		return errors.Join(errOutOfStep, err)
	}
	return err
}

func (s *Server) newPeerExchange(ctx context.Context, c *serverConn, m *Message) *peerExchange {
	client := s.peers.party(m)
	if m.MasterToken != nil {
		s.peers.remember(m.MasterToken, client)
	}
	_, x := client.exchange(ctx, new(Request))
	p := &peerExchange{exchange: x, conn: c}
	x.transport = c
	x.peer = peerSide{decoder: c.in, serving: true}
	p.turn(ctx, m)
	return p
}

// turn makes m the message that comes to be answered.
func (p *peerExchange) turn(ctx context.Context, m *Message) {
	p.messageID, p.hasID = addID(m.ID, 1), true
	p.peer.answering, p.peer.given = m, nil
	p.client.noteTime(m)
	p.keep(ctx, m, false)
}

// greet answers handshakes with tokens and no data, until the peer says something else, which it returns (§8.6).
func (p *peerExchange) greet(ctx context.Context, m *Message) (*Message, error) {
	for count := 1; m.Handshake(); count += 2 {
		if count+2 > maxMessages {
			return nil, errTooManyMessages
		}
		p.request = &Request{Protection: Unprotected}
		p.peer.tokensOnly = true
		h, err := p.next(ctx)
		if err != nil {
			return nil, err
		}
		if m, err = p.exchangeHeaders(ctx, h); err != nil {
			return nil, err
		}
	}
	p.peer.tokensOnly = false
	return m, nil
}

// next prepares the next message to the peer.
func (p *peerExchange) next(ctx context.Context) (*headerData, error) {
	h, err := p.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if g := p.peer.given; g.token != nil {
		p.conn.server.peers.remember(g.token, p.client)
	}
	p.conn.last = lastSent{client: p.client, token: p.token(), to: p.peer.answering.Identity()}
	return h, nil
}

// exchangeHeaders sends a message without data, and makes the peer's answer the one that comes to be answered.
func (p *peerExchange) exchangeHeaders(ctx context.Context, h *headerData) (*Message, error) {
	w, err := p.writer(ctx, h, p.conn)
	if err != nil {
		return nil, err
	}
	if err = completeHeader(w, p.conn); err != nil {
		return nil, err
	}
	m, err := p.hear(ctx, h)
	if err != nil {
		return nil, err
	}
	p.turn(ctx, m)
	p.endTrip()
	return m, nil
}

// errOutOfStep means that the peer sent something else than its tokens, perhaps another request, and so does not know
// what this side is waiting for.
var errOutOfStep = errors.New("msl: not the tokens that were asked for")

// errGivenUp means that the peer sent an error message instead of going on.
var errGivenUp = errors.New("msl: the peer gave up")

// hear opens what the peer says to a message of this side.
func (p *peerExchange) hear(ctx context.Context, sent *headerData) (*Message, error) {
	m, err := p.receive(ctx, sent)
	if err != nil {
		return nil, err
	}
	if m.Err != nil {
		p.conn.complaint(ctx, m.Err)
		return nil, errors.Join(errGivenUp, m.Err)
	}
	return m, nil
}

// start builds the header of the answer, after a handshake if the answer cannot be protected otherwise (§8.6).
func (p *peerExchange) start(w *ResponseWriter) error {
	p.request = &Request{Protection: w.Protection, Compression: w.Compression, ChunkSize: w.ChunkSize}
	p.peer.user, p.peer.services, p.peer.quiet = w.User, w.ServiceTokens, w.empty
	for count := 3; count+2 <= maxMessages; count += 2 {
		h, err := p.next(w.ctx)
		if err != nil {
			return err
		}
		if !h.Handshake {
			p.sent = h
			w.writer, err = p.writer(w.ctx, h, w.out)
			return err
		}
		if err := w.request.hold(); err != nil {
			return err
		}
		if _, err = p.exchangeHeaders(w.ctx, h); err != nil {
			return err
		}
	}
	return errTooManyMessages
}

// complaint is an error message about what this side sent: a master token that the peer does not accept is
// forgotten (§8.5).
func (c *serverConn) complaint(ctx context.Context, e *RemoteError) {
	switch e.Response {
	case EntityReauth, EntityDataReauth, Expired:
		if l := c.last; l.client != nil && l.token != nil && e.Entity.Identity() == l.to {
			l.client.state.rejected(ctx, l.token)
		}
	}
}
