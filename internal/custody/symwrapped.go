// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// SYMMETRIC_WRAPPED (§7.3): random session keys, wrapped by AES key wrap under the pre-shared wrapping
// key of the identity. The key id SESSION is refused, as it ends in the reference: sessions have no
// wrapping key.

const (
	keyIDPSK     = "PSK"
	keyIDSession = "SESSION"
)

// wrappedKeys is the part of keydata that holds the session keys, in both wrapped schemes.
type wrappedKeys struct{ enc, mac []byte }

func parseWrappedKeys(o mslenc.Object) (w wrappedKeys, err error) {
	if w.enc, err = o.Binary("encryptionkey"); err != nil {
		return w, malformed(mslParseError, "reading encryptionkey")
	}
	if w.mac, err = o.Binary("hmackey"); err != nil {
		return w, malformed(mslParseError, "reading hmackey")
	}
	return w, nil
}

func parseKeyID(o mslenc.Object) (string, error) {
	id, err := o.String("keyid")
	if err != nil {
		return "", malformed(mslParseError, "reading keyid")
	}
	if id != keyIDPSK && id != keyIDSession {
		return "", malformed(mslUnidentifiedKeyID, "reading keyid")
	}
	return id, nil
}

func respondSymmetric(ctx context.Context, a *Agent, from *requester, o mslenc.Object) (*sessionKeys, []byte, error) {
	id, err := parseKeyID(o)
	switch {
	case err != nil:
		return nil, nil, err
	case id == keyIDSession && from.session == nil:
		return nil, nil, malformed(mslMasterTokenMissing, "wrapping with session keys")
	case id == keyIDSession:
		return nil, nil, unsupported(mslWrapNotSupported, "wrapping with session keys")
	}
	set, done, err := a.pskOf(ctx, from.identity, from.record)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	keys := newSessionKeys()
	var w wrappedKeys
	if w.enc, err = set.newest().wrap(ctx, secret.Reveal(keys.enc)); err == nil {
		w.mac, err = set.newest().wrap(ctx, secret.Reveal(keys.mac))
	}
	if err != nil {
		keys.wipe()
		return nil, nil, err
	}
	var b mslenc.Builder
	b.String("keyid", id)
	b.Binary("encryptionkey", w.enc)
	b.Binary("hmackey", w.mac)
	return keys, b.Bytes(), nil
}

// A pendingSymmetric waits for keys that only the pre-shared wrapping key opens.
type pendingSymmetric struct{ set *keySet }

func beginSymmetric(ctx context.Context, a *Agent, r *beginner) (pendingExchange, error) {
	if r.mechanism != keyIDPSK {
		return nil, unsupported(mslUnsupportedKeyID, "beginning a key exchange with that key id")
	}
	set, err := a.preSharedKeys(ctx, r.identity)
	if err != nil {
		return nil, err
	}
	if set.newest().kw == nil {
		return nil, unsupported(mslUnwrapNotSupported, "beginning a key exchange without a wrapping key")
	}
	return &pendingSymmetric{set}, nil
}

func (p *pendingSymmetric) wipe() {}

func (p *pendingSymmetric) keyData() []byte {
	var b mslenc.Builder
	b.String("keyid", keyIDPSK)
	return b.Bytes()
}

func (p *pendingSymmetric) finish(ctx context.Context, o mslenc.Object) (*sessionKeys, error) {
	id, err := parseKeyID(o)
	if err != nil {
		return nil, err
	}
	w, err := parseWrappedKeys(o)
	if err != nil {
		return nil, err
	}
	if id != keyIDPSK {
		return nil, malformed(mslResponseMismatch, "comparing keyid")
	}
	var keys *sessionKeys
	for _, s := range p.set.versions {
		if s.kw == nil {
			continue
		}
		if keys, err = unwrapKeys(ctx, s, w); err == nil || codeOf(err) != wire.VerificationFailed {
			return keys, err
		}
	}
	return nil, err
}

// unwrapKeys unwraps both keys under one version.
func unwrapKeys(ctx context.Context, s *suite, w wrappedKeys) (*sessionKeys, error) {
	enc, err := s.unwrap(ctx, w.enc)
	if err != nil {
		return nil, err
	}
	keys := &sessionKeys{enc: secret.Take(enc), algorithm: hmacSHA256}
	mac, err := s.unwrap(ctx, w.mac)
	if err != nil {
		keys.wipe()
		return nil, err
	}
	if keys.mac = secret.Take(mac); !keys.wellSized() {
		keys.wipe()
		return nil, unverified(mslSessionKeyCreation, "using session keys")
	}
	return keys, nil
}
