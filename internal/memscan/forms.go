// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package memscan

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// A form is one way in which a key lies in memory.
type form struct {
	name  string
	bytes []byte
}

// forms returns what to look for: the bytes themselves and reversed (as the words of a big number are
// on a little-endian machine), their text forms, and what AES and HMAC make of them. Base64 is looked
// for without padding, which finds it with padding too.
func forms(key []byte) []form {
	reversed := bytes.Clone(key)
	slices.Reverse(reversed)
	lower := hex.EncodeToString(key)
	all := []form{
		{"raw", bytes.Clone(key)},
		{"reversed", reversed},
		{"hex", []byte(lower)},
		{"hex", bytes.ToUpper([]byte(lower))},
		{"base64", []byte(base64.RawStdEncoding.EncodeToString(key))},
		{"base64url", []byte(base64.RawURLEncoding.EncodeToString(key))},
	}
	if len(key) == 16 || len(key) == 32 {
		// The schedule begins with the key itself, so the first round after it is the first that a wiped
		// key leaves behind. Portable code keeps the schedule as words in the machine's order.
		round := nextRound(key)
		all = append(all, form{"aes schedule", round}, form{"aes schedule", swapWords(round)}, form{"aes schedule", swapWords(key)})
	}
	if len(key) <= 64 {
		all = append(all, form{"hmac", xored(key, 0x36)}, form{"hmac", xored(key, 0x5c)}) // RFC 2104 §2
	}
	// A form can equal another one, say hex of digits only.
	slices.SortStableFunc(all, func(a, b form) int { return bytes.Compare(a.bytes, b.bytes) })
	return slices.CompactFunc(all, func(a, b form) bool { return bytes.Equal(a.bytes, b.bytes) })
}

func xored(key []byte, pad byte) []byte {
	out := bytes.Clone(key)
	for i := range out {
		out[i] ^= pad
	}
	return out
}

func swapWords(b []byte) []byte {
	out := make([]byte, len(b))
	for i := 0; i < len(b); i += 4 {
		binary.LittleEndian.PutUint32(out[i:], binary.BigEndian.Uint32(b[i:]))
	}
	return out
}

// nextRound computes the first 16 bytes of the AES key schedule after the key itself (FIPS 197 §5.2),
// for a key of 16 or 32 bytes.
func nextRound(key []byte) []byte {
	out := make([]byte, 16)
	last := key[len(key)-4:]
	word := [4]byte{sbox(last[1]) ^ 1, sbox(last[2]), sbox(last[3]), sbox(last[0])}
	for i := range 4 {
		for j := range 4 {
			word[j] ^= key[4*i+j]
		}
		copy(out[4*i:], word[:])
	}
	return out
}

// sbox is the AES S-box (FIPS 197 §5.1.1), computed: it runs four times a key.
func sbox(b byte) byte {
	inverse := byte(0)
	for c := 1; c < 256; c++ {
		if times(b, byte(c)) == 1 {
			inverse = byte(c)
			break
		}
	}
	out := inverse ^ 0x63
	for n := 1; n <= 4; n++ {
		out ^= inverse<<n | inverse>>(8-n)
	}
	return out
}

// times multiplies in AES's field.
func times(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		carry := a & 0x80
		if a <<= 1; carry != 0 {
			a ^= 0x1b
		}
	}
	return p
}
