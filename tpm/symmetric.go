// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/aeskey"
	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var (
	errMechanism = errors.New("the key cannot be used with that mechanism")
	errSize      = errors.New("too long, or of a size that the mechanism does not take")
	errAAD       = errors.New("the mechanism takes no associated data")
)

// A macKey computes HMAC-SHA-256 in the chip.
type macKey struct{ *object }

// MAC computes HMAC-SHA-256.
func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return k.mac(ctx, "computing a MAC", message)
}

// VerifyMAC computes the MAC and compares.
func (k *macKey) VerifyMAC(ctx context.Context, message, mac []byte) error {
	const op = "verifying a MAC"
	want, err := k.mac(ctx, op, message)
	if err == nil && subtle.ConstantTimeCompare(want, mac) != 1 {
		err = failure(providers.VerificationFailed, op, nil)
	}
	return err
}

func (k *macKey) mac(ctx context.Context, op string, message []byte) ([]byte, error) {
	if len(message) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	message = bytes.Clone(message)
	return used(ctx, k.object, op, func(c *chip) (out []byte, err error) {
		if len(message) > c.facts.inputBuffer {
			return c.longMAC(k.stored, message)
		}
		err = c.use(k.stored, encryptBoth, func(h tpm2.AuthHandle) error {
			response, err := tpm2.Hmac{Handle: h, Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
			if err == nil {
				out = response.OutHMAC.Buffer
			}
			return err
		})
		return out, err
	})
}

// longMAC computes the MAC of what is longer than one command takes.
func (c *chip) longMAC(k *stored, message []byte) (out []byte, err error) {
	if _, err := c.load(k); err != nil {
		return nil, err
	}
	c.room()
	var sequence tpm2.TPMHandle
	auth := secret.Random(16) // so that nobody on the bus adds to it
	defer auth.Wipe()
	err = c.use(k, encryptIn, func(h tpm2.AuthHandle) error {
		response, err := tpm2.HmacStart{Handle: h, Auth: tpm2.TPM2BAuth{Buffer: secret.Reveal(auth)}, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
		if err == nil {
			sequence = response.SequenceHandle
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.flush(sequence)
		}
	}()
	for len(message) > c.facts.inputBuffer {
		_, err = tpm2.SequenceUpdate{SequenceHandle: tpm2.AuthHandle{Handle: sequence, Auth: c.plain.with(auth, encryptIn)},
			Buffer: tpm2.TPM2BMaxBuffer{Buffer: message[:c.facts.inputBuffer]}}.Execute(c)
		if err != nil {
			return nil, err
		}
		message = message[c.facts.inputBuffer:]
	}
	response, err := tpm2.SequenceComplete{SequenceHandle: tpm2.AuthHandle{Handle: sequence, Auth: c.plain.with(auth, encryptBoth)},
		Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, Hierarchy: tpm2.TPMRHNull}.Execute(c)
	if err != nil {
		return nil, err
	}
	return response.Result.Buffer, nil
}

// A cipherKey encrypts with AES-CBC in the chip.
type cipherKey struct{ *object }

// Mechanisms lists AES-CBC: no chip has AES-GCM.
func (k *cipherKey) Mechanisms() []providers.Mechanism {
	return []providers.Mechanism{providers.AESCBC}
}

func (k *cipherKey) check(op string, m providers.Mechanism, iv, aad []byte) error {
	switch {
	case m != providers.AESCBC:
		return failure(providers.NotSupported, op, errMechanism)
	case len(iv) != aes.BlockSize:
		return failure(providers.Malformed, op, errSize)
	case len(aad) > 0:
		return failure(providers.Malformed, op, errAAD)
	}
	return nil
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding.
func (k *cipherKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	const op = "encrypting"
	if err := k.check(op, m, iv, aad); err != nil {
		return nil, err
	}
	if len(plaintext) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	padded, iv := aeskey.Pad(plaintext), bytes.Clone(iv)
	return used(ctx, k.object, op, func(c *chip) ([]byte, error) { return c.crypt(k.stored, false, tpm2.TPMAlgCBC, iv, padded) })
}

// Decrypt undoes Encrypt.
func (k *cipherKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	const op = "decrypting"
	if err := k.check(op, m, iv, aad); err != nil {
		return nil, err
	}
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	if len(ciphertext) > maxData+aes.BlockSize {
		return nil, failure(providers.Malformed, op, errSize)
	}
	ciphertext, iv = bytes.Clone(ciphertext), bytes.Clone(iv)
	return used(ctx, k.object, op, func(c *chip) ([]byte, error) {
		plain, err := c.crypt(k.stored, true, tpm2.TPMAlgCBC, iv, ciphertext)
		if err != nil {
			return nil, err
		}
		return aeskey.Unpad(plain)
	})
}

// crypt encrypts or decrypts whole blocks, as many at once as a command takes.
func (c *chip) crypt(k *stored, decrypt bool, mode tpm2.TPMAlgID, iv, in []byte) ([]byte, error) {
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		part := in[:min(len(in), c.facts.inputBuffer/aes.BlockSize*aes.BlockSize)]
		err := c.use(k, encryptBoth, func(h tpm2.AuthHandle) error {
			response, err := tpm2.EncryptDecrypt2{KeyHandle: h, Message: tpm2.TPM2BMaxBuffer{Buffer: part}, Decrypt: decrypt, Mode: mode,
				IV: tpm2.TPM2BIV{Buffer: iv}}.Execute(c)
			if err != nil {
				return err
			}
			if len(response.OutData.Buffer) != len(part) {
				return lostError{errResponse}
			}
			out = append(out, response.OutData.Buffer...)
			if mode == tpm2.TPMAlgCBC {
				iv = response.IV.Buffer
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		in = in[len(part):]
	}
	return out, nil
}

// A wrapKey wraps keys in the chip, a block and command at a time: 12 commands for a key of 16 bytes.
type wrapKey struct{ *object }

// Mechanisms lists none: wrapping has no name.
func (k *wrapKey) Mechanisms() []providers.Mechanism { return nil }

// Wrap wraps a key by AES key wrap (RFC 3394).
func (k *wrapKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	const op = "wrapping a key"
	if len(key) < 16 || len(key)%8 != 0 || len(key) > maxWrapped {
		return nil, failure(providers.Malformed, op, errSize)
	}
	key = bytes.Clone(key)
	return used(ctx, k.object, op, func(c *chip) ([]byte, error) {
		b := &chipBlock{c: c, k: k.stored}
		out, err := aeskw.Wrap(b, key)
		if b.err != nil {
			err = b.err
		}
		return out, err
	})
}

// Unwrap undoes Wrap.
func (k *wrapKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	const op = "unwrapping a key"
	if len(wrapped) < 24 || len(wrapped)%8 != 0 || len(wrapped) > maxWrapped+aeskw.Overhead {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	wrapped = bytes.Clone(wrapped)
	return used(ctx, k.object, op, func(c *chip) ([]byte, error) {
		b := &chipBlock{c: c, k: k.stored}
		out, err := aeskw.Unwrap(b, wrapped)
		if b.err != nil {
			return nil, b.err
		}
		if err != nil {
			return nil, peerError{}
		}
		return out, nil
	})
}

// maxWrapped is how long a key may be that is wrapped: 6 commands for each 8 bytes.
const maxWrapped = 512

// A chipBlock is AES in the chip as the construction wants it. After an error it does nothing any more.
type chipBlock struct {
	c   *chip
	k   *stored
	err error
}

var _ cipher.Block = (*chipBlock)(nil)

// BlockSize implements cipher.Block.
func (*chipBlock) BlockSize() int { return aes.BlockSize }

// Encrypt implements cipher.Block.
func (b *chipBlock) Encrypt(dst, src []byte) { b.crypt(false, dst, src) }

// Decrypt implements cipher.Block.
func (b *chipBlock) Decrypt(dst, src []byte) { b.crypt(true, dst, src) }

func (b *chipBlock) crypt(decrypt bool, dst, src []byte) {
	if b.err != nil {
		return
	}
	out, err := b.c.crypt(b.k, decrypt, tpm2.TPMAlgECB, nil, src[:aes.BlockSize])
	b.err = err
	copy(dst, out)
}
