// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"crypto"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// compare judges a refusal, or the lack of one.
func compare(c msltest.Case, err error) error {
	refused := c.Refused()
	switch {
	case refused == nil && err != nil:
		return fmt.Errorf("refused: %w", err)
	case refused == nil:
		return nil
	case err == nil:
		return fmt.Errorf("accepted what the reference refuses with %s", refused.Name)
	case refused.Name != "" && int(numberOf(err))+100000 != refused.Code:
		return fmt.Errorf("refused with %v instead of %s (%d)", err, refused.Name, refused.Code)
	}
	return nil
}

// equal is compare for a result in bytes.
func equal(c msltest.Case, member string, b []byte, err error) error {
	if err == nil && c.Refused() == nil && !bytes.Equal(b, c.Bytes(member)) {
		return fmt.Errorf("another %s: %q", member, b)
	}
	return compare(c, err)
}

// sameJSON compares encodings whose order of members means nothing.
func sameJSON(ours, theirs []byte) error {
	var a, b any
	if err := json.Unmarshal(ours, &a); err != nil {
		return err
	}
	if err := json.Unmarshal(theirs, &b); err != nil {
		return err
	}
	if !reflect.DeepEqual(a, b) {
		return fmt.Errorf("%s instead of %s", ours, theirs)
	}
	return nil
}

func TestVectors(t *testing.T) {
	msltest.Vectors(t, "envelopes.json", map[string]func(msltest.Case) error{
		"ciphertext-encode":   encodeEnvelope,
		"ciphertext-parse":    func(c msltest.Case) error { return checkEnvelope(c, 0) },
		"ciphertext-parse-v1": func(c msltest.Case) error { return checkEnvelope(c, 1) },
		"ciphertext-parse-v2": func(c msltest.Case) error { return checkEnvelope(c, 2) },
		"signature-encode": func(c msltest.Case) error {
			if c.Int("version") == 2 {
				return errors.New("version 2 is never written")
			}
			return equal(c, "output", c.Bytes("signature"), nil)
		},
		"signature-parse": func(c msltest.Case) error {
			return equal(c, "signature", rawSignature(c.Bytes("input")), nil)
		},
		"signature-parse-v1": func(c msltest.Case) error { return equal(c, "signature", c.Bytes("input"), nil) },
		"signature-parse-v2": func(c msltest.Case) error {
			algorithm, signature, err := parseSignature(c.Bytes("input"))
			if err == nil && algorithm != c.String("algorithm") {
				return errors.New("another algorithm")
			}
			return equal(c, "signature", signature, err)
		},
	})
	symmetricVectors(t)
	sessionVectors(t)
	rsaVectors(t)
	tokenVectors(t)
	keyExchangeVectors(t)
	eccVectors(t)
	msltest.Vectors(t, "derive.json", map[string]func(msltest.Case) error{
		"wrapping-key": func(c msltest.Case) error {
			wrap := deriveWrappingKey(append(c.Hex("encryption_key"), c.Hex("hmac_key")...))
			if !bytes.Equal(wrap, c.Hex("wrapping_key")) {
				return errors.New("another key")
			}
			return nil
		},
		"dh-null-bytes": func(c msltest.Case) error {
			if !bytes.Equal(normalised(c.Hex("input")), c.Hex("output")) {
				return errors.New("another form")
			}
			return sameKeys(c, agreedKeys(c.Hex("input")))
		},
		"dh-session": checkAgreed,
	})
}

func sameKeys(c msltest.Case, k *sessionKeys) error {
	if !bytes.Equal(secret.Reveal(k.enc), c.Hex("encryption_key")) || !bytes.Equal(secret.Reveal(k.mac), c.Hex("hmac_key")) {
		return errors.New("other keys")
	}
	return nil
}

// checkAgreed agrees as both sides.
func checkAgreed(c msltest.Case) error {
	g, err := newGroup(fixtureGroup(c.String("parameters")), true)
	if err != nil {
		return err
	}
	for _, side := range [][2]string{{"client", "server"}, {"server", "client"}} {
		if !c.Has(side[0] + "_x") {
			continue
		}
		x := secret.Take(magnitude(c.String(side[0] + "_x")))
		if c.Has(side[0]+"_y") && !bytes.Equal(g.public(x), normalised(magnitude(c.String(side[0]+"_y")))) {
			return errors.New("another public number")
		}
		keys, err := g.agree(x, magnitude(c.String(side[1]+"_y")))
		if err != nil || c.Refused() != nil {
			return compare(c, err)
		}
		if err := sameKeys(c, keys); err != nil {
			return err
		}
	}
	return nil
}

func encodeEnvelope(c msltest.Case) error {
	if c.Int("version") == 2 {
		return errors.New("version 2 is never written")
	}
	return sameJSON(appendEnvelope(nil, keyLabel(c.String("keyid")), c.Bytes("iv"), c.Bytes("ciphertext")), c.Bytes("output"))
}

