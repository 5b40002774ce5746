// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"testing"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// TestQuirks shows what no vector does of the points in which stacks are odd, or differ, by their numbers in
// docs/msl.md ("Every quirk, decided").
func TestQuirks(t *testing.T) {
	t.Run("6", quirkNothing)
	t.Run("js-ladder", quirkJavaScriptLadder)
}

// quirkNothing: Java's encoding of no data and that of C++ are read. JavaScript's is no envelope, as in Java; nothing
// that MSL encrypts is empty.
func quirkNothing(t *testing.T) {
	keys := fixtures().Session
	enc, err := newAESCBC(secret.Take(unhex(keys.EncryptionKey)))
	if err != nil {
		t.Fatal(err)
	}
	mac, err := newHMACKey(secret.Take(unhex(keys.HMACKey)))
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{label: keyLabel("id"), enc: enc, mac: mac}
	iv := bytes.Repeat([]byte{7}, ivSize)
	padding, err := enc.encrypt(t.Context(), nil, iv, nil)
	if err != nil || len(padding) != 16 {
		t.Fatalf("%d bytes, %v", len(padding), err)
	}
	java, err := s.encrypt(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stack string
		data  []byte
		ok    bool
	}{
		{"Java", java, true}, {"Java, without an iv", appendEnvelope(nil, s.label, nil, nil), true},
		{"C++", appendEnvelope(nil, s.label, iv, padding), true}, {"JavaScript", []byte{}, false},
	} {
		signature, err := s.sign(t.Context(), nil, c.data)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := s.open(t.Context(), wire.Part{Data: c.data, Signature: signature})
		if c.ok && (err != nil || plain == nil || len(plain) != 0) || !c.ok && codeOf(err) != wire.VerificationFailed {
			t.Errorf("%s: %q, %v", c.stack, plain, err)
		}
	}
}

// quirkJavaScriptLadder: a JWE_LADDER under a pre-shared encryption key, as JavaScript makes it, is not opened with the
// wrapping key, and fails like any other ciphertext.
func quirkJavaScriptLadder(t *testing.T) {
	psk := fixtures().PSK["psk-client"]
	under := func(key string) *suite {
		s, err := wrapSuite(secret.Take(unhex(key)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	l := ladder{schemeJWELadder, true}
	for key, ok := range map[string]bool{psk.WrappingKey: true, psk.EncryptionKey: false} {
		wrapped, err := l.wrap(t.Context(), under(key), secret.Take(bytes.Repeat([]byte{9}, wrapKeySize)), wrappingJWK)
		if err != nil {
			t.Fatal(err)
		}
		k, err := l.unwrap(t.Context(), under(psk.WrappingKey), wrapped, wrappingJWK)
		if ok && err != nil || !ok && codeOf(err) != wire.VerificationFailed {
			t.Errorf("under the wrapping key %v: %v", ok, err)
		}
		if err == nil {
			k.Wipe()
		}
	}
}
