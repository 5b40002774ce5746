// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A peerSide is what an exchange of a peer-to-peer network has beside that of a client (§8.14). Each message
// shows the tokens that the other side has issued, and gives the other side those to show next time.
type peerSide struct {
	decoder    *mslenc.Decoder // of the connection, which carries all messages of the exchange
	answering  *Message        // what the next message answers; nil if it is the first
	given      *given          // to the sender of answering, once that is known
	user       string          // that the application gives the sender a token for
	services   []NewServiceToken
	tokensOnly bool // the next message has tokens, and no data
	serving    bool // this is the side that was asked
	quiet      bool // the answer is empty: it must not ask for keys, or would look like a handshake
}

// issues makes the client one that issues tokens, too.
func (c *Client) issues() error {
	issuer, ok := c.keys.(ServerKeys)
	if !ok {
		return errors.New("msl: a peer-to-peer network needs custody that issues tokens")
	}
	if _, ok := c.transport.(*HTTPTransport); ok {
		return errors.New("msl: HTTP does not carry messages of a peer-to-peer network")
	}
	c.issuer = issuer
	if c.config.Policy == nil {
		c.config.Policy = NewMemoryPolicy(c.config)
	}
	return nil
}

// wanted is the request, or what is left of it for a message that only brings tokens.
func (x *exchange) wanted() *Request {
	if x.peer.tokensOnly {
		return &Request{Protection: Unprotected}
	}
	return x.request
}

// answers makes the next message an answer to m, which brought this side tokens, or asks it for some
// before data can come.
func (x *exchange) answers(m *Message) {
	if x.client.issuer == nil {
		return
	}
	x.peer.answering, x.peer.given = m, nil
	x.peer.tokensOnly = m.Handshake() && !x.sentHandshake
}

// beginAgain makes the next message one with data, after an error message. The peer has given up what it was
// asking for, so nothing new is given to it.
func (x *exchange) beginAgain() {
	if m := x.peer.answering; m != nil {
		x.peer.given, x.peer.tokensOnly = echoed(m), false
	}
}

// addPeerTokens adds what the receiver is to show next time.
func (x *exchange) addPeerTokens(ctx context.Context, h *headerData) error {
	c, p := x.client, &x.peer
	m := p.answering
	if m == nil {
		return nil
	}
	if p.given == nil {
		r := responder{cfg: c.config, entities: c.keys, issuer: c.issuer}
		g, err := r.give(ctx, m)
		if err != nil {
			return err
		}
		if err := r.add(ctx, c.keys, g, p.user, p.services); err != nil {
			return withID(err, m.ID)
		}
		p.given = g
	}
	h.Capabilities = m.Capabilities.Intersect(c.config.capabilities())
	h.KeyResponse = p.given.response
	h.PeerMasterToken = m.MasterToken
	h.PeerUserIDToken, h.PeerServiceTokens = p.given.user, p.given.services
	return nil
}

// asksForTokens reports whether a message with data wants to be answered with tokens (§8.4, 6).
func (m *Message) asksForTokens() bool {
	return len(m.KeyRequests) > 0 || m.Renewable && m.MasterToken != nil && m.UserAuth
}

// reply sends the tokens that the peer's answer asks for, in a message without data that nobody answers. It goes
// out after the data of the request, beside what the caller reads.
func (x *exchange) reply(ctx context.Context, m *Message) error {
	if x.client.issuer == nil || !m.asksForTokens() {
		return nil
	}
	x.unlock()
	x.let()
	x.messageID, x.hasID = addID(m.ID, 1), true
	x.peer.answering, x.peer.given, x.peer.tokensOnly = m, nil, true
	if err := x.take(ctx); err != nil {
		return err
	}
	h, err := x.header(ctx)
	if err != nil {
		return err
	}
	w, err := x.writer(ctx, h, x.transport)
	if err != nil {
		return err
	}
	data, done, transport := x.writing, make(chan error, 1), x.transport
	x.writing = done
	go func() {
		var err error
		if data != nil {
			err = <-data
		}
		if err == nil {
			err = complete(w, transport)
		}
		done <- err
	}()
	return nil
}

// checkPeer makes sure that all messages of an exchange come from one entity.
func (x *exchange) checkPeer(m *Message) error {
	if first := x.peer.answering; first != nil && m.Identity() != first.Identity() {
		return withID(fail(MessageSenderMismatch, "answer", nil), m.ID)
	}
	return nil
}

// complain tells the peer, if that can be done, what was wrong with its message: it may have shown tokens that
// are good for nothing any more.
func (x *exchange) complain(ctx context.Context, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok || x.client.issuer == nil || x.transport == nil || x.writing != nil || e.Code == MSLCommsFailure || ctx.Err() != nil {
		return
	}
	message, failed := sealError(ctx, x.client.config, x.client.keys, e, nil)
	if failed == nil {
		_, failed = x.transport.Write(message)
	}
	if failed == nil {
		_ = x.transport.CloseWrite()
	}
}
