// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"context"
	"errors"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// An opener is what a side needs to open messages from its peer. It may be copied, and used by many
// goroutines.
type opener struct {
	cfg      *Config
	entities EntityKeys
	tokens   TokenOpener      // nil on a client
	services ServiceTokenKeys // nil leaves all service tokens unopened
	cache    *tokenCache      // may be nil

	// session returns the context of a master token that this side carries, or nil. It is nil on a server.
	session func(*MasterToken) CryptoContext
	// requests are the key requests that this side sent in the message which this one answers.
	requests []*pendingRequest
	// answers says that the message answers one of this side, which knows therefore whether it is a handshake.
	answers bool
	// answersHandshake says that the message answers a handshake, and may therefore have no payload.
	answersHandshake bool
}

// open reads the header of a message and everything that came with it (§4.2, §4.5, §4.9). The message
// reads the rest of itself from d, with ctx. Errors carry the message id as soon as it is known.
//
// A message that is not an error message but fails here was not accepted in any part.
func (o *opener) open(ctx context.Context, d *mslenc.Decoder) (*Message, error) {
	limits := o.cfg.limits()
	object, err := d.NextHeader()
	if err != nil {
		return nil, decoderError(err, "header")
	}
	if len(object.Encoding()) > limits.Header {
		return nil, fail(MSLParseError, "header", mslenc.ErrLimit)
	}
	mem := arenas.Get().(*mslenc.Arena)
	defer giveBack(mem)
	entity := func(f fields) (EntityAuthData, error) { return o.entityData(ctx, f) }
	head, err := parseOuterHeader(mem, object, entity, o.cache)
	if err != nil {
		return nil, err
	}
	m := &Message{
		Entity: head.entity, MasterToken: head.master, Timestamp: -1, NonReplayableID: -1,
		ctx: ctx, decoder: d, limits: limits, next: 1, bare: o.answersHandshake, peerToPeer: o.cfg.PeerToPeer,
	}
	if o.cfg.RemoteIdentity != "" && head.master == nil && head.entity.identity != o.cfg.RemoteIdentity {
		return nil, fail(MessageSenderMismatch, "header", nil)
	}
	if head.isError {
		if err := o.openError(ctx, m, head.part); err != nil {
			return nil, err
		}
		return m, nil
	}
	headerData, err := o.openHeader(ctx, mem, m, head.part)
	if err != nil {
		return nil, err
	}
	if o.cfg.PeerToPeer && o.cfg.RemoteIdentity != "" && m.Identity() != o.cfg.RemoteIdentity {
		return nil, fail(MessageSenderMismatch, "header", nil)
	}
	if err := o.readHeader(ctx, mem, m, headerData); err != nil {
		return nil, withID(err, m.ID)
	}
	return m, nil
}

// openError opens the error data of an error message (§4.12).
func (o *opener) openError(ctx context.Context, m *Message, part Part) error {
	c, err := remoteContext(ctx, o.cfg, o.entities, &m.Entity)
	if err != nil {
		return err
	}
	plain, err := c.Open(ctx, []Part{part})
	if err != nil {
		return custodyError(err, MessageVerificationFailed, "error data")
	}
	if len(plain) != 1 {
		return fail(InternalException, "error data", nil)
	}
	e, err := parseErrorData(plain[0])
	if err != nil {
		return err
	}
	e.Entity = m.Entity
	m.Err, m.ID, m.Timestamp = e, e.MessageID, e.Timestamp
	m.finish(errNoData)
	return nil
}

// openHeader opens the header data, and with it, in the same call of custody, the payloads that are in
// the decoder's buffer. It returns the header data and leaves the payloads in m.
func (o *opener) openHeader(ctx context.Context, mem *mslenc.Arena, m *Message, part Part) ([]byte, error) {
	parts := append(make([]Part, 0, 4), part)
	var later error
	if len(o.requests) == 0 || m.peerToPeer { // else payloads may be under the keys of a key response
		parts, later = readAhead(mem, m.decoder, parts, m.limits.Payload)
	}
	var plain [][]byte
	var err error
	unverified := MessageEntityDataBasedVerificationFailed
	if m.MasterToken != nil {
		unverified = MessageMasterTokenBasedVerificationFailed
		plain, err = o.openWithToken(ctx, m, parts)
	} else if m.header, err = remoteContext(ctx, o.cfg, o.entities, &m.Entity); err == nil {
		plain, err = openParts(ctx, m.header, parts)
	}
	switch {
	case m.header == nil:
		return nil, err
	case err != nil && (len(plain) == 0 || failureOf(err) != VerificationFailed):
		return nil, custodyError(err, unverified, "header data")
	case err != nil:
		later = custodyError(err, PayloadVerificationFailed, "payload")
	case len(plain) != len(parts):
		return nil, fail(InternalException, "header data", nil)
	}
	m.payloads = m.header
	m.plain, m.failed = plain[1:], later
	return plain[0], nil
}

// openWithToken opens parts under the session of the message's master token, and sets m.header if there
// is one.
func (o *opener) openWithToken(ctx context.Context, m *Message, parts []Part) ([][]byte, error) {
	if o.tokens == nil {
		if o.session != nil {
			m.header = o.session(m.MasterToken)
		}
		if m.header == nil {
			return nil, fail(MasterTokenUntrusted, "master token", nil)
		}
		return openParts(ctx, m.header, parts)
	}
	session, plain, err := o.tokens.OpenMasterToken(ctx, m.MasterToken.Token, parts)
	switch {
	case session != nil:
		m.Session, m.header = session, session
		return plain, err
	case err != nil:
		return nil, custodyError(err, MasterTokenUntrusted, "master token")
	}
	return nil, fail(MasterTokenUntrusted, "master token", nil)
}

// openParts opens parts, whose memory may be used again afterwards.
func openParts(ctx context.Context, c CryptoContext, parts []Part) ([][]byte, error) {
	plain, err := c.Open(ctx, parts)
	if _, local := c.(localContext); local {
		for i := range plain {
			plain[i] = bytes.Clone(plain[i])
		}
	}
	return plain, err
}

// finishExchange makes the session that a key response gives (§4.9, 2): each request of this side with
// the response's scheme is tried.
func (o *opener) finishExchange(ctx context.Context, m *Message) error {
	r := m.KeyResponse
	if !o.cfg.acceptsExchange(r.Scheme) {
		return fail(KeyxFactoryNotFound, "key response data", nil)
	}
	err := fail(KeyxResponseRequestMismatch, "key response data", nil)
	for _, p := range o.requests {
		if p.scheme != r.Scheme {
			continue
		}
		session, cause := p.pending.Finish(ctx, r.KeyData, r.MasterToken.Token, o.cfg.Entity.identity, r.MasterToken.SequenceNumber)
		if cause == nil {
			m.NewSession = session
			if !m.peerToPeer { // else payloads stay under the header's keys (§4.7)
				m.payloads, m.plain, m.failed = session, nil, nil
			}
			return nil
		}
		err = custodyError(cause, KeyxResponseRequestMismatch, "key response data")
	}
	return err
}

// errNoData ends messages that have no application data.
var errNoData = errors.New("msl: an error message has no data")
