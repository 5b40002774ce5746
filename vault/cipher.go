// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/providers"
)

// maxHeld bounds the input of an operation with a key that is held, in bytes.
const maxHeld = 64 << 20

// A heldCipher is an AES key, used in this process.
type heldCipher struct{ *heldKey }

// with calls f with the cipher.
func (k *heldCipher) with(ctx context.Context, op string, size int, f func(b cipher.Block) error) error {
	if size > maxHeld {
		return failure(providers.Malformed, op, errSize)
	}
	return k.use(ctx, op, func(key []byte) error {
		b, err := aes.NewCipher(key)
		if err != nil {
			return failure(providers.Device, op, nil)
		}
		return f(b)
	})
}

// check checks the parameters of a mechanism.
func check(op string, m providers.Mechanism, iv, aad []byte) error {
	switch {
	case m != providers.AESCBC && m != providers.AESGCM:
		return failure(providers.NotSupported, op, errMechanism)
	case m == providers.AESCBC && len(aad) != 0:
		return failure(providers.Malformed, op, errors.New("this mechanism takes no associated data"))
	case m == providers.AESCBC && len(iv) != aes.BlockSize, m == providers.AESGCM && len(iv) != 12:
		return failure(providers.Malformed, op, errors.New("the initialisation vector has the wrong size"))
	}
	return nil
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *heldCipher) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) (out []byte, err error) {
	const op = "encrypting"
	if err := check(op, m, iv, aad); err != nil {
		return nil, err
	}
	err = k.with(ctx, op, len(plaintext), func(b cipher.Block) error {
		if m == providers.AESGCM {
			gcm, err := cipher.NewGCM(b)
			if err != nil {
				return failure(providers.Device, op, nil)
			}
			out = gcm.Seal(nil, iv, plaintext, aad)
			return nil
		}
		out = pad(plaintext)
		cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, out)
		return nil
	})
	return out, err
}

// Decrypt undoes Encrypt.
func (k *heldCipher) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) (out []byte, err error) {
	const op = "decrypting"
	if err := check(op, m, iv, aad); err != nil {
		return nil, err
	}
	err = k.with(ctx, op, len(ciphertext), func(b cipher.Block) error {
		if m == providers.AESCBC {
			var ok bool
			if out, ok = openCBC(b, iv, ciphertext); !ok {
				return failure(providers.VerificationFailed, op, nil)
			}
			return nil
		}
		gcm, err := cipher.NewGCM(b)
		if err != nil {
			return failure(providers.Device, op, nil)
		}
		if out, err = gcm.Open(nil, iv, ciphertext, aad); err != nil {
			return failure(providers.VerificationFailed, op, nil)
		}
		return nil
	})
	return out, err
}

func openCBC(b cipher.Block, iv, ciphertext []byte) ([]byte, bool) {
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, false
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(b, iv).CryptBlocks(out, ciphertext)
	n, ok := unpad(out)
	if !ok {
		clear(out)
		return nil, false
	}
	return out[:n], true
}

// pad copies b and adds PKCS #7 padding (RFC 5652 §6.3).
func pad(b []byte) []byte {
	n := aes.BlockSize - len(b)%aes.BlockSize
	out := make([]byte, len(b)+n)
	copy(out, b)
	for i := range n {
		out[len(b)+i] = byte(n)
	}
	return out
}

// unpad returns the length without padding. It looks at all of the last block whatever is in there, so
// that its time tells nothing.
func unpad(b []byte) (n int, ok bool) {
	last := b[len(b)-aes.BlockSize:]
	count := int(last[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, count) & subtle.ConstantTimeLessOrEq(count, aes.BlockSize)
	for i := range aes.BlockSize {
		padding := subtle.ConstantTimeLessOrEq(i+1, count) // the i-th byte from the end is padding
		same := subtle.ConstantTimeByteEq(last[aes.BlockSize-1-i], byte(count))
		good &= subtle.ConstantTimeSelect(padding, same, 1)
	}
	return len(b) - count, good == 1
}

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *heldCipher) Wrap(ctx context.Context, key []byte) (out []byte, err error) {
	const op = "wrapping a key"
	if len(key) < 16 {
		return nil, failure(providers.Malformed, op, aeskw.ErrSize)
	}
	err = k.with(ctx, op, len(key), func(b cipher.Block) error {
		if out, err = aeskw.Wrap(b, key); err != nil {
			return failure(providers.Malformed, op, err)
		}
		return nil
	})
	return out, err
}

// Unwrap undoes Wrap.
func (k *heldCipher) Unwrap(ctx context.Context, wrapped []byte) (out []byte, err error) {
	const op = "unwrapping a key"
	if len(wrapped) < 16+aeskw.Overhead {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	err = k.with(ctx, op, len(wrapped), func(b cipher.Block) error {
		if out, err = aeskw.Unwrap(b, wrapped); err != nil {
			return failure(providers.VerificationFailed, op, nil)
		}
		return nil
	})
	return out, err
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
	if len(message) > maxHeld {
		return failure(providers.Malformed, op, errSize)
	}
	return k.use(ctx, op, func(key []byte) error {
		h := hmac.New(sha256.New, key)
		h.Write(message)
		return f(h.Sum(nil))
	})
}
