// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"io"
	"slices"
)

// A pendingRequest is a key request that this exchange sends with every renewable message.
type pendingRequest struct {
	scheme  string
	pending PendingExchange
}

// roundTrip sends one message and opens the answer (§8.3, §8.4). It does so again, on a new connection, if the one that
// it got had died meanwhile and the peer cannot mistake that for two messages.
func (x *exchange) roundTrip(ctx context.Context) (*Message, error) {
	m, err := x.trip(ctx, false)
	if err != nil && ctx.Err() == nil && x.lost() {
		x.hangUp()
		x.endTrip()
		m, err = x.trip(ctx, true)
	}
	return m, err
}

func (x *exchange) trip(ctx context.Context, anew bool) (*Message, error) {
	h, err := x.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := x.open(ctx, anew); err != nil {
		return nil, err
	}
	w, err := x.writer(ctx, h, x.transport)
	if err != nil {
		return nil, err
	}
	x.sentHandshake, x.sentData, x.sentKeys = h.Handshake, !h.Handshake && !x.peer.tokensOnly, h.KeyRequests != nil
	if x.sentData {
		err = x.write(ctx, w)
	} else {
		err = completeHeader(w, x.transport)
	}
	if err != nil {
		return nil, err
	}
	if x.oneWay && x.sentData {
		return x.sent(ctx, h)
	}
	m, err := x.receive(ctx, h)
	if err != nil {
		return nil, x.cause(err)
	}
	return m, nil
}

// prepare chooses the tokens of the next message and builds its header, anew if they are replaced
// under it.
func (x *exchange) prepare(ctx context.Context) (*headerData, error) {
	for {
		if err := x.choose(ctx); err != nil {
			return nil, err
		}
		h, err := x.header(ctx)
		if !errors.Is(err, errReplaced) {
			return h, err
		}
		x.unlock()
		x.let()
	}
}

// unlock gives the renewal lock back, if this exchange has it.
func (x *exchange) unlock() {
	if x.renewable {
		x.renewable = false
		x.client.renewal.release()
	}
}

// cause prefers the reason why the body could not be sent to what reading the answer made of that.
func (x *exchange) cause(err error) error {
	select {
	case failed := <-x.writing:
		x.writing = nil
		if failed != nil {
			return failed
		}
	default:
	}
	return err
}

// header builds the header data of the next message (§8.3).
func (x *exchange) header(ctx context.Context) (*headerData, error) {
	c, r := x.client, x.wanted()
	id := x.messageID
	if !x.hasID {
		id = randomID()
	}
	h := newHeaderData(c.config, c.now(), id)
	x.messageID, x.hasID = id, true
	h.Sender = c.config.Entity.Identity()
	h.Renewable = x.renewable
	h.UserIDToken = x.user

	delayed := false
	if r.User != "" && x.user == nil && r.Credentials != nil {
		if !x.encryptsHeader() {
			delayed = true
		} else {
			data, err := r.Credentials(ctx, x.again)
			if err == nil && data == nil && x.again {
				err = x.last // there is nothing better than what was rejected
			}
			if err != nil {
				return nil, err
			}
			h.UserAuth = data
		}
	}
	token := x.token()
	asks := h.Renewable && (token == nil || token.Renewable(x.remoteTime()) || r.NonReplayable || x.forced)
	h.Handshake = delayed || !x.protects(r.Protection) || r.NonReplayable && token == nil || h.Renewable && (x.oneWay || x.keysFirst)
	if asks && !h.Handshake {
		var err error
		// A message that asks for keys and is empty looks like a handshake (§4.9), so it becomes one.
		if h.Handshake, err = x.empty(); err != nil {
			return nil, err
		}
	}
	if h.Handshake {
		h.Renewable = true
	} else if r.NonReplayable {
		next, err := c.state.nonReplayableID(ctx, token)
		if err != nil {
			return nil, err
		}
		h.NonReplayableID = next
	}
	if asks || h.Handshake && (token == nil || token.Renewable(x.remoteTime()) || r.NonReplayable || x.forced) {
		if err := x.begin(ctx); err != nil {
			return nil, err
		}
		for _, p := range x.pending {
			h.KeyRequests = append(h.KeyRequests, KeyRequest{Scheme: p.scheme, KeyData: p.pending.KeyData()})
		}
	}
	if err := x.addPeerTokens(ctx, h); err != nil {
		return nil, err
	}
	return h, x.addServiceTokens(ctx, h)
}

