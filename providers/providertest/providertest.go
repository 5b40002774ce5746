// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package providertest is the conformance suite that every provider passes, in process and through the
// pipe:
//
//	func TestProvider(t *testing.T) {
//		providertest.Run(t, func(t *testing.T) providers.Provider { return open(t) }, providertest.Options{})
//	}
//
// It asks for what a provider advertises, and demands that all of it works and fails as package providers
// says. What is not advertised is not tried.
package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

// Options say what cannot be asked of a provider. The zero value is for one that can do everything that
// its interfaces promise, with every type of key.
type Options struct {
	// Generates and Imports are the types of keys that a Generator and an Importer take; nil: all.
	Generates, Imports []providers.KeyType
	// Size is a number of bytes that one operation must take; default 64 KiB.
	Size int
	// TooLarge is a number of bytes that an operation must refuse as Malformed; 0: not tried.
	TooLarge int
	// NoPKCS1Decryption is for RSA keys that sign with RSAPKCS1 but do not decrypt with it.
	NoPKCS1Decryption bool
	// Prefix begins the names of keys that the suite makes; default "conformance/".
	Prefix string
}

var allTypes = []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256,
	providers.RSA2048, providers.RSA3072, providers.RSA4096, providers.ECP256}

// A suite is one run.
type suite struct {
	p     providers.Provider
	o     Options
	count atomic.Int64
}

// Run runs the suite. open is called once for each part, and cleans up by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) providers.Provider, o Options) {
	if o.Generates == nil {
		o.Generates = allTypes
	}
	if o.Imports == nil {
		o.Imports = allTypes
	}
	if o.Size == 0 {
		o.Size = 64 << 10
	}
	if o.Prefix == "" {
		o.Prefix = "conformance/"
	}
	parts := []struct {
		name string
		run  func(*suite, *testing.T)
	}{
		{"Advertised", (*suite).advertised},
		{"Vectors", (*suite).vectors},
		{"Encrypt", (*suite).encrypt},
		{"AEAD", (*suite).aead},
		{"MAC", (*suite).mac},
		{"Wrap", (*suite).wrap},
		{"RSA", (*suite).rsa},
		{"EC", (*suite).ec},
		{"Versions", (*suite).versions},
		{"Errors", (*suite).errors},
		{"Import", (*suite).imports},
		{"Batch", (*suite).batch},
		{"Random", (*suite).random},
		{"Cancelled", (*suite).cancelled},
		{"Concurrent", (*suite).concurrent},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			o := o
			o.Prefix += strings.ToLower(part.name) + "/" // the same device may serve all parts
			part.run(&suite{p: open(t), o: o}, t)
		})
	}
}

func (s *suite) name() string { return fmt.Sprintf("%skey-%d", s.o.Prefix, s.count.Add(1)) }

// key makes a key of a type, or skips the test if the provider can make none.
func (s *suite) key(t *testing.T, kt providers.KeyType) providers.Key {
	t.Helper()
	g, ok := s.p.(providers.Generator)
	if !ok || !slices.Contains(s.o.Generates, kt) {
		t.Skipf("the provider generates no %s keys", kt)
	}
	info, err := g.Generate(t.Context(), s.name(), kt)
	if err != nil {
		t.Fatalf("generating %s: %v", kt, err)
	}
	return s.open(t, info.Name, info.Version)
}

// imported imports a key and opens it, or returns nil if the provider does not.
func (s *suite) imported(t *testing.T, kt providers.KeyType, key []byte) providers.Key {
	t.Helper()
	im, ok := s.p.(providers.Importer)
	if !ok || !slices.Contains(s.o.Imports, kt) {
		return nil
	}
	before := bytes.Clone(key)
	info, err := im.Import(t.Context(), s.name(), kt, key)
	if err != nil {
		t.Fatalf("importing %s: %v", kt, err)
	}
	if !bytes.Equal(key, before) {
		t.Fatal("Import changed what it was given")
	}
	return s.open(t, info.Name, info.Version)
}

func (s *suite) open(t *testing.T, name string, version uint32) providers.Key {
	t.Helper()
	k, err := s.p.Open(t.Context(), name, version)
	if err != nil {
		t.Fatalf("opening %s: %v", name, err)
	}
	return k
}

func supports(k providers.Key, m providers.Mechanism) bool {
	return slices.Contains(providers.MechanismsOf(k), m)
}

// code fails the test unless err is a providers.Error of that code.
func code(t *testing.T, what string, err error, want providers.Code) {
	t.Helper()
	if _, ok := errors.AsType[*providers.Error](err); !ok || !errors.Is(err, want) {
		t.Errorf("%s: %v; want a *providers.Error with code %q", what, err, want)
	}
}

// same fails the test unless got is want.
func same(t *testing.T, what string, got []byte, err error, want []byte) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: %x, want %x", what, got, want)
	}
}

// tampered calls try with b changed in every byte, cut off and extended. Nothing of it may be accepted,
// and all must fail in the same way.
func tampered(t *testing.T, what string, b []byte, try func([]byte) error) {
	t.Helper()
	variants := [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0)}
	step := max(1, len(b)/64) // a device may be slow
	for i := 0; i < len(b); i += step {
		v := bytes.Clone(b)
		v[i] ^= 1 << (i % 8)
		variants = append(variants, v)
	}
	text := ""
	for _, v := range variants {
		err := try(v)
		code(t, what, err, providers.VerificationFailed)
		if err == nil {
			return
		}
		if text == "" {
			text = err.Error()
		}
		if err.Error() != text {
			t.Errorf("%s: failures can be told apart: %q, %q", what, text, err)
			return
		}
	}
}

// used uses a key in the first way that it can, for tests of what is common to all uses.
func used(ctx context.Context, k providers.Key) error {
	var err error
	switch k := k.(type) {
	case providers.Encrypter:
		m, iv := providers.AESGCM, make([]byte, 12)
		if supports(k.(providers.Key), providers.AESCBC) {
			m, iv = providers.AESCBC, make([]byte, 16)
		} else if supports(k.(providers.Key), providers.AEAD) {
			m, iv = providers.AEAD, nil
		}
		_, err = k.Encrypt(ctx, m, iv, []byte("data"), nil)
	case providers.MACer:
		_, err = k.MAC(ctx, []byte("data"))
	case providers.Wrapper:
		_, err = k.Wrap(ctx, make([]byte, 16))
	case providers.Signer:
		m := providers.RSAPKCS1
		if supports(k.(providers.Key), providers.ECDSAP256) {
			m = providers.ECDSAP256
		}
		_, err = k.Sign(ctx, m, []byte("data"))
	case providers.PublicKeyer:
		_, err = k.PublicKey(ctx)
	default:
		err = errors.New("the key can be used for nothing")
	}
	return err
}
