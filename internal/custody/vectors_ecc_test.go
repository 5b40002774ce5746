// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A memoryEC is a key of the fixtures, on curves that a provider may not have.
type memoryEC struct{ *ecdsa.PrivateKey }

func (k memoryEC) Sign(_ context.Context, _ providers.Mechanism, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, k.PrivateKey, sum[:])
}

func (memoryEC) Info() providers.KeyInfo { return providers.KeyInfo{Version: 1} }

// eccVectors: behaviour 27.
func eccVectors(t *testing.T) {
	ctx := context.Background()
	a := newAgent(t, nil)
	signer := func(c msltest.Case) *ecSigner {
		k := memoryEC{anyPair(c.String("key")).(*ecdsa.PrivateKey)}
		s := &ecSigner{key: usedKey{k, a.usesOf(c.String("key"), 1)}, signer: k, public: &k.PublicKey}
		switch c.Name {
		case "no-private-key":
			s.signer = nil
		case "no-public-key":
			s.public = nil
		}
		return s
	}
	msltest.Vectors(t, "ecc.json", map[string]func(msltest.Case) error{
		"sign": func(c msltest.Case) error { // no two signatures are alike
			s := signer(c)
			ours, err := s.seal(ctx, c.Bytes("data"))
			if err != nil || c.Refused() != nil {
				return compare(c, err)
			}
			for _, part := range []wire.Part{ours, {Data: c.Bytes("data"), Signature: c.Bytes("signature")}} {
				plain, err := s.open(ctx, part)
				if err := equal(c, "data", plain, err); err != nil {
					return err
				}
			}
			return nil
		},
		"verify": func(c msltest.Case) error {
			_, err := signer(c).open(ctx, wire.Part{Data: c.Bytes("data"), Signature: c.Bytes("signature")})
			return compareVerified(c, err)
		},
		"null-op": func(c msltest.Case) error {
			if c.Name == "wrap" {
				return nil // the type has no such method
			}
			part, err := signer(c).seal(ctx, c.Bytes("data"))
			if err == nil && !bytes.Equal(part.Data, c.Bytes("output")) {
				return errors.New("encrypts")
			}
			return err
		},
	})
}
