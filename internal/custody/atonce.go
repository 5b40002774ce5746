// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// openToken verifies a token with the token keys, and decrypts the part of it that ciphertext finds in its
// data. No keys without an error mean that it was not issued here. The caller wipes the plaintext.
func (a *Agent) openToken(ctx context.Context, t wire.Token, ciphertext func(data []byte) ([]byte, error)) (plain []byte, keys *suite, err error) {
	plain, keys, tried, err := a.openAtOnce(ctx, t, ciphertext)
	if keys != nil || err != nil {
		return plain, keys, err
	}
	keys, ok, err := a.verifyToken(ctx, tried, t)
	if err != nil || !ok {
		return nil, nil, err
	}
	b, err := ciphertext(t.Data)
	if err != nil {
		return nil, keys, err
	}
	plain, err = keys.decrypt(ctx, b)
	return plain, keys, err
}

// openAtOnce does so in one round trip, if the provider takes batches and the token is of the newest keys
// and in order. In all other cases there are no keys: which it is, the slower way finds out, but need not try those again
// that did not verify. The provider decrypts only what it has verified, since a batch stops at the first failure.
func (a *Agent) openAtOnce(ctx context.Context, t wire.Token, ciphertext func(data []byte) ([]byte, error)) (plain []byte, keys, tried *suite, err error) {
	batcher, can := a.provider.(providers.Batcher)
	if !can || a.cfg.TokenKeys == "" || len(t.Data) == 0 || len(t.Data)+len(t.Signature) > maxToken || len(t.Signature) != macSize {
		return nil, nil, nil, nil
	}
	b, err := ciphertext(t.Data)
	if err != nil {
		return nil, nil, nil, nil
	}
	e, err := parseEnvelope(nil, b, 1)
	if err != nil || len(e.iv) != ivSize || len(e.ciphertext) == 0 || len(e.ciphertext)%16 != 0 {
		return nil, nil, nil, nil
	}
	set, err := a.roleKeys(ctx, a.cfg.TokenKeys)
	if err != nil {
		return nil, nil, nil, err
	}
	mac, ok1 := set.newest().mac.(*providerMAC)
	enc, ok2 := set.newest().enc.(*providerCBC)
	if !ok1 || !ok2 || mac.verifier == nil {
		return nil, nil, nil, nil
	}
	mac.key.used()
	results := batcher.Do(ctx, []providers.Operation{
		{Key: set.name + macSuffix, Version: mac.key.Info().Version, Op: providers.OpVerifyMAC, Input: t.Data, MAC: t.Signature},
		{Key: set.name + encSuffix, Version: enc.key.Info().Version, Op: providers.OpDecrypt, Mechanism: providers.AESCBC, IV: e.iv, Input: e.ciphertext},
	}, true)
	for i, r := range results {
		switch {
		case r.Err == nil:
		case codeOf(r.Err) == wire.VerificationFailed && i == 0:
			return nil, nil, set.newest(), nil
		case codeOf(r.Err) == wire.VerificationFailed:
			return nil, nil, nil, nil
		default:
			return nil, nil, nil, r.Err
		}
	}
	if len(results) != 2 {
		return nil, nil, nil, nil
	}
	enc.key.used()
	return results[1].Output, set.newest(), nil, nil
}