// begin makes a key request for every exchange that the configuration names, once. Those for which this side lacks
// pre-shared keys are left out, if others are left: a party that answers names what it accepts, too.
func (x *exchange) begin(ctx context.Context) error {
	if x.pending != nil {
		return nil
	}
	c := x.client
	var lacking error
	for _, k := range c.config.keyExchanges() {
		var previous CryptoContext
		if k.continues() {
			if x.session == nil {
				continue
			}
			previous = x.session.context
		}
		p, err := c.keys.BeginExchange(ctx, k.Scheme, k.Mechanism, c.config.Entity.Identity(), previous)
		if previous != nil && numberOf(err) == int(KeyxWrappingKeyMissing)-codeBase {
			continue // the session came from another kind of exchange
		}
		if err != nil {
			f := failureOf(err)
			err = custodyError(err, InternalException, "key request")
			if k.preShared() && (f == NoSuchKey || f == NotSupported) {
				lacking = err
				continue
			}
			return err
		}
		x.pending = append(x.pending, &pendingRequest{k.Scheme, p})
	}
	switch {
	case x.pending != nil:
		return nil
	case lacking != nil:
		return lacking
	}
	return errors.New("msl: a key exchange is needed, but the configuration names none that is possible now")
}

// addServiceTokens adds the tokens that the client keeps for this message, then the request's own, which
// replace those of the same name and binding (§8.15).
func (x *exchange) addServiceTokens(ctx context.Context, h *headerData) error {
	c := x.client
	h.ServiceTokens = c.state.applicable(x.snapshot)
	r := x.wanted()
	if h.Handshake || len(r.ServiceTokens) == 0 {
		return nil
	}
	with, err := addServiceTokens(ctx, c.config, c.keys, h.ServiceTokens, r.ServiceTokens, x.token(), x.user)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(with), func(t *ServiceToken) bool { return slices.Contains(h.ServiceTokens, t) })
	h.ServiceTokens = with
	c.state.received(ctx, "", nil, fresh)
	return nil
}

// writer returns the writer of the message, under the session's keys or our entity's.
func (x *exchange) writer(ctx context.Context, h *headerData, out io.Writer) (*MessageWriter, error) {
	c := x.client
	outer := outerHeader{entity: c.config.Entity}
	var own CryptoContext
	if x.session != nil {
		outer.master, own = x.session.token, x.session.context
	} else {
		var err error
		if own, err = ownContext(ctx, c.config, c.keys); err != nil {
			return nil, err
		}
	}
	return newMessageWriter(ctx, out, &outgoing{
		outer: outer, header: h, headerContext: own, payloadContext: own,
		compression: x.request.Compression, chunkSize: x.request.ChunkSize,
	})
}

