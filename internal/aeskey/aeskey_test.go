// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package aeskey

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

func newKey(t *testing.T) *Key {
	t.Helper()
	k, err := New(unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCBC: the first block is that of NIST SP 800-38A, F.2.1; each length comes back; whatever is changed or cut off, what comes
// back is something else, or nothing.
func TestCBC(t *testing.T) {
	k, iv := newKey(t), unhex(t, "000102030405060708090a0b0c0d0e0f")
	out, err := k.Encrypt(providers.AESCBC, iv, unhex(t, "6bc1bee22e409f96e93d7e117393172a"), nil)
	if err != nil || !bytes.Equal(out[:16], unhex(t, "7649abac8119b246cee98e9b12e9197d")) || len(out) != 32 {
		t.Errorf("%x, %v", out, err)
	}
	for n := range 50 {
		plain := bytes.Repeat([]byte{1}, n)
		sealed, err := k.Encrypt(providers.AESCBC, iv, plain, nil)
		if err != nil || len(sealed) != n/16*16+16 {
			t.Fatalf("%d bytes: %d bytes, %v", n, len(sealed), err)
		}
		if got, err := k.Decrypt(providers.AESCBC, iv, sealed, nil); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
		for cut := range sealed {
			got, err := k.Decrypt(providers.AESCBC, iv, sealed[:cut], nil)
			if err == nil && bytes.Equal(got, plain) || cut%16 != 0 && providers.CodeOf(err) != providers.VerificationFailed {
				t.Errorf("%d bytes, %d of the ciphertext: %x, %v", n, cut, got, err)
			}
		}
	}
}

// TestUnpad tries each last byte behind each number of bytes that are as it says.
func TestUnpad(t *testing.T) {
	for last := range 256 {
		for same := 1; same <= 2*aes.BlockSize; same++ {
			b := bytes.Repeat([]byte{byte(last) + 1}, 2*aes.BlockSize)
			copy(b[len(b)-same:], bytes.Repeat([]byte{byte(last)}, same))
			got, err := Unpad(b)
			good := last >= 1 && last <= aes.BlockSize && same >= last
			if (err == nil) != good || good && len(got) != len(b)-last {
				t.Errorf("%d bytes %d: %d bytes left, %v", same, last, len(got), err)
			}
			if !good && (providers.CodeOf(err) != providers.VerificationFailed || !bytes.Equal(b, make([]byte, len(b)))) {
				t.Errorf("%d bytes %d: %v, and %x is left", same, last, err, b)
			}
		}
	}
}

// TestGCM: each byte of all that goes in matters.
func TestGCM(t *testing.T) {
	k, iv, plain, aad := newKey(t), make([]byte, 12), []byte("plaintext"), []byte("associated")
	sealed, err := k.Encrypt(providers.AESGCM, iv, plain, aad)
	if err != nil || len(sealed) != len(plain)+16 {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	open := func() ([]byte, error) { return k.Decrypt(providers.AESGCM, iv, sealed, aad) }
	if got, err := open(); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%q, %v", got, err)
	}
	for _, part := range [][]byte{iv, sealed, aad} {
		for i := range part {
			part[i] ^= 1
			if got, err := open(); got != nil || providers.CodeOf(err) != providers.VerificationFailed {
				t.Errorf("byte %d of %x is changed: %q, %v", i, part, got, err)
			}
			part[i] ^= 1
		}
	}
}

func TestWrap(t *testing.T) {
	k := newKey(t)
	for n := range 65 {
		key := bytes.Repeat([]byte{7}, n)
		wrapped, err := k.Wrap(key)
		if n < 16 || n%8 != 0 {
			if providers.CodeOf(err) != providers.Malformed {
				t.Errorf("%d bytes: %v", n, err)
			}
			_, err = k.Unwrap(make([]byte, n+8))
			if providers.CodeOf(err) != providers.VerificationFailed {
				t.Errorf("%d bytes to unwrap: %v", n+8, err)
			}
			continue
		}
		if got, uerr := k.Unwrap(wrapped); err != nil || uerr != nil || !bytes.Equal(got, key) {
			t.Errorf("%d bytes: %x, %v, %v", n, got, err, uerr)
		}
		wrapped[n] ^= 1
		if got, err := k.Unwrap(wrapped); got != nil || providers.CodeOf(err) != providers.VerificationFailed {
			t.Errorf("%d bytes, changed: %x, %v", n, got, err)
		}
	}
}

// TestArguments: what makes no sense is refused with the right code, and nothing panics.
func TestArguments(t *testing.T) {
	k, big := newKey(t), make([]byte, MaxData+8)
	for _, c := range []struct {
		what    string
		m       providers.Mechanism
		iv, aad int
		data    []byte
		code    providers.Code
	}{
		{"no mechanism", "", 16, 0, nil, providers.NotSupported},
		{"another mechanism", providers.AEAD, 16, 0, nil, providers.NotSupported},
		{"CBC with associated data", providers.AESCBC, 16, 1, nil, providers.Malformed},
		{"CBC without IV", providers.AESCBC, 0, 0, nil, providers.Malformed},
		{"CBC with GCM's IV", providers.AESCBC, 12, 0, nil, providers.Malformed},
		{"GCM with CBC's IV", providers.AESGCM, 16, 0, nil, providers.Malformed},
		{"much for CBC", providers.AESCBC, 16, 0, big, providers.Malformed},
		{"much for GCM", providers.AESGCM, 12, 0, big, providers.Malformed},
		{"much in all", providers.AESGCM, 12, 1, big[:MaxData], providers.Malformed},
	} {
		for _, f := range []func(providers.Mechanism, []byte, []byte, []byte) ([]byte, error){k.Encrypt, k.Decrypt} {
			if out, err := f(c.m, make([]byte, c.iv), c.data, make([]byte, c.aad)); out != nil || providers.CodeOf(err) != c.code {
				t.Errorf("%s: %v", c.what, err)
			}
		}
	}
	for _, f := range []func([]byte) ([]byte, error){k.Wrap, k.Unwrap} {
		if out, err := f(big); out != nil || providers.CodeOf(err) != providers.Malformed {
			t.Errorf("much to wrap: %v", err)
		}
	}
	for _, n := range []int{0, 15, 17, 33} {
		if k, err := New(make([]byte, n)); k != nil || err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}
