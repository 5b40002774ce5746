// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"

	"github.com/mslkeep/mslkeep/internal/aeskey"
	"github.com/mslkeep/mslkeep/providers"
)

// A heldCipher is an AES key, used in this process.
type heldCipher struct{ *heldKey }

// with calls f with the key.
func (k *heldCipher) with(ctx context.Context, op string, f func(*aeskey.Key) ([]byte, error)) (out []byte, err error) {
	err = k.use(ctx, op, func(bytes []byte) error {
		key, err := aeskey.New(bytes)
		if err != nil {
			return failure(providers.Device, op, nil)
		}
		out, err = f(key)
		return err
	})
	return out, err
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *heldCipher) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	return k.with(ctx, "encrypting", func(key *aeskey.Key) ([]byte, error) { return key.Encrypt(m, iv, plaintext, aad) })
}

// Decrypt undoes Encrypt.
func (k *heldCipher) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	return k.with(ctx, "decrypting", func(key *aeskey.Key) ([]byte, error) { return key.Decrypt(m, iv, ciphertext, aad) })
}

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *heldCipher) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	return k.with(ctx, "wrapping a key", func(with *aeskey.Key) ([]byte, error) { return with.Wrap(key) })
}

// Unwrap undoes Wrap.
func (k *heldCipher) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return k.with(ctx, "unwrapping a key", func(with *aeskey.Key) ([]byte, error) { return with.Unwrap(wrapped) })
}

// A heldMAC is an HMAC key, used in this process.
type heldMAC struct{ *heldKey }

// MAC computes HMAC-SHA-256.
func (k *heldMAC) MAC(ctx context.Context, message []byte) (out []byte, err error) {
	const op = "computing a MAC"
	err = k.mac(ctx, op, message, func(sum []byte) error { out = sum; return nil })
	return out, err
}

// VerifyMAC compares in constant time.
func (k *heldMAC) VerifyMAC(ctx context.Context, message, mac []byte) error {
	const op = "verifying a MAC"
	return k.mac(ctx, op, message, func(sum []byte) error {
		if !hmac.Equal(sum, mac) {
			return failure(providers.VerificationFailed, op, nil)
		}
		return nil
	})
}

func (k *heldMAC) mac(ctx context.Context, op string, message []byte, f func(sum []byte) error) error {
	if len(message) > aeskey.MaxData {
		return failure(providers.Malformed, op, errSize)
	}
	return k.use(ctx, op, func(key []byte) error {
		h := hmac.New(sha256.New, key)
		h.Write(message)
		return f(h.Sum(nil))
	})
}