// receive opens the answer and keeps the tokens that it brings (§8.9).
func (x *exchange) receive(ctx context.Context, sent *headerData) (*Message, error) {
	c := x.client
	o := x.opener()
	o.answersHandshake = sent.Handshake
	if sent.KeyRequests != nil {
		o.requests = x.pending
	}
	d, err := x.answer()
	if err != nil {
		return nil, err
	}
	m, err := o.open(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := x.check(m, sent); err != nil {
		if d, ok := m.NewSession.(interface{ Discard() }); ok {
			d.Discard()
		}
		return nil, err
	}
	c.noteTime(m)
	if m.Err != nil {
		return m, nil
	}
	if m.KeyResponse != nil {
		fresh := c.state.newer(ctx, x.token(), m.KeyResponse.MasterToken, m.NewSession)
		x.held = append(x.held, fresh)
		x.exchanged = true
	}
	x.keep(ctx, m, m.ID != addID(sent.MessageID, 1))
	x.unlock()
	return m, nil
}

// opener returns what opens the peer's messages.
func (x *exchange) opener() opener {
	c := x.client
	o := opener{cfg: c.config, entities: c.keys, services: c.keys, session: x.sessionOf, cache: c.cache, answers: true}
	if c.issuer != nil {
		o.tokens = c.issuer
	}
	return o
}

// keep keeps the user ID token and the service tokens that a message gives this side to carry. One that was pushed may
// be older than the user ID token that this side has.
func (x *exchange) keep(ctx context.Context, m *Message, pushed bool) {
	state, user := &x.client.state, x.request.User
	switch {
	case x.client.issuer != nil:
		state.received(ctx, user, m.PeerUserIDToken, m.PeerServiceTokens)
	case pushed:
		state.received(ctx, user, nil, m.ServiceTokens)
	default:
		state.received(ctx, user, m.UserIDToken, m.ServiceTokens)
	}
}

// noteTime learns the peer's time (§8.7).
func (c *Client) noteTime(m *Message) {
	if 0 <= m.Timestamp && m.Timestamp < maxTimestamp {
		c.offset.Store(m.Timestamp - c.now().Unix())
		c.synced.Store(true)
	}
}

// sessionOf finds the keys of a master token that the peer's message names: those that we used, or
// that replaced them meanwhile.
func (x *exchange) sessionOf(t *MasterToken) CryptoContext {
	if x.session != nil && x.session.token.same(t) {
		return x.session.context
	}
	for _, s := range x.held {
		if s.token.same(t) {
			return s.context
		}
	}
	return nil
}

// maxTimestamp is the year 9999: a peer that claims to be later has no clock.
const maxTimestamp = 253402300800

// check makes sure that the message is the answer to ours (§4.13), and that it is protected as the
// request was to be.
func (x *exchange) check(m *Message, sent *headerData) error {
	if m.Err == nil && !sent.Handshake {
		if err := x.checkProtection(m); err != nil {
			return err
		}
	}
	if err := x.checkPeer(m); err != nil {
		return err
	}
	if m.ID == addID(sent.MessageID, 1) {
		return nil
	}
	if x.request.AcceptPush && m.Err == nil && !sent.Handshake {
		return checkPushed(m, sent.UserIDToken)
	}
	if m.Err != nil {
		switch m.Err.Response {
		case Fail, TransientFailure, EntityReauth, EntityDataReauth:
			return nil // the peer may not have been able to read our id
		}
	}
	return withID(fail(UnexpectedResponseMessageID, "answer", nil), m.ID)
}

// checkPushed makes sure that a message which answers nothing is for this side, and for the user whose token it has
// shown. It may have been pushed to another one, or have answered another message, and come again: without a master
// token anybody may be meant, and keys may be those of before.
func checkPushed(m *Message, shown *UserIDToken) error {
	have := m.UserIDToken
	sameUser := (have == nil) == (shown == nil) && (have == nil || have.SerialNumber == shown.SerialNumber)
	if m.MasterToken == nil || m.KeyResponse != nil || !sameUser {
		return withID(fail(UnexpectedResponseMessageID, "pushed message", nil), m.ID)
	}
	return nil
}

// checkProtection makes sure that a message with data has the protection that was demanded for the request.
func (x *exchange) checkProtection(m *Message) error {
	p := x.request.Protection
	if x.client.issuer != nil && (m.Handshake() || x.peer.serving) {
		return nil // there is no data yet, or none
	}
	if p == Encrypted && !m.Encrypted || p <= IntegrityProtected && !m.IntegrityProtected {
		return withID(fail(ResponseRequiresEncryption, "answer", nil), m.ID)
	}
	return nil
}

// endTrip ends one round trip of the exchange: the next one begins anew, on another connection unless that
// belongs to peers.
func (x *exchange) endTrip() {
	x.unlock()
	if x.client.issuer == nil {
		x.hangUp()
	}
	if x.writing != nil {
		<-x.writing
		x.writing = nil
	}
	x.let()
}

// close ends the exchange, and lets go of everything.
func (x *exchange) close() error {
	if x.answered {
		x.hangUp()
	}
	x.cancel()
	if x.writing != nil {
		x.body.close()
	}
	x.hangUp()
	x.endTrip()
	for _, s := range x.held {
		s.release()
	}
	x.held = nil
	for _, p := range x.pending {
		p.pending.Discard()
	}
	x.pending = nil
	return nil
}
