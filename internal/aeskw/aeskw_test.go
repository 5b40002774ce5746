// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package aeskw_test

import (
	"bytes"
	"crypto/aes"
	"crypto/des"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/msltest"
)

// TestRFC3394 runs the test vectors of RFC 3394 §4.
func TestRFC3394(t *testing.T) {
	const key = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
	const data = "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
	for _, v := range []struct {
		name       string
		kek, plain int // bytes of key and data
		wrapped    string
	}{
		{"4.1", 16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
		{"4.2", 24, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"},
		{"4.3", 32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
		{"4.4", 24, 24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"},
		{"4.5", 32, 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"},
		{"4.6", 32, 32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
	} {
		t.Run(v.name, func(t *testing.T) {
			check(t, unhex(t, key)[:v.kek], unhex(t, data)[:v.plain], unhex(t, v.wrapped))
		})
	}
}

// TestReference runs the wraps and unwraps of MSL's reference that are the construction's alone.
func TestReference(t *testing.T) {
	ran := 0
	for _, c := range msltest.Cases(t, "symmetric.json") {
		var keys struct {
			Wrapping string `json:"wrapping_key"`
		}
		c.Into("keys", &keys)
		kek := unhex(t, keys.Wrapping)
		if len(kek) != 16 && len(kek) != 32 {
			continue
		}
		b, _ := aes.NewCipher(kek)
		switch {
		case c.Group == "wrap" && c.Has("error"):
			if _, err := aeskw.Wrap(b, c.Bytes("data")); !errors.Is(err, aeskw.ErrSize) {
				t.Errorf("%s: %v", c.Name, err)
			}
		case c.Group == "unwrap" && c.Has("error"):
			if _, err := aeskw.Unwrap(b, c.Bytes("input")); err == nil {
				t.Errorf("%s: accepted", c.Name)
			}
		case c.Group == "wrap" && len(c.Bytes("data")) > 0:
			check(t, kek, c.Bytes("data"), c.Bytes("output"))
		case c.Group == "unwrap" && len(c.Bytes("data")) > 0:
			check(t, kek, c.Bytes("data"), c.Bytes("input"))
		default:
			continue
		}
		ran++
	}
	if ran < 20 {
		t.Fatalf("only %d cases ran", ran)
	}
}

func TestSizes(t *testing.T) {
	b, _ := aes.NewCipher(make([]byte, 16))
	for n := range 64 {
		_, err := aeskw.Wrap(b, make([]byte, n))
		if good := n >= 8 && n%8 == 0; good != (err == nil) || !good && !errors.Is(err, aeskw.ErrSize) {
			t.Errorf("wrapping %d bytes: %v", n, err)
		}
		_, err = aeskw.Unwrap(b, make([]byte, n))
		want := aeskw.ErrSize
		if n >= 16 && n%8 == 0 {
			want = aeskw.ErrIntegrity
		}
		if !errors.Is(err, want) {
			t.Errorf("unwrapping %d bytes: %v", n, err)
		}
	}
	small, _ := des.NewCipher(make([]byte, 8))
	if _, err := aeskw.Wrap(small, make([]byte, 16)); !errors.Is(err, aeskw.ErrSize) {
		t.Errorf("8-byte blocks: %v", err)
	}
}

func TestTamper(t *testing.T) {
	b, _ := aes.NewCipher(make([]byte, 16))
	wrapped, err := aeskw.Wrap(b, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for i := range wrapped {
		for bit := range 8 {
			bad := bytes.Clone(wrapped)
			bad[i] ^= 1 << bit
			if _, err := aeskw.Unwrap(b, bad); !errors.Is(err, aeskw.ErrIntegrity) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xa6}, 24))
	b, _ := aes.NewCipher(make([]byte, 16))
	f.Fuzz(func(t *testing.T, in []byte) {
		if plain, err := aeskw.Unwrap(b, in); err == nil {
			if again, err := aeskw.Wrap(b, plain); err != nil || !bytes.Equal(again, in) {
				t.Fatal("what unwraps does not wrap to the same")
			}
		}
		if wrapped, err := aeskw.Wrap(b, in); err == nil {
			if again, err := aeskw.Unwrap(b, wrapped); err != nil || !bytes.Equal(again, in) {
				t.Fatal("what wraps does not unwrap to the same")
			}
		}
	})
}

func BenchmarkUnwrap(b *testing.B) {
	kek := make([]byte, 16)
	rand.Read(kek)
	block, _ := aes.NewCipher(kek)
	wrapped, _ := aeskw.Wrap(block, make([]byte, 32))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := aeskw.Unwrap(block, wrapped); err != nil {
			b.Fatal(err)
		}
	}
}

// check wraps and unwraps, and sees that the inputs are left alone.
func check(t *testing.T, kek, plain, wrapped []byte) {
	t.Helper()
	b, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	p, w := bytes.Clone(plain), bytes.Clone(wrapped)
	if got, err := aeskw.Wrap(b, p); err != nil || !bytes.Equal(got, wrapped) {
		t.Errorf("wrap: %x, %v", got, err)
	}
	if got, err := aeskw.Unwrap(b, w); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unwrap: %x, %v", got, err)
	}
	if !bytes.Equal(p, plain) || !bytes.Equal(w, wrapped) {
		t.Error("the input was changed")
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
