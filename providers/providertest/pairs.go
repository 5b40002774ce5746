// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/providers"
)

// pairVectors compares with what MSL's reference signed and encrypted.
func (s *suite) pairVectors(t *testing.T) {
	var fixtures struct {
		Pairs map[string]struct{ PKCS8, SPKI []byte } `json:"key_pairs"`
	}
	msltest.VectorFile(t, "fixtures.json", &fixtures)
	ctx, keys := t.Context(), make(map[string]providers.Key)
	for _, c := range msltest.Cases(t, "rsa.json") {
		name := c.String("key")
		if c.Has("error") || name == "rsa_small" || name == "" {
			continue
		}
		if keys[name] == nil {
			keys[name] = s.imported(t, providers.RSA2048, fixtures.Pairs[name].PKCS8)
		}
		k := keys[name]
		if k == nil {
			return
		}
		m := map[string]providers.Mechanism{"oaep": providers.RSAOAEP, "oaep-decrypt": providers.RSAOAEP,
			"pkcs1": providers.RSAPKCS1, "pkcs1-decrypt": providers.RSAPKCS1}[c.Group]
		signer, signs := k.(providers.Signer)
		decrypter, decrypts := k.(providers.RSADecrypter)
		switch {
		case c.Group == "sign" && signs && supports(k, providers.RSAPKCS1):
			got, err := signer.Sign(ctx, providers.RSAPKCS1, c.Bytes("data"))
			same(t, c.Name, got, err, c.Bytes("signature"))
		case m == providers.RSAPKCS1 && s.o.NoPKCS1Decryption:
		case m != "" && decrypts && supports(k, m):
			input := c.Bytes("output")
			if c.Has("input") {
				input = c.Bytes("input")
			}
			var envelope struct{ Ciphertext []byte }
			if err := json.Unmarshal(input, &envelope); err != nil {
				t.Fatal(err)
			}
			got, err := decrypter.DecryptRSA(ctx, m, envelope.Ciphertext)
			same(t, c.Group+"/"+c.Name, got, err, c.Bytes("data"))
		}
	}
	if k := s.imported(t, providers.ECP256, fixtures.Pairs["ec_server"].PKCS8); k != nil {
		if p, ok := k.(providers.PublicKeyer); ok {
			got, err := p.PublicKey(ctx)
			same(t, "public key", got, err, fixtures.Pairs["ec_server"].SPKI)
		}
	}
}

// public returns the public half of a key pair.
func public[T any](t *testing.T, k providers.Key) (pub T) {
	t.Helper()
	p, ok := k.(providers.PublicKeyer)
	if !ok {
		t.Fatal("a key pair without a public half")
	}
	der, err := p.PublicKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	pub, ok = parsed.(T)
	if !ok {
		t.Fatalf("the public half is a %T", parsed)
	}
	return pub
}

func (s *suite) rsa(t *testing.T) {
	ctx, k := t.Context(), s.key(t, providers.RSA2048)
	pub := public[*rsa.PublicKey](t, k)
	if pub.Size() != 256 {
		t.Errorf("the modulus has %d bytes", pub.Size())
	}
	if signer, ok := k.(providers.Signer); ok {
		for _, message := range [][]byte{nil, []byte("message"), make([]byte, s.o.Size)} {
			sig, err := signer.Sign(ctx, providers.RSAPKCS1, message)
			digest := sha256.Sum256(message)
			if err != nil || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
				t.Errorf("the signature of %d bytes is not good: %v", len(message), err)
			}
		}
		_, err := signer.Sign(ctx, providers.ECDSAP256, nil)
		code(t, "another mechanism", err, providers.NotSupported)
	}
	d, ok := k.(providers.RSADecrypter)
	if !ok {
		return
	}
	if supports(k, providers.RSAOAEP) {
		c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, []byte("plain"), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.DecryptRSA(ctx, providers.RSAOAEP, c)
		same(t, "OAEP", got, err, []byte("plain"))
		tampered(t, "OAEP", c, func(b []byte) error { _, err := d.DecryptRSA(ctx, providers.RSAOAEP, b); return err })
	}
	_, err := d.DecryptRSA(ctx, providers.AESGCM, make([]byte, 256))
	code(t, "another mechanism", err, providers.NotSupported)
	if s.o.NoPKCS1Decryption {
		_, err := d.DecryptRSA(ctx, providers.RSAPKCS1, make([]byte, 256))
		code(t, "PKCS #1", err, providers.NotSupported)
	} else if supports(k, providers.RSAPKCS1) {
		//lint:ignore SA1019 an MSL peer may need it
		c, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.DecryptRSA(ctx, providers.RSAPKCS1, c)
		same(t, "PKCS #1", got, err, []byte("plain"))
		_, err = d.DecryptRSA(ctx, providers.RSAPKCS1, c[1:])
		code(t, "PKCS #1, cut off", err, providers.VerificationFailed)
	}
}

func (s *suite) ec(t *testing.T) {
	ctx, k := t.Context(), s.key(t, providers.ECP256)
	pub := public[*ecdsa.PublicKey](t, k)
	if signer, ok := k.(providers.Signer); ok {
		for _, message := range [][]byte{nil, []byte("message"), make([]byte, s.o.Size)} {
			sig, err := signer.Sign(ctx, providers.ECDSAP256, message)
			digest := sha256.Sum256(message)
			if err != nil || !ecdsa.VerifyASN1(pub, digest[:], sig) {
				t.Errorf("the signature of %d bytes is not good: %v", len(message), err)
			}
		}
		_, err := signer.Sign(ctx, providers.RSAPKCS1, nil)
		code(t, "another mechanism", err, providers.NotSupported)
	}
	a, ok := k.(providers.Agreer)
	if !ok {
		return
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, err := pub.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	want, err := peer.ECDH(own)
	if err != nil {
		t.Fatal(err)
	}
	point := peer.PublicKey().Bytes()
	got, err := a.Agree(ctx, point)
	same(t, "shared secret", got, err, want)
	off := bytes.Clone(point)
	off[64] ^= 1
	for _, b := range [][]byte{nil, point[1:], append(bytes.Clone(point), 0), off, {0}, make([]byte, 65)} {
		_, err := a.Agree(ctx, b)
		code(t, "a point that is none", err, providers.Malformed)
	}
}
