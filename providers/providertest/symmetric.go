// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/providers"
)

var symmetricTypes = map[int]providers.KeyType{16: providers.AES128, 32: providers.AES256}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// standards are vectors of the standards themselves: RFC 3394 §4, NIST SP 800-38D's test cases 4 and 16
// (as in the GCM specification), SP 800-38A F.2.
func (s *suite) standards(t *testing.T) {
	ctx := t.Context()
	for _, v := range []struct{ key, data, wrapped string }{
		{"000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF", "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
		{"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
			"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
	} {
		k := s.imported(t, symmetricTypes[len(v.key)/2], unhex(v.key))
		if w, ok := k.(providers.Wrapper); ok {
			got, err := w.Wrap(ctx, unhex(v.data))
			same(t, "RFC 3394, wrap", got, err, unhex(v.wrapped))
		}
		if u, ok := k.(providers.Unwrapper); ok {
			got, err := u.Unwrap(ctx, unhex(v.wrapped))
			same(t, "RFC 3394, unwrap", got, err, unhex(v.data))
		}
	}
	const plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
	const aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
	for _, v := range []struct{ key, out string }{
		{"feffe9928665731c6d6a8f9467308308", "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47"},
		{"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"},
	} {
		k := s.imported(t, symmetricTypes[len(v.key)/2], unhex(v.key))
		if e, ok := k.(providers.Encrypter); ok && supports(k, providers.AESGCM) {
			got, err := e.Encrypt(ctx, providers.AESGCM, unhex("cafebabefacedbaddecaf888"), unhex(plain), unhex(aad))
			same(t, "GCM, encrypt", got, err, unhex(v.out))
		}
	}
	k := s.imported(t, providers.AES128, unhex("2b7e151628aed2a6abf7158809cf4f3c"))
	if e, ok := k.(providers.Encrypter); ok && supports(k, providers.AESCBC) {
		got, err := e.Encrypt(ctx, providers.AESCBC, unhex("000102030405060708090a0b0c0d0e0f"), unhex("6bc1bee22e409f96e93d7e117393172a"), nil)
		same(t, "SP 800-38A, CBC", got[:min(16, len(got))], err, unhex("7649abac8119b246cee98e9b12e9197d"))
	}
}

// vectors compares with the standards and with what MSL's reference computed.
func (s *suite) vectors(t *testing.T) {
	if _, ok := s.p.(providers.Importer); !ok {
		t.Skip("the provider imports no keys")
	}
	s.standards(t)
	ctx := t.Context()
	for _, c := range msltest.Cases(t, "symmetric.json") {
		var keys struct {
			Encryption string `json:"encryption_key"`
			Signature  string `json:"signature_key"`
			Algorithm  string `json:"signature_algorithm"`
			Wrapping   string `json:"wrapping_key"`
		}
		c.Into("keys", &keys)
		if c.Has("error") {
			continue
		}
		switch {
		case c.Group == "encrypt" && len(keys.Encryption)%32 == 0:
			k := s.imported(t, symmetricTypes[len(keys.Encryption)/2], unhex(keys.Encryption))
			if !supports(k, providers.AESCBC) || len(c.Bytes("data")) == 0 {
				continue
			}
			got, err := k.(providers.Encrypter).Encrypt(ctx, providers.AESCBC, c.Bytes("iv"), c.Bytes("data"), nil)
			same(t, c.Name, got, err, c.Bytes("ciphertext"))
			got, err = k.(providers.Decrypter).Decrypt(ctx, providers.AESCBC, c.Bytes("iv"), c.Bytes("ciphertext"), nil)
			same(t, c.Name, got, err, c.Bytes("data"))
		case c.Group == "sign" && keys.Algorithm == "HmacSHA256" && len(keys.Signature) == 64:
			k := s.imported(t, providers.HMACSHA256, unhex(keys.Signature))
			if m, ok := k.(providers.MACer); ok {
				got, err := m.MAC(ctx, c.Bytes("data"))
				same(t, c.Name, got, err, c.Bytes("signature"))
			}
			if v, ok := k.(providers.MACVerifier); ok {
				if err := v.VerifyMAC(ctx, c.Bytes("data"), c.Bytes("signature")); err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
			}
		}
	}
	s.pairVectors(t)
}

// encrypt: round trips of many sizes, and everything tampered with.
func (s *suite) encrypt(t *testing.T) {
	for _, kt := range []providers.KeyType{providers.AES128, providers.AES256} {
		for m, ivSize := range map[providers.Mechanism]int{providers.AESCBC: 16, providers.AESGCM: 12} {
			t.Run(fmt.Sprintf("%s/%s", kt, m), func(t *testing.T) {
				k := s.key(t, kt)
				e, ok1 := k.(providers.Encrypter)
				d, ok2 := k.(providers.Decrypter)
				if !ok1 || !ok2 || !supports(k, m) {
					t.Skip("not advertised")
				}
				s.encryptWith(t, e, d, m, ivSize)
			})
		}
	}
}

func (s *suite) encryptWith(t *testing.T, e providers.Encrypter, d providers.Decrypter, m providers.Mechanism, ivSize int) {
	ctx, iv := t.Context(), make([]byte, ivSize)
	rand.Read(iv)
	var aad []byte
	if m == providers.AESGCM {
		aad = []byte("associated")
	}
	for _, n := range []int{0, 1, 15, 16, 17, 1000, s.o.Size} {
		plain := bytes.Repeat([]byte{7}, n)
		c, err := e.Encrypt(ctx, m, iv, plain, aad)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		got, err := d.Decrypt(ctx, m, iv, c, aad)
		same(t, fmt.Sprintf("%d bytes", n), got, err, plain)
	}
	for _, n := range []int{0, ivSize - 1, ivSize + 1} {
		_, err := e.Encrypt(ctx, m, make([]byte, n), nil, nil)
		code(t, "encrypting with an iv of the wrong size", err, providers.Malformed)
		_, err = d.Decrypt(ctx, m, make([]byte, n), make([]byte, 32), nil)
		code(t, "decrypting with an iv of the wrong size", err, providers.Malformed)
	}
	_, err := e.Encrypt(ctx, providers.RSAOAEP, iv, nil, nil)
	code(t, "another mechanism", err, providers.NotSupported)
	if n := s.o.TooLarge; n > 0 {
		_, err := e.Encrypt(ctx, m, iv, make([]byte, n), nil)
		code(t, "too large", err, providers.Malformed)
	}
	good, err := e.Encrypt(ctx, m, iv, []byte("plain text"), aad)
	if err != nil {
		t.Fatal(err)
	}
	if m == providers.AESGCM {
		tampered(t, "ciphertext", good, func(b []byte) error { _, err := d.Decrypt(ctx, m, iv, b, aad); return err })
		tampered(t, "associated data", aad, func(b []byte) error { _, err := d.Decrypt(ctx, m, iv, good, b); return err })
		return
	}
	_, err = e.Encrypt(ctx, m, iv, nil, []byte("associated"))
	code(t, "associated data", err, providers.Malformed)
	iv[15] ^= 0x80 // so that the padding, of 6 bytes, becomes 0x86
	_, err = d.Decrypt(ctx, m, iv, good, nil)
	code(t, "bad padding", err, providers.VerificationFailed)
	for _, b := range [][]byte{nil, good[:15], append(bytes.Clone(good), 0)} {
		_, err = d.Decrypt(ctx, m, iv, b, nil)
		code(t, "cut ciphertext", err, providers.VerificationFailed)
	}
}

func (s *suite) mac(t *testing.T) {
	ctx, k := t.Context(), s.key(t, providers.HMACSHA256)
	m, ok := k.(providers.MACer)
	if !ok {
		t.Skip("not advertised")
	}
	for _, n := range []int{0, 1, 64, s.o.Size} {
		message := bytes.Repeat([]byte{7}, n)
		sum, err := m.MAC(ctx, message)
		if err != nil || len(sum) != 32 {
			t.Fatalf("MAC of %d bytes has %d: %v", n, len(sum), err)
		}
		v, ok := k.(providers.MACVerifier)
		if !ok {
			continue
		}
		if err := v.VerifyMAC(ctx, message, sum); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		code(t, "another message", v.VerifyMAC(ctx, append(message, 1), sum), providers.VerificationFailed)
		if n < 100 {
			tampered(t, "MAC", sum, func(b []byte) error { return v.VerifyMAC(ctx, message, b) })
		}
	}
	if n := s.o.TooLarge; n > 0 {
		_, err := m.MAC(ctx, make([]byte, n))
		code(t, "too large", err, providers.Malformed)
	}
}

func (s *suite) wrap(t *testing.T) {
	for _, kt := range []providers.KeyType{providers.AES128, providers.AES256} {
		t.Run(string(kt), func(t *testing.T) {
			ctx, k := t.Context(), s.key(t, kt)
			w, ok1 := k.(providers.Wrapper)
			u, ok2 := k.(providers.Unwrapper)
			if !ok1 || !ok2 {
				t.Skip("not advertised")
			}
			for _, n := range []int{16, 24, 32, 128} {
				key := bytes.Repeat([]byte{byte(n)}, n)
				wrapped, err := w.Wrap(ctx, key)
				if err != nil || len(wrapped) != n+8 {
					t.Fatalf("wrapping %d bytes gives %d: %v", n, len(wrapped), err)
				}
				got, err := u.Unwrap(ctx, wrapped)
				same(t, "unwrapping", got, err, key)
				tampered(t, "wrapped key", wrapped, func(b []byte) error { _, err := u.Unwrap(ctx, b); return err })
			}
			for _, n := range []int{0, 8, 15, 17, 31} {
				_, err := w.Wrap(ctx, make([]byte, n))
				code(t, fmt.Sprintf("wrapping %d bytes", n), err, providers.Malformed)
			}
		})
	}
}
