// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// maxData bounds the plaintext, ciphertext or message of one operation, in bytes.
const maxData = 64 << 20

var (
	errIV        = errors.New("the initialisation vector has the wrong size")
	errAAD       = errors.New("this mechanism takes no associated data")
	errSize      = errors.New("too long")
	errMechanism = errors.New("not a mechanism of this type of key")
)

// An aesKey encrypts and wraps.
type aesKey struct {
	*material
	once  sync.Once
	block cipher.Block // the expanded key; immutable once made
	gcm   cipher.AEAD
}

// expand makes the key schedule, at the first use. The caller is within use.
func (k *aesKey) expand(op string) error {
	k.once.Do(func() {
		if b, err := aes.NewCipher(secret.Reveal(k.bytes)); err == nil {
			k.block = b
			k.gcm, _ = cipher.NewGCM(b)
		}
	})
	if k.gcm == nil {
		return failure(providers.Device, op, nil)
	}
	return nil
}

// begin checks what all of the key's operations need. The caller calls done.
func (k *aesKey) begin(ctx context.Context, op string, size int) (done func(), err error) {
	if size > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	done, err = k.use(ctx, op)
	if err != nil {
		return nil, err
	}
	if err := k.expand(op); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// checkIV checks the parameters of a mechanism.
func (k *aesKey) checkIV(op string, m providers.Mechanism, iv, aad []byte) error {
	want := aes.BlockSize
	switch m {
	case providers.AESCBC:
		if len(aad) != 0 {
			return failure(providers.Malformed, op, errAAD)
		}
	case providers.AESGCM:
		want = k.gcm.NonceSize()
	default:
		return failure(providers.NotSupported, op, errMechanism)
	}
	if len(iv) != want {
		return failure(providers.Malformed, op, errIV)
	}
	return nil
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *aesKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	const op = "encrypting"
	done, err := k.begin(ctx, op, len(plaintext))
	if err != nil {
		return nil, err
	}
	defer done()
	if err := k.checkIV(op, m, iv, aad); err != nil {
		return nil, err
	}
	if m == providers.AESGCM {
		return k.gcm.Seal(nil, iv, plaintext, aad), nil
	}
	out := pad(plaintext)
	cipher.NewCBCEncrypter(k.block, iv).CryptBlocks(out, out)
	return out, nil
}

// Decrypt undoes Encrypt.
func (k *aesKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	const op = "decrypting"
	done, err := k.begin(ctx, op, len(ciphertext))
	if err != nil {
		return nil, err
	}
	defer done()
	if err := k.checkIV(op, m, iv, aad); err != nil {
		return nil, err
	}
	if m == providers.AESGCM {
		out, err := k.gcm.Open(nil, iv, ciphertext, aad)
		if err != nil {
			return nil, failure(providers.VerificationFailed, op, nil)
		}
		return out, nil
	}
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(k.block, iv).CryptBlocks(out, ciphertext)
	n, ok := unpad(out)
	if !ok {
		clear(out)
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	return out[:n], nil
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
func (k *aesKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	const op = "wrapping a key"
	done, err := k.begin(ctx, op, len(key))
	if err != nil {
		return nil, err
	}
	defer done()
	if len(key) < 16 {
		return nil, failure(providers.Malformed, op, aeskw.ErrSize)
	}
	out, err := aeskw.Wrap(k.block, key)
	if err != nil {
		return nil, failure(providers.Malformed, op, err)
	}
	return out, nil
}

// Unwrap undoes Wrap.
func (k *aesKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	const op = "unwrapping a key"
	done, err := k.begin(ctx, op, len(wrapped))
	if err != nil {
		return nil, err
	}
	defer done()
	if len(wrapped) < 16+aeskw.Overhead {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	out, err := aeskw.Unwrap(k.block, wrapped)
	if err != nil {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	return out, nil
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
	if len(message) > maxData {
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
