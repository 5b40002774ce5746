// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rand"
	"encoding/binary"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// maxToken bounds a token, data and signature together, in bytes.
const maxToken = 1 << 20

// masterClaims is the public half of a master token (§3.2).
type masterClaims struct {
	renewalWindow, expiration    int64 // Unix seconds
	sequenceNumber, serialNumber int64
	sessionData                  []byte // an envelope
}

// parseMasterClaims reads token data in the order of §3.2.
func parseMasterClaims(data []byte) (c masterClaims, err error) {
	if len(data) == 0 {
		return c, unverified(mslTokenDataMissing, "reading tokendata")
	}
	refused := unverified(mslTokenDataParseError, "parsing tokendata")
	o, err := mslenc.Parse(data)
	if err != nil {
		return c, refused
	}
	if c.renewalWindow, err = o.Int("renewalwindow"); err != nil {
		return c, refused
	}
	if c.expiration, err = o.Int("expiration"); err != nil {
		return c, refused
	}
	if c.expiration < c.renewalWindow {
		return c, unverified(mslExpiresBeforeRenewal, "reading expiration")
	}
	if c.sequenceNumber, err = o.Int("sequencenumber"); err != nil {
		return c, refused
	}
	if !inRange(c.sequenceNumber) {
		return c, unverified(mslSequenceRange, "reading sequencenumber")
	}
	if c.serialNumber, err = o.Int("serialnumber"); err != nil {
		return c, refused
	}
	if !inRange(c.serialNumber) {
		return c, unverified(mslSerialRange, "reading serialnumber")
	}
	if c.sessionData, err = o.Binary("sessiondata"); err != nil {
		return c, refused
	}
	if len(c.sessionData) == 0 {
		return c, unverified(mslSessionDataMissing, "reading sessiondata")
	}
	return c, nil
}

func (c *masterClaims) encode() []byte {
	var b mslenc.Builder
	b.Int("renewalwindow", c.renewalWindow)
	b.Int("expiration", c.expiration)
	b.Int("sequencenumber", c.sequenceNumber)
	b.Int("serialnumber", c.serialNumber)
	b.Binary("sessiondata", c.sessionData)
	return b.Bytes()
}

// check refuses what no token may say. The numbers come from this agent or from a caller.
func (c *masterClaims) check() error {
	if c.expiration < c.renewalWindow {
		return malformed(noNumber, "issuing with an expiration before the renewal window")
	}
	if !inRange(c.sequenceNumber) || !inRange(c.serialNumber) {
		return malformed(noNumber, "issuing with a number out of range")
	}
	return nil
}

// sessionClaims is the secret half of a master token (§3.2).
type sessionClaims struct {
	identity   string
	issuerData []byte // an encoded object, or nil
	keys       *sessionKeys
}

const algorithmAES = "AES"

// parseSessionClaims reads decrypted session data. It keeps nothing of plain, which the caller wipes.
func parseSessionClaims(plain []byte) (c sessionClaims, err error) {
	refused := unverified(mslSessionDataParseError, "parsing sessiondata")
	o, err := mslenc.Parse(plain)
	if err != nil {
		return c, refused
	}
	if o.Has("issuerdata") {
		data, err := o.Object("issuerdata")
		if err != nil {
			return c, refused
		}
		c.issuerData = append([]byte{}, data.Encoding()...)
	}
	if c.identity, err = o.String("identity"); err != nil {
		return c, refused
	}
	encryption, err := o.Binary("encryptionkey")
	if err != nil {
		return c, refused
	}
	name := "signaturekey"
	if !o.Has(name) {
		name = "hmackey" // of old issuers
	}
	signature, err := o.Binary(name)
	if err != nil {
		secret.Wipe(encryption)
		return c, refused
	}
	c.keys = &sessionKeys{enc: secret.Take(encryption), mac: secret.Take(signature)}
	c.keys.algorithm = optional(o, "signaturealgorithm", hmacSHA256)
	if optional(o, "encryptionalgorithm", algorithmAES) != algorithmAES || !c.keys.known() {
		c.keys.wipe()
		return c, unverified(mslUnidentifiedAlgorithm, "reading the algorithms of sessiondata")
	}
	return c, nil
}

// optional returns a text that counts as absent when it is of another type (§1.3).
func optional(o mslenc.Object, name, absent string) string {
	if s, err := o.String(name); err == nil {
		return s
	}
	return absent
}

