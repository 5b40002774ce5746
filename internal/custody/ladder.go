// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/jose"
	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// JWE_LADDER (§7.5) and JWK_LADDER (§7.6): random session keys under a random wrapping key, which comes under the
// pre-shared wrapping key, or under the wrapping key of the exchange before. The issuer keeps none of these: it
// gives each to the client a second time, wrapped under its own token keys, and gets it back as wrapdata.

const (
	schemeJWELadder = "JWE_LADDER"
	schemeJWKLadder = "JWK_LADDER"

	mechanismPSK  = "PSK"
	mechanismWRAP = "WRAP"

	wrapKeySize = 16
	maxWrapdata = 1 << 10 // bytes; ours has 24, other issuers' is their own affair
)

var wrappingJWK = jose.Key{Type: "oct", Use: "wrap", Ops: []string{"wrapKey", "unwrapKey"}, Alg: "A128KW"}

// A rung is where a client stands on a ladder: the next exchange may build on it. It belongs to a session, and
// is sealed with it.
type rung struct {
	scheme   string
	wrapdata []byte // public
	key      *secret.Bytes
}

func (r *rung) wipe() {
	if r != nil {
		r.key.Wipe()
	}
}

// A ladder is one of the schemes.
type ladder struct {
	scheme string
	jwe    bool // keys are wrapped by JSON web encryption; else the JSON web key is, by AES key wrap
}

func (l ladder) exchange() keyExchange { return keyExchange{l.respond, l.begin} }

// keyWrap gives a suite's wrapping key to package jose.
type keyWrap struct{ *suite }

// Wrap wraps key.
func (w keyWrap) Wrap(ctx context.Context, key []byte) ([]byte, error) { return w.wrap(ctx, key) }

// Unwrap undoes Wrap.
func (w keyWrap) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return w.unwrap(ctx, wrapped)
}

// wrapSuite is the context of a wrapping key that is here.
func wrapSuite(key *secret.Bytes) (*suite, error) {
	kw, err := newAESKW(key)
	if err != nil {
		return nil, err
	}
	return &suite{kw: kw}, nil
}

// wrap encodes a key, and wraps it.
func (l ladder) wrap(ctx context.Context, under *suite, key *secret.Bytes, jwk jose.Key) ([]byte, error) {
	jwk.Secret = key
	if !l.jwe {
		jwk.Use = "" // key_ops instead
	}
	plain := jwk.Encode()
	defer secret.Wipe(plain)
	if l.jwe {
		x := jose.Context{Alg: jose.A128KW, Enc: jose.A128GCM, Wrapper: keyWrap{under}}
		return x.Wrap(ctx, plain, false)
	}
	padded, err := jose.Pad(plain)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(padded)
	return under.wrap(ctx, padded)
}

// unwrap undoes wrap.
func (l ladder) unwrap(ctx context.Context, under *suite, wrapped []byte, jwk jose.Key) (*secret.Bytes, error) {
	var plain []byte
	var err error
	if l.jwe {
		x := jose.Context{Alg: jose.A128KW, Enc: jose.A128GCM, Unwrapper: keyWrap{under}}
		plain, err = x.Unwrap(ctx, wrapped)
	} else {
		plain, err = under.unwrap(ctx, wrapped)
	}
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	key, err := jose.ParseKey(plain)
	if err != nil {
		return nil, &fault{code: wire.VerificationFailed, number: mslInvalidJWK, what: "parsing a wrapped key", err: err}
	}
	if key.Type != jwk.Type || key.Alg != jwk.Alg {
		key.Wipe()
		return nil, unverified(mslInvalidJWK, "using a wrapped key")
	}
	return key.Secret, nil
}

func parseLadderMechanism(o mslenc.Object) (mechanism string, wrapdata []byte, err error) {
	if mechanism, err = o.String("mechanism"); err != nil {
		return "", nil, malformed(mslParseError, "reading mechanism")
	}
	switch mechanism {
	case mechanismPSK: // wrapdata is ignored
		return mechanism, nil, nil
	case mechanismWRAP:
		if wrapdata, err = o.Binary("wrapdata"); err != nil {
			return "", nil, malformed(mslParseError, "reading wrapdata")
		}
		if len(wrapdata) == 0 {
			return "", nil, malformed(mslWrappingKeyMissing, "reading wrapdata")
		}
		return mechanism, wrapdata, nil
	}
	return "", nil, malformed(mslUnidentifiedMechanism, "reading mechanism")
}

func (l ladder) respond(ctx context.Context, a *Agent, from *requester, o mslenc.Object) (*sessionKeys, []byte, error) {
	under, done, err := a.ladderBelow(ctx, from, o)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	issuer, err := a.tokenKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	wrapKey := secret.Random(wrapKeySize)
	defer wrapKey.Wipe()
	wrapdata, err := issuer.newest().wrap(ctx, secret.Reveal(wrapKey))
	if err != nil {
		return nil, nil, err
	}
	jwk := wrappingJWK
	jwk.ID = l.keyID()
	wrapped, err := l.wrap(ctx, under, wrapKey, jwk)
	if err != nil {
		return nil, nil, err
	}
	own, err := wrapSuite(wrapKey)
	if err != nil {
		return nil, nil, err
	}
	keys := newSessionKeys()
	var w wrappedKeys
	if w.enc, err = l.wrap(ctx, own, keys.enc, encryptionJWK); err == nil {
		w.mac, err = l.wrap(ctx, own, keys.mac, signatureJWK)
	}
	if err != nil {
		keys.wipe()
		return nil, nil, err
	}
	var b mslenc.Builder
	b.Binary("wrapkey", wrapped)
	b.Binary("wrapdata", wrapdata)
	b.Binary("encryptionkey", w.enc)
	b.Binary("hmackey", w.mac)
	return keys, b.Bytes(), nil
}

