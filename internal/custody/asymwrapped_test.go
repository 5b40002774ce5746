// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A partlyAway decrypts all but one ciphertext.
type partlyAway struct {
	providers.RSADecrypter
	away []byte
}

func (p partlyAway) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	if bytes.Equal(ciphertext, p.away) {
		return nil, &providers.Error{Code: providers.Transient}
	}
	return p.RSADecrypter.DecryptRSA(ctx, m, ciphertext)
}

// TestUnwrappedAtOnce: whichever of the session keys the device does not decrypt for the moment, the exchange fails for the
// moment, and with both it succeeds.
func TestUnwrappedAtOnce(t *testing.T) {
	private := fixturePair("rsa_keyx")
	m := mechanisms["JWK_RSA"]
	keys := newSessionKeys()
	enc, err := m.wrap(t.Context(), &private.PublicKey, keys.enc, encryptionJWK)
	if err != nil {
		t.Fatal(err)
	}
	mac, err := m.wrap(t.Context(), &private.PublicKey, keys.mac, signatureJWK)
	if err != nil {
		t.Fatal(err)
	}
	var b mslenc.Builder
	b.String("keypairid", "p")
	b.Binary("encryptionkey", enc)
	b.Binary("hmackey", mac)
	o, err := mslenc.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, away := range map[string][]byte{"neither": {}, "the encryption key": enc, "the signature key": mac} {
		p := &pendingAsymmetric{"JWK_RSA", m, &exchangePair{id: "p", private: partlyAway{&keyPair{private: private}, away}}}
		got, err := p.finish(t.Context(), o)
		switch {
		case len(away) > 0 && codeOf(err) != wire.Transient:
			t.Errorf("without %s: %v", name, err)
		case len(away) == 0 && (err != nil || !got.wellSized()):
			t.Errorf("with both: %v", err)
		}
	}
}
