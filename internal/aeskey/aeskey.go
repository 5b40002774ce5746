// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package aeskey is what the contract of providers asks of an AES key, for a provider that has the key in its own memory. Its
// errors are of package providers.
package aeskey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/providers"
)

// MaxData bounds the input of an operation, in bytes.
const MaxData = 64 << 20

const (
	gcmNonce   = 12 // bytes
	minWrapped = 16 // bytes of a key that is wrapped (RFC 3394)
)

var (
	errIV        = errors.New("the initialisation vector has the wrong size")
	errAAD       = errors.New("this mechanism takes no associated data")
	errSize      = errors.New("too long")
	errMechanism = errors.New("not a mechanism of this type of key")
)

// A Key encrypts and wraps. It is safe for concurrent use.
type Key struct {
	block cipher.Block
	gcm   cipher.AEAD
}

// New expands a key of 16, 24 or 32 bytes, which it does not keep.
func New(key []byte) (*Key, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Key{block, gcm}, nil
}

// check checks the parameters of a mechanism.
func check(op string, m providers.Mechanism, iv, data, aad []byte) error {
	size := aes.BlockSize
	switch m {
	case providers.AESCBC:
		if len(aad) != 0 {
			return failure(providers.Malformed, op, errAAD)
		}
	case providers.AESGCM:
		size = gcmNonce
	default:
		return failure(providers.NotSupported, op, errMechanism)
	}
	switch {
	case len(iv) != size:
		return failure(providers.Malformed, op, errIV)
	case len(data)+len(aad) > MaxData:
		return failure(providers.Malformed, op, errSize)
	}
	return nil
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *Key) Encrypt(m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	if err := check("encrypting", m, iv, plaintext, aad); err != nil {
		return nil, err
	}
	if m == providers.AESGCM {
		return k.gcm.Seal(nil, iv, plaintext, aad), nil
	}
	out := Pad(plaintext)
	cipher.NewCBCEncrypter(k.block, iv).CryptBlocks(out, out)
	return out, nil
}

// Decrypt undoes Encrypt.
func (k *Key) Decrypt(m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	if err := check("decrypting", m, iv, ciphertext, aad); err != nil {
		return nil, err
	}
	if m == providers.AESGCM {
		out, err := k.gcm.Open(nil, iv, ciphertext, aad)
		if err != nil {
			return nil, failure(providers.VerificationFailed, "decrypting", nil)
		}
		return out, nil
	}
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, failure(providers.VerificationFailed, "decrypting", nil)
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(k.block, iv).CryptBlocks(out, ciphertext)
	return Unpad(out)
}

// Pad copies b and adds PKCS #7 padding (RFC 5652 §6.3).
func Pad(b []byte) []byte {
	n := aes.BlockSize - len(b)%aes.BlockSize
	out := make([]byte, len(b)+n)
	copy(out, b)
	for i := range n {
		out[len(b)+i] = byte(n)
	}
	return out
}

// Unpad returns b, which is whole blocks and at least one, without padding, or clears it. It looks at all of the last block
// whatever is in there, so that its time tells nothing.
func Unpad(b []byte) ([]byte, error) {
	last := b[len(b)-aes.BlockSize:]
	count := int(last[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, count) & subtle.ConstantTimeLessOrEq(count, aes.BlockSize)
	for i := range aes.BlockSize {
		padding := subtle.ConstantTimeLessOrEq(i+1, count) // the i-th byte from the end is padding
		same := subtle.ConstantTimeByteEq(last[aes.BlockSize-1-i], byte(count))
		good &= subtle.ConstantTimeSelect(padding, same, 1)
	}
	if good != 1 {
		clear(b)
		return nil, failure(providers.VerificationFailed, "decrypting", nil)
	}
	return b[:len(b)-count], nil
}

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *Key) Wrap(key []byte) ([]byte, error) {
	if len(key) < minWrapped || len(key) > MaxData {
		return nil, failure(providers.Malformed, "wrapping a key", aeskw.ErrSize)
	}
	out, err := aeskw.Wrap(k.block, key)
	if err != nil {
		return nil, failure(providers.Malformed, "wrapping a key", err)
	}
	return out, nil
}

// Unwrap undoes Wrap.
func (k *Key) Unwrap(wrapped []byte) ([]byte, error) {
	if len(wrapped) > MaxData {
		return nil, failure(providers.Malformed, "unwrapping a key", errSize)
	}
	if len(wrapped) < minWrapped+aeskw.Overhead {
		return nil, failure(providers.VerificationFailed, "unwrapping a key", nil)
	}
	out, err := aeskw.Unwrap(k.block, wrapped)
	if err != nil {
		return nil, failure(providers.VerificationFailed, "unwrapping a key", nil)
	}
	return out, nil
}

func failure(c providers.Code, op string, err error) *providers.Error {
	return &providers.Error{Code: c, Op: op, Err: err}
}
