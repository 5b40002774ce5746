// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// The RSA keys whose signatures are accepted, in bits.
const minRSABits, maxRSABits = 2048, 8192

// RSA is an entity that signs with an RSA key, which its peers know by keyID (§5.4).
func RSA(identity, keyID string) EntityAuthData {
	identity, keyID = mslenc.NFC(identity), mslenc.NFC(keyID)
	var b mslenc.Builder
	b.String("identity", identity)
	b.String("pubkeyid", keyID)
	return EntityAuthData{Scheme: schemeRSA, identity: identity, keyID: keyID, authData: string(b.Bytes())}
}

func parseRSA(authData *fields) EntityAuthData {
	return EntityAuthData{identity: authData.text("identity"), keyID: authData.text("pubkeyid")}
}

// findPublicKey asks the application for a key that the configuration does not hold. Nil is for none.
func (c *Config) findPublicKey(ctx context.Context, keyID string) (crypto.PublicKey, error) {
	if c.PublicKey == nil {
		return nil, nil
	}
	key, err := c.PublicKey(ctx, keyID)
	if err != nil {
		return nil, fail(InternalException, "looking up a public key", err)
	}
	return key, nil
}

func contextRSA(ctx context.Context, cfg *Config, keys EntityKeys, d *EntityAuthData, own bool) (CryptoContext, error) {
	if own {
		return ownKey(ctx, keys, d, RSAPrivateKeyNotFound)
	}
	key := cfg.RSAPublicKeys[d.keyID]
	if key == nil {
		found, err := cfg.findPublicKey(ctx, d.keyID)
		if err != nil {
			return nil, err
		}
		key, _ = found.(*rsa.PublicKey)
	}
	switch {
	case key == nil:
		return nil, fail(RSAPublicKeyNotFound, "RSA entity", nil)
	case key.N == nil || key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits:
		return nil, fail(InvalidPublicKey, "RSA entity", nil)
	case !d.mayClaim(cfg.RSAIdentities):
		return nil, fail(IncorrectEntityAuthData, "RSA entity", nil)
	}
	return rsaVerifier{key}, nil
}

// An rsaVerifier opens what the holder of a key signed: plain bytes under RSASSA-PKCS1-v1_5 with SHA-256
// (§2.8). It cannot seal.
type rsaVerifier struct{ key *rsa.PublicKey }

func (rsaVerifier) isLocal() {}

func (v rsaVerifier) Seal(context.Context, [][]byte) ([]Part, error) {
	return nil, notSupported{"signature with a public key", SignNotSupported}
}

func (v rsaVerifier) Open(ctx context.Context, parts []Part) ([][]byte, error) {
	return openSigned(ctx, parts, func(p Part) bool {
		digest := sha256.Sum256(p.Data)
		return rsa.VerifyPKCS1v15(v.key, crypto.SHA256, digest[:], p.Signature) == nil
	})
}

// openSigned returns the data of parts that are signed and not encrypted, up to the first that does not verify.
func openSigned(ctx context.Context, parts []Part, verified func(Part) bool) ([][]byte, error) {
	plain := make([][]byte, 0, len(parts))
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return plain, err
		}
		if !verified(p) {
			return plain, notVerified{"signature"}
		}
		plain = append(plain, p.Data)
	}
	return plain, nil
}
