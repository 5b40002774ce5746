// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"sync"

	"github.com/mslkeep/mslkeep/internal/aeskey"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var (
	errSize      = errors.New("too long")
	errMechanism = errors.New("not a mechanism of this type of key")
)

// An aesKey encrypts and wraps.
type aesKey struct {
	*material
	expand sync.Once
	key    *aeskey.Key // nil before the first use
}

// begin makes the key ready for one use. The caller calls done.
func (k *aesKey) begin(ctx context.Context, op string) (done func(), err error) {
	done, err = k.use(ctx, op)
	if err != nil {
		return nil, err
	}
	k.expand.Do(func() { k.key, _ = aeskey.New(secret.Reveal(k.bytes)) })
	if k.key == nil {
		done()
		return nil, failure(providers.Device, op, nil)
	}
	return done, nil
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *aesKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	done, err := k.begin(ctx, "encrypting")
	if err != nil {
		return nil, err
	}
	defer done()
	return k.key.Encrypt(m, iv, plaintext, aad)
}

// Decrypt undoes Encrypt.
func (k *aesKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	done, err := k.begin(ctx, "decrypting")
	if err != nil {
		return nil, err
	}
	defer done()
	return k.key.Decrypt(m, iv, ciphertext, aad)
}

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *aesKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	done, err := k.begin(ctx, "wrapping a key")
	if err != nil {
		return nil, err
	}
	defer done()
	return k.key.Wrap(key)
}

// Unwrap undoes Wrap.
func (k *aesKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	done, err := k.begin(ctx, "unwrapping a key")
	if err != nil {
		return nil, err
	}
	defer done()
	return k.key.Unwrap(wrapped)
}

// An hmacKey authenticates with HMAC-SHA-256.
type hmacKey struct{ *material }

// MAC computes a MAC of 32 bytes.
func (k *hmacKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return k.mac(ctx, "computing a MAC", message)
}

// VerifyMAC compares in constant time.
func (k *hmacKey) VerifyMAC(ctx context.Context, message, mac []byte) error {
	const op = "verifying a MAC"
	want, err := k.mac(ctx, op, message)
	if err != nil {
		return err
	}
	if !hmac.Equal(want, mac) {
		return failure(providers.VerificationFailed, op, nil)
	}
	return nil
}

func (k *hmacKey) mac(ctx context.Context, op string, message []byte) ([]byte, error) {
	if len(message) > aeskey.MaxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	done, err := k.use(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	h := hmac.New(sha256.New, secret.Reveal(k.bytes))
	h.Write(message)
	return h.Sum(nil), nil
}