func checkEnvelope(c msltest.Case, version int) error {
	e, err := parseEnvelope(nil, c.Bytes("document"), version)
	if err != nil {
		return compare(c, err)
	}
	if int64(e.version) != c.Int("version") || e.version == 1 && labelOf(c.Bytes("document")) != c.String("keyid") || e.cipherSpec != c.String("cipherspec") ||
		!bytes.Equal(e.iv, c.Bytes("iv")) || (e.iv != nil) != c.Has("iv") {
		return fmt.Errorf("read %+v", e)
	}
	return equal(c, "ciphertext", e.ciphertext, nil)
}

// caseSuite makes the context that a case describes.
func caseSuite(c msltest.Case) (*suite, error) {
	var k struct {
		hexKeys
		SignatureKey string `json:"signature_key"`
		Algorithm    string `json:"signature_algorithm"`
	}
	c.Into("keys", &k)
	s := &suite{label: keyLabel(k.ID)}
	var err error
	if k.EncryptionKey != "" && c.Group != "wrap" && c.Group != "unwrap" {
		if s.enc, err = newAESCBC(secret.Take(unhex(k.EncryptionKey))); err != nil {
			return nil, err
		}
	}
	if k.SignatureKey != "" && k.Algorithm == aesCMAC {
		s.mac, err = newCMACKey(secret.Take(unhex(k.SignatureKey)))
	} else if k.SignatureKey != "" {
		s.mac, err = newHMACKey(secret.Take(unhex(k.SignatureKey)))
	}
	if err == nil && k.WrappingKey != "" {
		s.kw, err = newAESKW(secret.Take(unhex(k.WrappingKey)))
	}
	return s, err
}

func symmetricVectors(t *testing.T) {
	ctx := context.Background()
	with := func(check func(s *suite, c msltest.Case) error) func(msltest.Case) error {
		return func(c msltest.Case) error {
			s, err := caseSuite(c)
			if err != nil {
				return compare(c, err)
			}
			return check(s, c)
		}
	}
	msltest.Vectors(t, "symmetric.json", map[string]func(msltest.Case) error{
		"encrypt": with(func(s *suite, c msltest.Case) error {
			iv := c.Bytes("iv")
			if iv == nil {
				iv = make([]byte, ivSize)
			}
			out, err := s.encryptWith(ctx, nil, iv, c.Bytes("data"))
			if err != nil || c.Refused() != nil {
				return compare(c, err)
			}
			if err := sameJSON(out, c.Bytes("output")); err != nil {
				return err
			}
			data, err := s.decrypt(ctx, c.Bytes("output"))
			return equal(c, "data", data, err)
		}),
		"decrypt": with(func(s *suite, c msltest.Case) error {
			data, err := s.decrypt(ctx, c.Bytes("input"))
			return equal(c, "data", data, err)
		}),
		"sign": with(func(s *suite, c msltest.Case) error {
			signature, err := s.sign(ctx, nil, c.Bytes("data"))
			return equal(c, "signature", signature, err)
		}),
		"verify": with(func(s *suite, c msltest.Case) error {
			err := s.verify(ctx, c.Bytes("data"), rawSignature(c.Bytes("signature")))
			return compareVerified(c, err)
		}),
		"wrap": with(func(s *suite, c msltest.Case) error {
			out, err := s.wrap(ctx, c.Bytes("data"))
			return equal(c, "output", out, err)
		}),
		"unwrap": with(func(s *suite, c msltest.Case) error {
			data, err := s.unwrap(ctx, c.Bytes("input"))
			return equal(c, "data", data, err)
		}),
	})
}

// compareVerified judges a verification: the reference answers with a boolean.
func compareVerified(c msltest.Case, err error) error {
	if c.Refused() != nil || numberOf(err) != noNumber {
		return compare(c, err)
	}
	if c.Bool("verified") != (err == nil) {
		return fmt.Errorf("verified: %v", err)
	}
	return nil
}

