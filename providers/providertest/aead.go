// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

// aead: round trips in the device's own form, and everything tampered with.
func (s *suite) aead(t *testing.T) {
	for _, kt := range []providers.KeyType{providers.AES128, providers.AES256} {
		t.Run(string(kt), func(t *testing.T) {
			k := s.key(t, kt)
			e, ok1 := k.(providers.Encrypter)
			d, ok2 := k.(providers.Decrypter)
			if !ok1 || !ok2 || !supports(k, providers.AEAD) {
				t.Skip("not advertised")
			}
			s.aeadWith(t, e, d)
			if r, ok := s.p.(providers.Rotator); ok {
				s.aeadRotated(t, r, k)
			}
		})
	}
}

func (s *suite) aeadWith(t *testing.T, e providers.Encrypter, d providers.Decrypter) {
	ctx, aad := t.Context(), []byte("associated")
	for _, n := range []int{0, 1, 16, 1000, s.o.Size} {
		plain := bytes.Repeat([]byte{7}, n)
		for _, aad := range [][]byte{nil, aad} {
			c, err := e.Encrypt(ctx, providers.AEAD, nil, plain, aad)
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			got, err := d.Decrypt(ctx, providers.AEAD, nil, c, aad)
			same(t, "AEAD", got, err, plain)
		}
	}
	_, err := e.Encrypt(ctx, providers.AEAD, make([]byte, 12), nil, nil)
	code(t, "encrypting with an iv", err, providers.Malformed)
	_, err = d.Decrypt(ctx, providers.AEAD, make([]byte, 12), nil, nil)
	code(t, "decrypting with an iv", err, providers.Malformed)
	one, err := e.Encrypt(ctx, providers.AEAD, nil, []byte("plain text"), aad)
	if err != nil {
		t.Fatal(err)
	}
	two, err := e.Encrypt(ctx, providers.AEAD, nil, []byte("plain text"), aad)
	if err != nil || bytes.Equal(one, two) {
		t.Errorf("the same plaintext twice gives the same ciphertext: %v", err)
	}
	open := func(c, aad []byte) error { _, err := d.Decrypt(ctx, providers.AEAD, nil, c, aad); return err }
	tampered(t, "ciphertext", one, func(b []byte) error { return open(b, aad) })
	tampered(t, "associated data", aad, func(b []byte) error { return open(one, b) })
}

// aeadRotated: what an old version has encrypted opens with it, and rewrapped with the new one.
func (s *suite) aeadRotated(t *testing.T, r providers.Rotator, k providers.Key) {
	ctx, aad, name := t.Context(), []byte("associated"), k.Info().Name
	old, err := k.(providers.Encrypter).Encrypt(ctx, providers.AEAD, nil, []byte("plain"), aad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(ctx, name); err != nil {
		t.Fatal(err)
	}
	got, err := s.open(t, name, 1).(providers.Decrypter).Decrypt(ctx, providers.AEAD, nil, old, aad)
	same(t, "the old version", got, err, []byte("plain"))
	w, ok := k.(interface {
		Rewrap(ctx context.Context, ciphertext, aad []byte) ([]byte, error)
	})
	if !ok {
		return
	}
	fresh, err := w.Rewrap(ctx, old, aad)
	if err != nil || slices.Equal(fresh, old) {
		t.Fatalf("rewrapping: %v", err)
	}
	got, err = s.open(t, name, 0).(providers.Decrypter).Decrypt(ctx, providers.AEAD, nil, fresh, aad)
	same(t, "rewrapped", got, err, []byte("plain"))
	tampered(t, "rewrapping", old, func(b []byte) error { _, err := w.Rewrap(ctx, b, aad); return err })
	_, err = w.Rewrap(ctx, old, nil)
	code(t, "rewrapping without associated data", err, providers.VerificationFailed)
}
