// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A pendingRequest is a key request that this exchange sends with every renewable message.
type pendingRequest struct {
	scheme  string
	pending PendingExchange
}

// roundTrip sends one message and opens the answer (§8.3, §8.4).
func (x *exchange) roundTrip(ctx context.Context) (*Message, error) {
	h, err := x.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if x.transport, err = x.client.transport.Open(ctx); err != nil {
		return nil, err
	}
	w, err := x.writer(ctx, h)
	if err != nil {
		return nil, err
	}
	x.sentHandshake, x.sentData, x.sentNothing = h.Handshake, !h.Handshake, false
	if h.Handshake {
		err = complete(w, x.transport)
	} else {
		err = x.write(ctx, w)
	}
	if err != nil {
		return nil, err
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
	c, r := x.client, x.request
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
			if err != nil {
				return nil, err
			}
			h.UserAuth = data
		}
	}
	token := x.token()
	h.Handshake = delayed || !x.protects(r.Protection) || r.NonReplayable && token == nil
	if h.Handshake {
		h.Renewable = true
	} else if r.NonReplayable {
		next, err := c.state.nonReplayableID(ctx, token)
		if err != nil {
			return nil, err
		}
		h.NonReplayableID = next
	}
	if h.Renewable && (token == nil || token.Renewable(x.remoteTime()) || r.NonReplayable || x.forced) {
		if err := x.begin(ctx); err != nil {
			return nil, err
		}
		for _, p := range x.pending {
			h.KeyRequests = append(h.KeyRequests, KeyRequest{Scheme: p.scheme, KeyData: p.pending.KeyData()})
		}
	}
	return h, x.addServiceTokens(ctx, h)
}

// begin makes a key request for every exchange that the configuration names, once.
func (x *exchange) begin(ctx context.Context) error {
	if x.pending != nil {
		return nil
	}
	c := x.client
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
			return custodyError(err, InternalException, "key request")
		}
		x.pending = append(x.pending, &pendingRequest{k.Scheme, p})
	}
	if x.pending == nil {
		return errors.New("msl: a key exchange is needed, but the configuration names none that is possible now")
	}
	return nil
}

// addServiceTokens adds the tokens that the client keeps for this message, then the request's own, which
// replace those of the same name and binding (§8.15).
func (x *exchange) addServiceTokens(ctx context.Context, h *headerData) error {
	c := x.client
	h.ServiceTokens = c.state.applicable(x.snapshot)
	if h.Handshake {
		return nil
	}
	var fresh []*ServiceToken
	for _, n := range x.request.ServiceTokens {
		t, err := n.seal(ctx, c.config, c.keys, x.token(), x.user)
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		fresh = append(fresh, t)
		h.ServiceTokens = replaceServiceToken(h.ServiceTokens, t)
	}
	if fresh != nil {
		c.state.received(ctx, "", nil, fresh)
	}
	return nil
}

// seal makes the token, or returns nil if what it is to be bound to is not there.
func (n *NewServiceToken) seal(ctx context.Context, cfg *Config, keys ServiceTokenKeys, m *MasterToken, u *UserIDToken) (*ServiceToken, error) {
	if n.BoundToUser && u == nil || (n.BoundToEntity || n.BoundToUser) && m == nil {
		return nil, nil
	}
	if !n.BoundToEntity && !n.BoundToUser {
		m = nil
	}
	if !n.BoundToUser {
		u = nil
	}
	if len(n.Data) == 0 {
		return deletedServiceToken(n.Name, m, u), nil
	}
	return sealServiceToken(ctx, cfg, keys, n.Name, m, u, n.Encrypt, n.Compression, n.Data)
}

func replaceServiceToken(tokens []*ServiceToken, t *ServiceToken) []*ServiceToken {
	out := make([]*ServiceToken, 0, len(tokens)+1)
	for _, have := range tokens {
		if !t.Replaces(have) {
			out = append(out, have)
		}
	}
	return append(out, t)
}