// ladderBelow returns what the new wrapping key is wrapped under.
func (a *Agent) ladderBelow(ctx context.Context, from *requester, o mslenc.Object) (below *suite, done func(), err error) {
	mechanism, wrapdata, err := parseLadderMechanism(o)
	if err != nil {
		return nil, nil, err
	}
	if mechanism == mechanismPSK {
		set, done, err := a.pskOf(ctx, from.identity, from.record)
		if err != nil {
			return nil, nil, err
		}
		return set.newest(), done, nil
	}
	if a.cfg.TokenKeys == "" {
		return nil, nil, unsupported(mslUnwrapNotSupported, "reading wrapdata without token keys")
	}
	key, err := a.unwrapRole(ctx, a.cfg.TokenKeys, wrapdata)
	if err != nil {
		return nil, nil, err
	}
	previous := secret.Take(key)
	defer previous.Wipe()
	if previous.Len() != wrapKeySize {
		return nil, nil, unverified(mslUnwrapError, "using wrapdata")
	}
	below, err = wrapSuite(previous)
	return below, func() {}, err
}

// keyID is the kid of a wrapping key, which nobody compares.
func (l ladder) keyID() string {
	if !l.jwe {
		return "wrapKeyId"
	}
	var b [8]byte
	rand.Read(b[:])
	return strconv.FormatInt(int64(binary.BigEndian.Uint64(b[:])), 10)
}

// A pendingLadder waits for a wrapping key under one that is known already.
type pendingLadder struct {
	ladder
	request []byte   // keydata
	under   []*suite // the versions of the pre-shared key, or the wrapping key of before; nil: wiped
}

func (l ladder) begin(ctx context.Context, a *Agent, r *beginner) (pendingExchange, error) {
	p := &pendingLadder{ladder: l}
	var b mslenc.Builder
	b.String("mechanism", r.mechanism)
	switch r.mechanism {
	case mechanismPSK:
		set, err := a.preSharedKeys(ctx, r.identity)
		if err != nil {
			return nil, err
		}
		if set.newest().kw == nil {
			return nil, unsupported(mslUnwrapNotSupported, "beginning a key exchange without a wrapping key")
		}
		p.under = set.versions
	case mechanismWRAP:
		if r.session == nil || r.session.keys.rung == nil || r.session.keys.rung.scheme != l.scheme {
			return nil, unsupported(mslWrappingKeyMissing, "beginning a key exchange without one of its kind before")
		}
		below := r.session.keys.rung
		under, err := wrapSuite(below.key)
		if err != nil {
			return nil, err
		}
		p.under = []*suite{under}
		b.Binary("wrapdata", below.wrapdata)
	default:
		return nil, unsupported(mslUnidentifiedMechanism, "beginning a key exchange with that mechanism")
	}
	p.request = b.Bytes()
	return p, nil
}

func (p *pendingLadder) wipe() { p.under = nil }

func (p *pendingLadder) keyData() []byte { return p.request }

func (p *pendingLadder) finish(ctx context.Context, o mslenc.Object) (*sessionKeys, error) {
	wrapped, err := o.Binary("wrapkey")
	if err != nil {
		return nil, malformed(mslParseError, "reading wrapkey")
	}
	wrapdata, err := o.Binary("wrapdata")
	if err != nil || len(wrapdata) > maxWrapdata {
		return nil, malformed(mslParseError, "reading wrapdata")
	}
	w, err := parseWrappedKeys(o)
	if err != nil {
		return nil, err
	}
	if len(p.under) == 0 {
		return nil, unsupported(mslWrappingKeyMissing, "unwrapping without a wrapping key")
	}
	var wrapKey *secret.Bytes
	for _, under := range p.under {
		if under.kw == nil {
			continue
		}
		if wrapKey, err = p.unwrap(ctx, under, wrapped, wrappingJWK); err == nil || codeOf(err) != wire.VerificationFailed {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	keys, err := p.open(ctx, wrapKey, w)
	if err != nil {
		wrapKey.Wipe()
		return nil, err
	}
	keys.rung = &rung{p.scheme, bytes.Clone(wrapdata), wrapKey}
	return keys, nil
}

// open unwraps the session keys.
func (p *pendingLadder) open(ctx context.Context, wrapKey *secret.Bytes, w wrappedKeys) (*sessionKeys, error) {
	if wrapKey.Len() != wrapKeySize {
		return nil, unverified(mslInvalidJWK, "using a wrapping key")
	}
	under, err := wrapSuite(wrapKey)
	if err != nil {
		return nil, err
	}
	keys := &sessionKeys{algorithm: hmacSHA256}
	if keys.enc, err = p.unwrap(ctx, under, w.enc, encryptionJWK); err == nil {
		keys.mac, err = p.unwrap(ctx, under, w.mac, signatureJWK)
	}
	if err == nil && !keys.wellSized() {
		err = unverified(mslSessionKeyCreation, "using session keys")
	}
	if err != nil {
		keys.wipe()
		return nil, err
	}
	return keys, nil
}
