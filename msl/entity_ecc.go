// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"slices"
)

// ECC is an entity that signs with a key on an elliptic curve, which its peers know by keyID (§5.4).
func ECC(identity, keyID string) EntityAuthData {
	d := RSA(identity, keyID) // which has the same members
	d.Scheme = schemeECC
	return d
}

func parseECC(authData *fields) EntityAuthData { return parseRSA(authData) }

func contextECC(ctx context.Context, cfg *Config, keys EntityKeys, d *EntityAuthData, own bool) (CryptoContext, error) {
	if own {
		return ownKey(ctx, keys, d, ECCPrivateKeyNotFound)
	}
	known, ok := cfg.ECCPublicKeys[d.keyID]
	if !ok {
		found, err := cfg.findPublicKey(ctx, d.keyID)
		if err != nil {
			return nil, err
		}
		if _, ok = found.(*ecdsa.PublicKey); ok {
			known = found
		}
	}
	if !ok {
		return nil, fail(ECCPublicKeyNotFound, "ECC entity", nil)
	}
	key, ok := known.(*ecdsa.PublicKey)
	if !ok || key == nil || !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
		return nil, fail(InvalidPublicKey, "ECC entity", nil)
	}
	if !d.mayClaim(cfg.ECCIdentities) {
		return nil, fail(IncorrectEntityAuthData, "ECC entity", nil)
	}
	return ecVerifier{key}, nil
}

// An ecVerifier opens what the holder of a key signed: plain bytes under ECDSA with SHA-256, where the
// signature is in DER (§2.8). Of a signature (r, s) there is always another, (r, -s); nothing here takes a
// signature for a name. It cannot seal.
type ecVerifier struct{ key *ecdsa.PublicKey }

func (ecVerifier) isLocal() {}

func (ecVerifier) Seal(context.Context, [][]byte) ([]Part, error) {
	return nil, notSupported{"signature with a public key", SignNotSupported}
}

func (v ecVerifier) Open(ctx context.Context, parts []Part) ([][]byte, error) {
	return openSigned(ctx, parts, func(p Part) bool {
		digest := sha256.Sum256(p.Data)
		return ecdsa.VerifyASN1(v.key, digest[:], p.Signature)
	})
}
