// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package aeskw is AES key wrap (RFC 3394): the construction only, over a block cipher from
// crypto/aes. Neither the standard library nor x/crypto has it.
//
// MSL wraps keys with it (§2.4), and so do the ladders and JSON web encryption. Besides RFC 3394's
// inputs of at least two 64-bit blocks it takes a single one, as the reference does: the same steps
// with n = 1. It does not take an empty one, which would be wrapped to a constant.
package aeskw

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math"
)

// Overhead is how much longer the wrapped key is than the key, in bytes.
const Overhead = 8

// iv is the initial value that is the integrity check (RFC 3394 §2.2.3.1).
var iv = [8]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}

// ErrSize means that the input is empty or no multiple of 8 bytes, that it is longer than the
// construction's counter allows, or that the cipher's blocks are not of 16 bytes.
var ErrSize = errors.New("aeskw: wrong size")

// ErrIntegrity means that the wrapped key was changed, or wrapped under another key.
var ErrIntegrity = errors.New("aeskw: integrity check failed")

// Wrap wraps plain under the cipher and returns len(plain)+8 bytes, which share nothing with plain
// (RFC 3394 §2.2.1, in the form that uses indices).
func Wrap(b cipher.Block, plain []byte) ([]byte, error) {
	if !good(b, len(plain)) {
		return nil, ErrSize
	}
	n := len(plain) / 8
	out := make([]byte, 8+len(plain))
	r := out[8:]
	copy(r, plain)

	var block [16]byte // A | R[i]
	defer clear(block[:])
	copy(block[:8], iv[:])
	t := uint64(0)
	for range 6 {
		for i := range n {
			t++
			copy(block[8:], r[8*i:8*i+8])
			b.Encrypt(block[:], block[:])
			xor(block[:8], t)
			copy(r[8*i:], block[8:])
		}
	}
	copy(out, block[:8])
	return out, nil
}

// Unwrap undoes Wrap and returns len(wrapped)-8 bytes, which share nothing with wrapped (RFC 3394
// §2.2.2). When it fails, nothing of what it decrypted is left in memory.
func Unwrap(b cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 16 || !good(b, len(wrapped)-8) {
		return nil, ErrSize
	}
	n := len(wrapped)/8 - 1
	r := make([]byte, 8*n)
	copy(r, wrapped[8:])

	var block [16]byte // A | R[i]
	defer clear(block[:])
	copy(block[:8], wrapped)
	t := uint64(6 * n)
	for range 6 {
		for i := n - 1; i >= 0; i-- {
			xor(block[:8], t)
			copy(block[8:], r[8*i:8*i+8])
			b.Decrypt(block[:], block[:])
			copy(r[8*i:], block[8:])
			t--
		}
	}
	if subtle.ConstantTimeCompare(block[:8], iv[:]) != 1 {
		clear(r)
		return nil, ErrIntegrity
	}
	return r, nil
}

// good reports whether size bytes of key can be wrapped. The bound is far above any key.
func good(b cipher.Block, size int) bool {
	return b.BlockSize() == 16 && size >= 8 && size%8 == 0 && size <= math.MaxInt32
}

// xor combines A with the step's number.
func xor(a []byte, t uint64) {
	binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(a)^t)
}
