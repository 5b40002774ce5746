// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Sealed keys are data that the chip gives out for each use. The uses themselves are as in package software.

const (
	gcmNonce = 12
	// maxSealedData is how many bytes an operation takes that is done here.
	maxSealedData = 16 << 20
)

// unsealed gives f the key, and wipes it.
func unsealed[T any](ctx context.Context, o *object, op string, f func(cipher.Block) (T, error)) (T, error) {
	var none T
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
		return none, err
	}
	defer key.Wipe()
	if key.Len()*8 != aesBits[o.stored.info.Type] {
		return none, failure(providers.Corrupt, op, errKeyPublic)
	}
	block, err := aes.NewCipher(secret.Reveal(key))
	if err != nil {
		return none, failure(providers.Corrupt, op, err)
	}
	out, err := f(block)
	return out, coded(op, err)
}

// A sealedKey encrypts in this process.
type sealedKey struct{ *object }

// Mechanisms lists what AES does here.
func (k *sealedKey) Mechanisms() []providers.Mechanism {
	return []providers.Mechanism{providers.AESCBC, providers.AESGCM}
}

func (k *sealedKey) check(op string, m providers.Mechanism, iv, data, aad []byte) error {
	switch {
	case m != providers.AESCBC && m != providers.AESGCM:
		return failure(providers.NotSupported, op, errMechanism)
	case len(data)+len(aad) > maxSealedData, m == providers.AESGCM && len(iv) != gcmNonce, m == providers.AESCBC && len(iv) != aes.BlockSize:
		return failure(providers.Malformed, op, errSize)
	case m == providers.AESCBC && len(aad) > 0:
		return failure(providers.Malformed, op, errAAD)
	}
	return nil
}

// Encrypt encrypts with AES-CBC or AES-GCM.
func (k *sealedKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	const op = "encrypting"
	if err := k.check(op, m, iv, plaintext, aad); err != nil {
		return nil, err
	}
	return unsealed(ctx, k.object, op, func(b cipher.Block) ([]byte, error) {
		if m == providers.AESGCM {
			gcm, err := cipher.NewGCM(b)
			if err != nil {
				return nil, err
			}
			return gcm.Seal(nil, iv, plaintext, aad), nil
		}
		out := pad(plaintext)
		cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, out)
		return out, nil
	})
}

// Decrypt undoes Encrypt.
func (k *sealedKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	const op = "decrypting"
	if err := k.check(op, m, iv, ciphertext, aad); err != nil {
		return nil, err
	}
	if m == providers.AESCBC && (len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0) {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	return unsealed(ctx, k.object, op, func(b cipher.Block) ([]byte, error) {
		if m == providers.AESGCM {
			gcm, err := cipher.NewGCM(b)
			if err != nil {
				return nil, err
			}
			out, err := gcm.Open(nil, iv, ciphertext, aad)
			if err != nil {
				return nil, peerError{}
			}
			return out, nil
		}
		out := bytes.Clone(ciphertext)
		cipher.NewCBCDecrypter(b, iv).CryptBlocks(out, out)
		return unpad(out)
	})
}

// A sealedWrapKey wraps in this process.
type sealedWrapKey struct{ *object }

// Mechanisms lists none: wrapping has no name.
func (k *sealedWrapKey) Mechanisms() []providers.Mechanism { return nil }

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *sealedWrapKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	const op = "wrapping a key"
	if len(key) < 16 || len(key)%8 != 0 || len(key) > maxSealedData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	return unsealed(ctx, k.object, op, func(b cipher.Block) ([]byte, error) { return aeskw.Wrap(b, key) })
}

// Unwrap undoes Wrap.
func (k *sealedWrapKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	const op = "unwrapping a key"
	if len(wrapped) < 24 || len(wrapped)%8 != 0 || len(wrapped) > maxSealedData {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	return unsealed(ctx, k.object, op, func(b cipher.Block) ([]byte, error) {
		out, err := aeskw.Unwrap(b, wrapped)
		if err != nil {
			return nil, peerError{}
		}
		return out, nil
	})
}
