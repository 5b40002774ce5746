// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/aeskey"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Sealed keys are data that the chip gives out for each use. The uses themselves are as in package software.

// unsealed gives f the key, and wipes it.
func unsealed(ctx context.Context, o *object, op string, f func(*aeskey.Key) ([]byte, error)) ([]byte, error) {
	key, err := used(ctx, o, op, func(c *chip) (key *secret.Bytes, err error) {
		err = c.use(o.stored, encryptOut, func(h tpm2.AuthHandle) error {
			response, err := tpm2.Unseal{ItemHandle: h}.Execute(c)
			if err == nil {
				key = secret.Take(response.OutData.Buffer)
			}
			return err
		})
		return key, err
	})
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if key.Len()*8 != aesBits[o.stored.info.Type] {
		return nil, failure(providers.Corrupt, op, errKeyPublic)
	}
	expanded, err := aeskey.New(secret.Reveal(key))
	if err != nil {
		return nil, failure(providers.Corrupt, op, err)
	}
	return f(expanded)
}

// A sealedKey encrypts in this process.
type sealedKey struct{ *object }

// Mechanisms lists what AES does here.
func (k *sealedKey) Mechanisms() []providers.Mechanism {
	return []providers.Mechanism{providers.AESCBC, providers.AESGCM}
}

// Encrypt encrypts with AES-CBC or AES-GCM.
func (k *sealedKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	return unsealed(ctx, k.object, "encrypting", func(key *aeskey.Key) ([]byte, error) { return key.Encrypt(m, iv, plaintext, aad) })
}

// Decrypt undoes Encrypt.
func (k *sealedKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	return unsealed(ctx, k.object, "decrypting", func(key *aeskey.Key) ([]byte, error) { return key.Decrypt(m, iv, ciphertext, aad) })
}

// A sealedWrapKey wraps in this process.
type sealedWrapKey struct{ *object }

// Mechanisms lists none: wrapping has no name.
func (k *sealedWrapKey) Mechanisms() []providers.Mechanism { return nil }

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *sealedWrapKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	return unsealed(ctx, k.object, "wrapping a key", func(with *aeskey.Key) ([]byte, error) { return with.Wrap(key) })
}

// Unwrap undoes Wrap.
func (k *sealedWrapKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return unsealed(ctx, k.object, "unwrapping a key", func(with *aeskey.Key) ([]byte, error) { return with.Unwrap(wrapped) })
}