func sessionVectors(t *testing.T) {
	ctx := context.Background()
	newOne := func(identity string, sequence int64) *session {
		f := fixtures().Session
		s, err := newSession(&sessionKeys{enc: secret.Take(unhex(f.EncryptionKey)), mac: secret.Take(unhex(f.HMACKey)), algorithm: hmacSHA256}, identity, sequence)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	msltest.Vectors(t, "session.json", map[string]func(msltest.Case) error{
		"encrypt-sign": func(c msltest.Case) error {
			s := newOne(c.String("identity"), c.Int("sequence_number"))
			out, err := s.encryptWith(ctx, nil, c.Bytes("iv"), c.Bytes("data"))
			if err != nil {
				return err
			}
			if err := sameJSON(out, c.Bytes("output")); err != nil {
				return err
			}
			plain, err := s.open(ctx, wire.Part{Data: c.Bytes("output"), Signature: c.Bytes("signature")})
			return equal(c, "data", plain, err)
		},
		"wrap": func(c msltest.Case) error {
			s := newOne("psk-client", 1)
			if c.Name == "wrap" {
				_, err := s.wrap(ctx, c.Bytes("data"))
				return compare(c, err)
			}
			_, err := s.unwrap(ctx, c.Bytes("input"))
			return compare(c, err)
		},
		// A token that does not open gives no handle, so that the fault is the message's: package msl.
		"untrusted": nil,
	})
}

// A memoryRSA is an RSA key of the fixtures, some of which are too small for a provider.
type memoryRSA struct{ *rsa.PrivateKey }

func (k memoryRSA) Sign(_ context.Context, _ providers.Mechanism, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return rsa.SignPKCS1v15(rand.Reader, k.PrivateKey, crypto.SHA256, sum[:])
}

func (memoryRSA) Info() providers.KeyInfo { return providers.KeyInfo{Version: 1} }

func rsaVectors(t *testing.T) {
	ctx := context.Background()
	a := newAgent(t, nil)
	signer := func(c msltest.Case) *rsaSigner {
		k := memoryRSA{fixturePair(c.String("key"))}
		s := &rsaSigner{key: usedKey{k, a.usesOf(c.String("key"), 1)}, signer: k, public: &k.PublicKey}
		switch c.Name {
		case "no-private-key":
			s.signer = nil
		case "no-public-key":
			s.public = nil
		}
		return s
	}
	// Encrypting contexts exist as far as key exchange needs them: keys are wrapped without an envelope.
	encrypt := func(m providers.Mechanism) func(c msltest.Case) error {
		return func(c msltest.Case) error {
			if c.Name == "no-public-key" {
				return errors.New("no such context")
			}
			pair := &keyPair{private: fixturePair(c.String("key"))}
			w := rsaWrapper{&pair.private.PublicKey, m}
			ours, err := w.Wrap(ctx, c.Bytes("data"))
			if err != nil || c.Refused() != nil {
				return compare(c, err)
			}
			theirs, err := parseEnvelope(nil, c.Bytes("output"), 1)
			if err != nil {
				return err
			}
			for _, b := range [][]byte{ours, theirs.ciphertext} {
				data, err := rsaUnwrapper{pair, m}.Unwrap(ctx, b)
				if err := equal(c, "data", data, err); err != nil {
					return err
				}
			}
			return sameJSON(appendEnvelope(nil, keyLabel(c.String("id")), nil, theirs.ciphertext), c.Bytes("output"))
		}
	}
	decrypt := func(m providers.Mechanism) func(c msltest.Case) error {
		return func(c msltest.Case) error {
			if c.Name == "no-private-key" {
				return errors.New("no such context")
			}
			e, err := parseEnvelope(nil, c.Bytes("input"), 1)
			if err != nil {
				return compare(c, unverified(mslEnvelopeParseError, ""))
			}
			data, err := rsaUnwrapper{&keyPair{private: fixturePair(c.String("key"))}, m}.Unwrap(ctx, e.ciphertext)
			return equal(c, "data", data, err)
		}
	}
	msltest.Vectors(t, "rsa.json", map[string]func(msltest.Case) error{
		"sign": func(c msltest.Case) error {
			part, err := signer(c).seal(ctx, c.Bytes("data"))
			return equal(c, "signature", part.Signature, err)
		},
		"verify": func(c msltest.Case) error {
			_, err := signer(c).open(ctx, wire.Part{Data: c.Bytes("data"), Signature: c.Bytes("signature")})
			return compareVerified(c, err)
		},
		"oaep":          encrypt(providers.RSAOAEP),
		"pkcs1":         encrypt(providers.RSAPKCS1),
		"oaep-decrypt":  decrypt(providers.RSAOAEP),
		"pkcs1-decrypt": decrypt(providers.RSAPKCS1),
		"null-op": func(c msltest.Case) error {
			s := signer(c)
			switch c.Name {
			case "sign-mode-encrypt":
				part, err := s.seal(ctx, c.Bytes("data"))
				return equal(c, "output", part.Data, err)
			case "sign-mode-decrypt":
				part, err := s.seal(ctx, c.Bytes("input"))
				if err != nil {
					return err
				}
				data, err := s.open(ctx, part)
				return equal(c, "output", data, err)
			case "wrap", "unwrap", "wrap-mode":
				return nil // the type has no such methods
			}
			return errors.New("no such context")
		},
	})
}

// labelOf returns the keyid of an envelope, of which custody only wants that it is there.
func labelOf(envelope []byte) string {
	o, _ := mslenc.Parse(envelope)
	id, _ := o.String("keyid")
	return id
}
