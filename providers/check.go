// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"crypto/ecdh"
	"errors"
	"slices"
)

// Check does a real operation with every version of every key, unless p is a [HealthChecker], which knows
// better. It returns the first failure.
func Check(ctx context.Context, p Provider) error {
	if h, ok := p.(HealthChecker); ok {
		return h.Health(ctx)
	}
	infos, err := p.Keys(ctx)
	if err != nil {
		return err
	}
	for _, i := range infos {
		k, err := p.Open(ctx, i.Name, i.Version)
		if errors.Is(err, NoSuchKey) {
			continue // destroyed since
		}
		if err == nil {
			err = TryKey(ctx, k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TryKey uses a key once, to see that it works. If all that it can do is to open what it has protected
// elsewhere, it is given garbage, which it must refuse as such.
func TryKey(ctx context.Context, k Key) error {
	mechanisms := MechanismsOf(k)
	has := func(m Mechanism) bool { return slices.Contains(mechanisms, m) }
	cipher, iv := AESGCM, make([]byte, 12)
	if has(AESCBC) {
		cipher, iv = AESCBC, make([]byte, 16)
	} else if has(AEAD) {
		cipher, iv = AEAD, nil
	}
	pair := RSAOAEP
	if has(ECDSAP256) {
		pair = ECDSAP256
	} else if has(RSAPKCS1) {
		pair = RSAPKCS1
	}
	garbage := make([]byte, 32)
	for _, o := range []Operation{
		{Op: OpEncrypt, Mechanism: cipher, IV: iv, Input: garbage},
		{Op: OpMAC, Input: garbage},
		{Op: OpSign, Mechanism: pair, Input: garbage},
		{Op: OpAgree, Input: basePoint()},
		{Op: OpWrap, Input: garbage},
		{Op: OpDecryptRSA, Mechanism: pair, Input: garbage},
		{Op: OpDecrypt, Mechanism: cipher, IV: iv, Input: garbage},
		{Op: OpVerifyMAC, Input: garbage, MAC: garbage},
		{Op: OpUnwrap, Input: garbage},
		{Op: OpPublicKey},
	} {
		if !Can(k, o.Op) {
			continue
		}
		_, err := use(ctx, k, &o)
		if errors.Is(err, VerificationFailed) {
			err = nil
		}
		return err
	}
	return &Error{Code: NotSupported, Op: "trying a key", Err: errors.New("it can be used for nothing")}
}

// basePoint is a peer whose secret is 1: what is agreed with it is public.
func basePoint() []byte {
	one := make([]byte, 32)
	one[31] = 1
	k, err := ecdh.P256().NewPrivateKey(one)
	if err != nil {
		return nil // a key that can agree then fails its check
	}
	return k.PublicKey().Bytes()
}
