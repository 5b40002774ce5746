// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"github.com/mslkeep/mslkeep/providers"
)

// An exchangePair is the RSA key pair of a key exchange that this side begins: one of the agent's own, which serves
// for a while, or the configured one, whose private half stays in a provider.
type exchangePair struct {
	id      string // keypairid
	spki    []byte
	private providers.RSADecrypter
	release func()
}

// pairID makes the keypairid of a public key.
func pairID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:8])
}

// exchangePair returns a pair, which the caller releases.
func (a *Agent) exchangePair(ctx context.Context) (*exchangePair, error) {
	if a.cfg.ExchangeKey != "" {
		return a.exchangeKey(ctx)
	}
	p, err := a.pairs.take(ctx)
	if err != nil {
		return nil, err
	}
	return &exchangePair{id: p.id, spki: p.spki, private: p, release: p.release}, nil
}

// exchangeKey is the newest version of the configured key. A key exchange that an older one has begun still ends with
// that.
func (a *Agent) exchangeKey(ctx context.Context) (*exchangePair, error) {
	key, err := a.openKey(ctx, a.cfg.ExchangeKey, 0)
	if err != nil {
		return nil, err
	}
	private, ok1 := key.Key.(providers.RSADecrypter)
	half, ok2 := key.Key.(providers.PublicKeyer)
	if !ok1 || !ok2 {
		return nil, unsupported(noNumber, "exchanging keys with a key that is no RSA key for decryption")
	}
	spki, err := half.PublicKey(ctx)
	if err != nil {
		return nil, err
	}
	if public, err := x509.ParsePKIXPublicKey(spki); err != nil {
		return nil, unsupported(noNumber, "exchanging keys with a key whose public half cannot be read")
	} else if p, ok := public.(*rsa.PublicKey); !ok || p.N.BitLen() < minModulus {
		return nil, unsupported(noNumber, "exchanging keys with a key that is no RSA key of 2048 bits or more")
	}
	return &exchangePair{id: pairID(spki), spki: spki, private: usedDecrypter{private, key}, release: func() {}}, nil
}

// A usedDecrypter counts the uses of its key.
type usedDecrypter struct {
	providers.RSADecrypter
	key usedKey
}

// DecryptRSA is as [providers.RSADecrypter] wants it.
func (d usedDecrypter) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	d.key.used()
	return d.RSADecrypter.DecryptRSA(ctx, m, ciphertext)
}