// writer returns the writer of the message, under the session's keys or our entity's.
func (x *exchange) writer(ctx context.Context, h *headerData) (*MessageWriter, error) {
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
	return newMessageWriter(ctx, x.transport, &outgoing{
		outer: outer, header: h, headerContext: own, payloadContext: own,
		compression: x.request.Compression, chunkSize: x.request.ChunkSize,
	})
}

// receive opens the answer and keeps the tokens that it brings (§8.9).
func (x *exchange) receive(ctx context.Context, sent *headerData) (*Message, error) {
	c := x.client
	o := opener{cfg: c.config, entities: c.keys, services: c.keys, session: x.sessionOf, cache: c.cache, answersHandshake: sent.Handshake || x.sentNothing && sent.KeyRequests != nil}
	if sent.KeyRequests != nil {
		o.requests = x.pending
	}
	m, err := o.open(ctx, x.answer())
	if err != nil {
		return nil, err
	}
	if err := x.check(m, sent); err != nil {
		return nil, err
	}
	if 0 <= m.Timestamp && m.Timestamp < maxTimestamp {
		c.offset.Store(m.Timestamp - c.now().Unix())
		c.synced.Store(true)
	}
	if m.Err != nil {
		return m, nil
	}
	if m.KeyResponse != nil {
		fresh := c.state.newer(ctx, x.token(), m.KeyResponse.MasterToken, m.NewSession)
		x.held = append(x.held, fresh)
		x.exchanged = true
	}
	c.state.received(ctx, x.request.User, m.UserIDToken, m.ServiceTokens)
	x.unlock()
	if x.sentNothing && sent.KeyRequests != nil {
		x.sentHandshake, err = m.hasNoPayload(ctx)
	}
	return m, err
}

// answer returns a decoder of what the peer sends back.
func (x *exchange) answer() *mslenc.Decoder {
	limits := x.client.config.decoderLimits()
	if t, ok := x.transport.(interface{ whole() []byte }); ok {
		if b := t.whole(); b != nil {
			return mslenc.NewBytesDecoder(b, limits)
		}
	}
	return mslenc.NewDecoder(x.transport, limits)
}

// sessionOf finds the keys of a master token that the peer's message names: those that we used, or
// that replaced them meanwhile.
func (x *exchange) sessionOf(t *MasterToken) CryptoContext {
	if x.session != nil && x.session.token.same(t) {
		return x.session.context
	}
	return nil
}

// maxTimestamp is the year 9999: a peer that claims to be later has no clock.
const maxTimestamp = 253402300800

// check makes sure that the message is the answer to ours (§4.13), and that it is protected as the
// request was to be.
func (x *exchange) check(m *Message, sent *headerData) error {
	p := x.request.Protection
	if m.Err == nil && !sent.Handshake && (p == Encrypted && !m.Encrypted || p <= IntegrityProtected && !m.IntegrityProtected) {
		return withID(fail(ResponseRequiresEncryption, "answer", nil), m.ID)
	}
	if m.ID == addID(sent.MessageID, 1) {
		return nil
	}
	if m.Err != nil {
		switch m.Err.Response {
		case Fail, TransientFailure, EntityReauth, EntityDataReauth:
			return nil // the peer may not have been able to read our id
		}
	}
	return withID(fail(UnexpectedResponseMessageID, "answer", nil), m.ID)
}

// endTrip ends one round trip of the exchange: the next one begins anew.
func (x *exchange) endTrip() {
	x.unlock()
	if x.transport != nil {
		x.transport.Close()
		x.transport = nil
	}
	if x.writing != nil {
		<-x.writing
		x.writing = nil
	}
	x.let()
}

// close ends the exchange, and lets go of everything.
func (x *exchange) close() error {
	x.cancel()
	if x.writing != nil {
		x.body.close()
	}
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
