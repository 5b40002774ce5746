// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// headerData is what a message header says (§4.3): of a message that is about to be sent, or of one
// that was received.
type headerData struct {
	Sender          string // emitted beside a master token only
	Timestamp       int64  // Unix seconds; -1 if unknown
	MessageID       int64
	NonReplayableID int64 // -1 for a message that may be replayed
	Renewable       bool
	Handshake       bool
	Capabilities    *Capabilities
	KeyRequests     []KeyRequest
	KeyResponse     *KeyResponse
	UserAuth        *UserAuthData
	UserIDToken     *UserIDToken
	ServiceTokens   []*ServiceToken

	// Of a peer-to-peer network (§8.14): what the receiver should show next time.
	PeerToPeer        bool
	PeerMasterToken   *MasterToken
	PeerUserIDToken   *UserIDToken
	PeerServiceTokens []*ServiceToken
}

// append appends the encoding of the header data. withToken says that a master token identifies the sender.
func (h *headerData) append(dst []byte, withToken bool) []byte {
	var b mslenc.Builder
	b.After(dst)
	if withToken {
		b.String("sender", h.Sender)
	}
	b.Int("timestamp", h.Timestamp)
	b.Int("messageid", h.MessageID)
	b.Bool("nonreplayable", h.NonReplayableID >= 0)
	if h.NonReplayableID >= 0 {
		b.Int("nonreplayableid", h.NonReplayableID)
	}
	b.Bool("renewable", h.Renewable)
	b.Bool("handshake", h.Handshake)
	if h.Capabilities != nil {
		b.Object("capabilities", h.Capabilities.encode())
	}
	if len(h.KeyRequests) > 0 {
		b.Objects("keyrequestdata", encodeAll(h.KeyRequests, KeyRequest.encode))
	}
	if h.KeyResponse != nil {
		b.Object("keyresponsedata", h.KeyResponse.encode())
	}
	if h.UserAuth != nil {
		b.Object("userauthdata", h.UserAuth.encode())
	}
	if h.UserIDToken != nil {
		b.Object("useridtoken", h.UserIDToken.Encoding())
	}
	if len(h.ServiceTokens) > 0 {
		b.Objects("servicetokens", encodeAll(h.ServiceTokens, (*ServiceToken).encode))
	}
	if h.PeerToPeer {
		h.encodePeer(&b)
	}
	return b.Bytes()
}

func (h *headerData) encodePeer(b *mslenc.Builder) {
	if h.PeerMasterToken != nil {
		b.Object("peermastertoken", h.PeerMasterToken.Encoding())
	}
	if h.PeerUserIDToken != nil {
		b.Object("peeruseridtoken", h.PeerUserIDToken.Encoding())
	}
	if len(h.PeerServiceTokens) > 0 {
		b.Objects("peerservicetokens", encodeAll(h.PeerServiceTokens, (*ServiceToken).encode))
	}
}

func (t *ServiceToken) encode() []byte { return t.Encoding() }

func encodeAll[T any](items []T, encode func(T) []byte) [][]byte {
	all := make([][]byte, len(items))
	for i, item := range items {
		all[i] = encode(item)
	}
	return all
}

// newHeaderData returns the header data that every message has.
func newHeaderData(cfg *Config, now time.Time, messageID int64) *headerData {
	return &headerData{Timestamp: now.Unix(), MessageID: messageID, NonReplayableID: -1, Capabilities: cfg.capabilities(), PeerToPeer: cfg.PeerToPeer}
}

// verifiers returns the master tokens to which a header's tokens and its peer tokens must be bound (§4.4).
func verifiers(peerToPeer bool, m, peer *MasterToken, r *KeyResponse) (primary, ofPeer *MasterToken) {
	switch {
	case r == nil:
		return m, peer
	case peerToPeer:
		return m, r.MasterToken
	}
	return r.MasterToken, nil
}

// verifier returns the master token to which the tokens in the header must be bound; m is the sender's.
func (h *headerData) verifier(m *MasterToken) *MasterToken {
	m, _ = verifiers(h.PeerToPeer, m, nil, h.KeyResponse)
	return m
}

// peerVerifier returns the master token to which the peer tokens must be bound.
func (h *headerData) peerVerifier() *MasterToken {
	_, peer := verifiers(h.PeerToPeer, nil, h.PeerMasterToken, h.KeyResponse)
	return peer
}

// checkBindings makes sure that no header goes out whose tokens do not belong together (§4.3).
func (h *headerData) checkBindings(m *MasterToken) error {
	if h.NonReplayableID >= 0 && m == nil {
		return fail(NonReplayableMessageRequiresMasterToken, "message header", nil)
	}
	if err := checkBound(h.verifier(m), h.UserIDToken, h.ServiceTokens); err != nil {
		return err
	}
	return checkBound(h.peerVerifier(), h.PeerUserIDToken, h.PeerServiceTokens)
}

func checkBound(m *MasterToken, u *UserIDToken, services []*ServiceToken) error {
	if u != nil && !u.BoundTo(m) {
		return fail(UserIDTokenMasterTokenMismatch, "message header", nil)
	}
	for _, t := range services {
		if err := t.checkBinding(m, u); err != nil {
			return err
		}
	}
	return nil
}

// An outerHeader is the object that a message begins with (§4.2).
type outerHeader struct {
	entity  EntityAuthData // zero if absent
	master  *MasterToken   // nil if absent
	part    Part           // the protected header data or error data
	isError bool
}

func (h *outerHeader) encode() []byte { return h.append(make([]byte, 0, h.size())) }

// size returns about how long the encoding is, rather too much.
func (h *outerHeader) size() int {
	size := len(h.part.Data)
	if h.master != nil {
		size += len(h.master.Data)
	}
	return size/3*4 + 512
}

// append appends the encoding to dst.
func (h *outerHeader) append(dst []byte) []byte {
	var b mslenc.Builder
	b.After(dst)
	if h.master != nil {
		b.Object("mastertoken", h.master.Encoding())
	} else {
		b.Object("entityauthdata", h.entity.Encoding())
	}
	data := "headerdata"
	if h.isError {
		data = "errordata"
	}
	b.Binary(data, h.part.Data)
	b.Binary("signature", h.part.Signature)
	return b.Bytes()
}

// parseOuterHeader reads a header in the order of §4.2. entity reads entity authentication data. The part is
// in memory of mem; mem and cache may be nil.
func parseOuterHeader(mem *mslenc.Arena, o mslenc.Object, entity func(fields) (EntityAuthData, error), cache *tokenCache) (*outerHeader, error) {
	f := fields{obj: o, what: "message header", code: MSLParseError}
	h := &outerHeader{}
	var err error
	if f.has("entityauthdata") {
		if h.entity, err = entity(f.object("entityauthdata", "entity authentication data")); err != nil {
			return nil, err
		}
	}
	if f.has("mastertoken") {
		if h.master, err = cache.parse(&f, "mastertoken", "master token"); err != nil {
			return nil, err
		}
	}
	h.part.Signature = f.binaryIn(mem, "signature")
	if h.isError = !f.has("headerdata"); h.isError {
		h.part.Data = f.binaryIn(mem, "errordata")
	} else {
		h.part.Data = f.binaryIn(mem, "headerdata")
	}
	if f.err == nil && len(h.part.Data) == 0 {
		f.refuse(HeaderDataMissing, "data")
	}
	if f.err == nil && h.entity.IsZero() && (h.isError || h.master == nil) {
		f.refuse(MessageEntityNotFound, "sender")
	}
	if h.isError {
		h.master = nil
	} else if h.master != nil {
		h.entity = EntityAuthData{}
	}
	return h, f.err
}
