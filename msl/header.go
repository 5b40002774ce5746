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
}

// encode returns the encoding of the header data. withToken says that a master token identifies the sender.
func (h *headerData) encode(withToken bool) []byte {
	var b mslenc.Builder
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
		b.Objects("servicetokens", encodeAll(h.ServiceTokens, func(t *ServiceToken) []byte { return t.Encoding() }))
	}
	return b.Bytes()
}

func encodeAll[T any](items []T, encode func(T) []byte) [][]byte {
	all := make([][]byte, len(items))
	for i, item := range items {
		all[i] = encode(item)
	}
	return all
}

// newHeaderData returns the header data that every message has.
func newHeaderData(cfg *Config, now time.Time, messageID int64) *headerData {
	return &headerData{Timestamp: now.Unix(), MessageID: messageID, NonReplayableID: -1, Capabilities: cfg.capabilities()}
}

// verifier returns the master token to which the tokens in the header must be bound (§4.4).
func (h *headerData) verifier(m *MasterToken) *MasterToken {
	if h.KeyResponse != nil {
		return h.KeyResponse.MasterToken
	}
	return m
}

// checkBindings makes sure that no header goes out whose tokens do not belong together (§4.3).
func (h *headerData) checkBindings(m *MasterToken) error {
	m = h.verifier(m)
	if h.UserIDToken != nil && !h.UserIDToken.BoundTo(m) {
		return fail(UserIDTokenMasterTokenMismatch, "message header", nil)
	}
	for _, t := range h.ServiceTokens {
		if err := t.checkBinding(m, h.UserIDToken); err != nil {
			return err
		}
	}
	if h.NonReplayableID >= 0 && m == nil {
		return fail(NonReplayableMessageRequiresMasterToken, "message header", nil)
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

// parseOuterHeader reads a header in the order of §4.2. find looks schemes of entities up; cache may be nil.
func parseOuterHeader(o mslenc.Object, find func(string) (*entityScheme, error), cache *tokenCache) (*outerHeader, error) {
	f := fields{obj: o, what: "message header", code: MSLParseError}
	h := &outerHeader{}
	var err error
	if f.has("entityauthdata") {
		if h.entity, err = parseEntityAuthData(f.object("entityauthdata", "entity authentication data"), find); err != nil {
			return nil, err
		}
	}
	if f.has("mastertoken") {
		if h.master, err = cache.parse(f.object("mastertoken", "master token")); err != nil {
			return nil, err
		}
	}
	h.part.Signature = f.binary("signature")
	if h.isError = !f.has("headerdata"); h.isError {
		h.part.Data = f.binary("errordata")
	} else {
		h.part.Data = f.binary("headerdata")
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
