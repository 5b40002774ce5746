// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A MasterToken is the public half of a master token (§3.2): what everyone who carries it can read. It is
// not verified by being parsed. It must not be changed.
type MasterToken struct {
	Token
	RenewalWindow, Expiration    int64 // Unix seconds
	SequenceNumber, SerialNumber int64

	encoded []byte // exactly as it came, or nil
}

// A tokenCache remembers some of the master tokens that were parsed, by their encoding, and the last
// capabilities: peers send the same ones with every message. It holds public claims only, and decides
// nothing. It is safe for concurrent use.
type tokenCache struct {
	seed  maphash.Seed
	slots [256]atomic.Pointer[MasterToken]

	capabilities atomic.Pointer[knownCapabilities] // those of the last message
}

// knownCapabilities are capabilities and how a peer encoded them.
type knownCapabilities struct {
	raw []byte
	*Capabilities
}

func newTokenCache() *tokenCache { return &tokenCache{seed: maphash.MakeSeed()} }

// parse reads a member of f that is a master token. A nil cache has no memory.
func (c *tokenCache) parse(f *fields, name, what string) (*MasterToken, error) {
	if c == nil || f.err != nil {
		return parseMasterToken(f.object(name, what))
	}
	encoded := f.obj.Value(name)
	slot := &c.slots[maphash.Bytes(c.seed, encoded)%uint64(len(c.slots))]
	if t := slot.Load(); t != nil && bytes.Equal(t.encoded, encoded) {
		return t, nil
	}
	t, err := parseMasterToken(f.object(name, what))
	if err != nil {
		return nil, err
	}
	slot.Store(t)
	return t, nil
}

// parseCapabilities reads the member of f that is capabilities.
func (c *tokenCache) parseCapabilities(f *fields) *Capabilities {
	raw := f.obj.Value("capabilities")
	if c != nil {
		if k := c.capabilities.Load(); k != nil && bytes.Equal(k.raw, raw) {
			return k.Capabilities
		}
	}
	o, err := f.obj.Object("capabilities")
	f.note(err)
	if f.err != nil {
		return nil
	}
	parsed, err := parseCapabilities(o)
	f.note(err)
	if err == nil && c != nil {
		parsed = parsed.ready()
		c.capabilities.Store(&knownCapabilities{bytes.Clone(raw), parsed})
	}
	return parsed
}

// Encoding returns the token as it travels.
func (t *MasterToken) Encoding() []byte {
	if t.encoded != nil {
		return t.encoded
	}
	return t.Token.Encoding()
}

// ParseMasterToken parses an encoded master token.
func ParseMasterToken(encoded []byte) (*MasterToken, error) {
	f := parseFields(encoded, "master token", MSLParseError)
	return parseMasterToken(f)
}

func parseMasterToken(f fields) (*MasterToken, error) {
	t := &MasterToken{}
	t.Token = f.token(MasterTokenTokenDataMissing)
	if f.err != nil {
		return nil, f.err
	}
	t.encoded = bytes.Clone(f.obj.Encoding())
	return t, t.parse()
}

// newMasterToken reads the public half of a token that was just issued.
func newMasterToken(t Token) (*MasterToken, error) {
	m := &MasterToken{Token: t, encoded: t.Encoding()}
	return m, m.parse()
}

func (t *MasterToken) parse() error {
	f := parseFields(t.Data, "master token", MasterTokenTokenDataParseError)
	t.RenewalWindow = f.number("renewalwindow")
	t.Expiration = f.number("expiration")
	if t.Expiration < t.RenewalWindow {
		f.refuse(MasterTokenExpiresBeforeRenewal, "expiration")
	}
	t.SequenceNumber = f.id("sequencenumber", MasterTokenSequenceNumberOutOfRange)
	t.SerialNumber = f.id("serialnumber", MasterTokenSerialNumberOutOfRange)
	f.nonEmpty("sessiondata", MasterTokenSessionDataMissing)
	return f.err
}

// Encoding returns the token as it travels.
func (t Token) Encoding() []byte {
	var b mslenc.Builder
	b.Binary("tokendata", t.Data)
	b.Binary("signature", t.Signature)
	return b.Bytes()
}

// token reads the shape that all tokens share (§3.1).
func (f *fields) token(missing Code) Token {
	data, signature := f.binary("tokendata"), f.binary("signature")
	if f.err == nil && len(data) == 0 {
		f.refuse(missing, "tokendata")
	}
	return Token{Data: data, Signature: signature}
}

// nonEmpty checks a binary member that this side does not look into.
func (f *fields) nonEmpty(name string, missing Code) {
	if v := f.binary(name); f.err == nil && len(v) == 0 {
		f.refuse(missing, name)
	}
}

// Renewable reports whether the token may be renewed at a time. A client that does not know its
// server's time passes the zero time, and may try.
func (t *MasterToken) Renewable(now time.Time) bool {
	return now.IsZero() || reached(t.RenewalWindow, now)
}

// Expired reports whether the token has expired; at an unknown time (zero) it has not.
func (t *MasterToken) Expired(now time.Time) bool {
	return !now.IsZero() && reached(t.Expiration, now)
}

func reached(seconds int64, now time.Time) bool { return seconds <= now.Unix() }

// NewerThan compares the tokens of one entity, across the wrap-around of sequence numbers.
func (t *MasterToken) NewerThan(o *MasterToken) bool {
	const window = 127
	this, that := t.SequenceNumber, o.SequenceNumber
	switch {
	case this == that:
		return t.Expiration > o.Expiration
	case this > that:
		return that >= this-mslenc.MaxLong+window
	}
	return this < that-mslenc.MaxLong+window
}

// same reports whether two tokens are the same one, to the last byte. A server sends a token back as it came.
func (t *MasterToken) same(o *MasterToken) bool {
	if t == nil || o == nil {
		return t == o
	}
	return bytes.Equal(t.Data, o.Data) && bytes.Equal(t.Signature, o.Signature)
}
