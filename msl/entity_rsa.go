// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// minRSABits is the smallest RSA key whose signatures are accepted.
const minRSABits = 2048

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

func contextRSA(ctx context.Context, cfg *Config, keys EntityKeys, d EntityAuthData, own bool) (CryptoContext, error) {
	if own {
		c, err := keys.EntityContext(ctx, schemeRSA, d.identity, d.keyID)
		if failureOf(err) == NoSuchKey {
			return nil, fail(RSAPrivateKeyNotFound, "own RSA key", err)
		}
		if err != nil {
			return nil, custodyError(err, RSAPrivateKeyNotFound, "own RSA key")
		}
		return c, nil
	}
	key := cfg.RSAPublicKeys[d.keyID]
	if key == nil {
		return nil, fail(RSAPublicKeyNotFound, "RSA entity", nil)
	}
	if key.N == nil || key.N.BitLen() < minRSABits {
		return nil, fail(InvalidPublicKey, "RSA entity", nil)
	}
	allowed, named := cfg.RSAIdentities[d.keyID]
	if named && !slices.Contains(allowed, d.identity) || !named && d.identity != d.keyID {
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
	plain := make([][]byte, 0, len(parts))
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return plain, err
		}
		digest := sha256.Sum256(p.Data)
		if rsa.VerifyPKCS1v15(v.key, crypto.SHA256, digest[:], p.Signature) != nil {
			return plain, notVerified{"RSA signature"}
		}
		plain = append(plain, p.Data)
	}
	return plain, nil
}
