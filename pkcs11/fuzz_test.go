// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// What a module says of a key may be anything.
func FuzzAttributes(f *testing.F) {
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	point, err := pair.PublicKey.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(point, []byte{1, 0, 1})
	f.Add(append([]byte{4, 65}, point...), []byte{3})
	f.Add(append([]byte{0x80}, make([]byte, 255)...), []byte{1, 0, 1})
	f.Add(mechanismList([]uint{p11.CKM_AES_CBC_PAD, p11.CKM_AES_GCM}), idOf([]byte("name"), 7))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if der := ecPublic(a); der != nil {
			if _, err := x509.ParsePKIXPublicKey(der); err != nil {
				t.Errorf("a point: %v", err)
			}
		}
		if kt, der := rsaPublic(a, b); kt != "" {
			pub, err := x509.ParsePKIXPublicKey(der)
			if rsa, ok := pub.(*rsa.PublicKey); err != nil || !ok || rsa.N.BitLen() != moduli[kt] {
				t.Errorf("a modulus as %s: %v", kt, err)
			}
		}
		if der, err := signatureDER(a); err == nil && len(a) != 64 || len(der) > 72 {
			t.Errorf("a signature of %d bytes becomes %d", len(a), len(der))
		}
		if n := len(numbers(a)); n > len(a)/4 {
			t.Errorf("%d mechanisms in %d bytes", n, len(a))
		}
		number(a)
		truth(a)
		if v := versionOf(a, b); v != 0 && versionOf(a, idOf(a, v)) != v {
			t.Errorf("version %d is not read as that", v)
		}
	})
}

// A key that is imported is of the type that it is said to be, or refused.
func FuzzImport(f *testing.F) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(make([]byte, 32))
	p := &Provider{config: Config{Wrapping: []string{"*.wrap"}}}
	f.Fuzz(func(t *testing.T, key []byte) {
		for _, kt := range allTypes {
			u, ok := p.purpose("name", kt)
			if !ok {
				t.Fatalf("%s has no purpose", kt)
			}
			private, public, err := u.numbers(key)
			if err != nil {
				continue
			}
			if kt == providers.ECP256 && ecPublic(public[1].Value) == nil {
				t.Error("the point of a pair is none")
			}
			if u.keyType == p11.CKK_RSA {
				if got, _ := rsaPublic(private[0].Value, private[1].Value); got != kt {
					t.Errorf("%s is imported as %s", got, kt)
				}
			}
		}
	})
}