// encode returns the session data. The caller encrypts it, and wipes it.
func (c *sessionClaims) encode() []byte {
	enc, mac := secret.Reveal(c.keys.enc), secret.Reveal(c.keys.mac)
	// No reallocation may leave a copy of the keys behind.
	size := 256 + len(c.issuerData) + 6*len(c.identity) + 2*len(enc) + 4*len(mac)
	var b mslenc.Builder
	b.Reset(make([]byte, 0, size))
	if c.issuerData != nil {
		b.Object("issuerdata", c.issuerData)
	}
	b.String("identity", c.identity)
	b.Binary("encryptionkey", enc)
	b.String("encryptionalgorithm", algorithmAES)
	b.Binary("hmackey", mac) // for old readers
	b.Binary("signaturekey", mac)
	b.String("signaturealgorithm", c.keys.algorithm)
	return b.Bytes()
}

// openMasterToken verifies and decrypts a token. ok false without an error means that it was not issued
// here. The caller wipes the session.
func (a *Agent) openMasterToken(ctx context.Context, t wire.Token) (s *session, ok bool, err error) {
	var claims masterClaims
	plain, keys, err := a.openToken(ctx, t, func(data []byte) (_ []byte, err error) {
		claims, err = parseMasterClaims(data)
		return claims.sessionData, err
	})
	if err != nil || keys == nil {
		return nil, keys != nil, err
	}
	defer secret.Wipe(plain)
	a.lately.add(keys.version, a.now())
	inner, err := parseSessionClaims(plain)
	if err != nil {
		return nil, true, err
	}
	if s, err = newSession(inner.keys, inner.identity, claims.sequenceNumber); err != nil {
		inner.keys.wipe()
		return nil, true, &fault{code: wire.VerificationFailed, number: mslKeyCreationError, what: "using the keys of sessiondata", err: err}
	}
	s.token, s.issued = tokenHash(t), true
	s.serialNumber, s.issuerData = claims.serialNumber, inner.issuerData
	a.logSession(s)
	return s, true, nil
}

// issueMasterToken makes a token for the session, whose keys and claims but for the token are complete.
func (a *Agent) issueMasterToken(ctx context.Context, s *session, renewalWindow, expiration int64) (t wire.Token, err error) {
	claims := masterClaims{renewalWindow: renewalWindow, expiration: expiration,
		sequenceNumber: s.sequenceNumber, serialNumber: s.serialNumber}
	if err := claims.check(); err != nil {
		return t, err
	}
	set, err := a.tokenKeys(ctx)
	if err != nil {
		return t, err
	}
	inner := sessionClaims{identity: s.identity, issuerData: s.issuerData, keys: s.keys}
	plain := inner.encode()
	defer secret.Wipe(plain)
	if claims.sessionData, err = set.newest().encrypt(ctx, plain); err != nil {
		return t, err
	}
	t.Data = claims.encode()
	if t.Signature, err = set.newest().sign(ctx, nil, t.Data); err != nil {
		return wire.Token{}, err
	}
	s.token, s.issued = tokenHash(t), true
	return t, nil
}

// verifyToken returns the version of the token keys with which a token was issued. ok false without an
// error means with none of them, or that this agent is no issuer. A version that was tried already is left out.
func (a *Agent) verifyToken(ctx context.Context, tried *suite, t wire.Token) (keys *suite, ok bool, err error) {
	if a.cfg.TokenKeys == "" || len(t.Data) == 0 || len(t.Data)+len(t.Signature) > maxToken {
		return nil, false, nil
	}
	keys, err = a.verifyRole(ctx, a.cfg.TokenKeys, tried, t.Data, t.Signature)
	if err != nil && codeOf(err) == wire.VerificationFailed {
		return nil, false, nil
	}
	return keys, err == nil, err
}

// inRange reports whether n may be an identifier or a counter (§1.4).
func inRange(n int64) bool { return 0 <= n && n <= mslenc.MaxLong }

// randomNumber returns an identifier: 53 random bits (§1.4).
func randomNumber() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) & (mslenc.MaxLong - 1))
}

// nextNumber is the successor of a counter, which after 2^53 is 0 (§1.4).
func nextNumber(n int64) int64 {
	if n >= mslenc.MaxLong {
		return 0
	}
	return n + 1
}
