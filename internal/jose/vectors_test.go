// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/secret"
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
	case refused.Name == "":
		return nil
	}
	if e, ok := errors.AsType[*Error](err); !ok || int(e.MSL)+100000 != refused.Code {
		return fmt.Errorf("refused with %v instead of %s (%d)", err, refused.Name, refused.Code)
	}
	return nil
}

// An aesKW wraps as the reference's symmetric context does.
type aesKW []byte

func (k aesKW) Wrap(_ context.Context, key []byte) ([]byte, error) {
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return aeskw.Wrap(b, key)
}

func (k aesKW) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return aeskw.Unwrap(b, wrapped)
}

// An oaep encrypts with a key pair of the fixtures.
type oaep struct{ *rsa.PrivateKey }

func (k oaep) Wrap(_ context.Context, key []byte) ([]byte, error) {
	return rsa.EncryptOAEP(sha1.New(), rand.Reader, &k.PublicKey, key, nil)
}

func (k oaep) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	return rsa.DecryptOAEP(sha1.New(), nil, k.PrivateKey, wrapped, nil)
}

func fixtureKey(t *testing.T, name string) *rsa.PrivateKey {
	var fixtures struct {
		Pairs map[string]struct{ PKCS8 string } `json:"key_pairs"`
	}
	msltest.VectorFile(t, "fixtures.json", &fixtures)
	der, err := base64.StdEncoding.DecodeString(fixtures.Pairs[name].PKCS8)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// A description is how the vectors name a context.
type description struct {
	Algorithm, Encryption, Key string
	WrappingKey                string `json:"wrapping_key"`
}

func (d description) context(t *testing.T) *Context {
	x := &Context{Alg: d.Algorithm, Enc: d.Encryption}
	if d.Algorithm == A128KW {
		key, err := hex.DecodeString(d.WrappingKey)
		if err != nil {
			t.Fatal(err)
		}
		x.Wrapper, x.Unwrapper = aesKW(key), aesKW(key)
		return x
	}
	k := oaep{fixtureKey(t, d.Key)}
	x.Wrapper, x.Unwrapper = k, k
	return x
}

func describe(c msltest.Case) (d description) {
	if c.Has("context") {
		c.Into("context", &d)
		return d
	}
	return description{c.String("algorithm"), c.String("encryption"), c.String("key"), c.String("wrapping_key")}
}

func TestVectors(t *testing.T) {
	ctx := context.Background()
	msltest.Vectors(t, "jwe.json", map[string]func(msltest.Case) error{
		"wrap": func(c msltest.Case) error {
			x := describe(c).context(t)
			data := c.Bytes("data")
			plain, err := x.Unwrap(ctx, c.Bytes("output"))
			if err != nil || !bytes.Equal(plain, data) {
				return fmt.Errorf("unwrapping: %w", err)
			}
			ours, err := x.Wrap(ctx, data, c.String("serialization") == "JWE_CS")
			if err != nil {
				return err
			}
			if plain, err = x.Unwrap(ctx, ours); err != nil || !bytes.Equal(plain, data) {
				return fmt.Errorf("unwrapping what was wrapped here: %w", err)
			}
			return nil
		},
		"unwrap": func(c msltest.Case) error {
			x := describe(c).context(t)
			if c.Name == "rsa-no-private-key" {
				x.Unwrapper = nil
			}
			plain, err := x.Unwrap(ctx, c.Bytes("input"))
			if err == nil && !bytes.Equal(plain, c.Bytes("data")) {
				return errors.New("another plaintext")
			}
			return compare(c, err)
		},
		// The type has no such methods.
		"unsupported": func(c msltest.Case) error {
			_, ok := reflect.TypeFor[*Context]().MethodByName(map[string]string{
				"encrypt": "Encrypt", "decrypt": "Decrypt", "sign": "Sign", "verify": "Verify"}[c.Name])
			if ok {
				return errors.New("supported")
			}
			return nil
		},
		"jwk-wrap": func(c msltest.Case) error {
			padded, err := Pad(c.Bytes("data"))
			if err != nil {
				return compare(c, err)
			}
			out, err := aesKW(c.Hex("wrapping_key")).Wrap(ctx, padded)
			if err == nil && (!bytes.Equal(padded, c.Bytes("padded")) || !bytes.Equal(out, c.Bytes("output"))) {
				return errors.New("another result")
			}
			return compare(c, err)
		},
	})
	msltest.Vectors(t, "jwk.json", map[string]func(msltest.Case) error{
		"encode": func(c msltest.Case) error { return checkEncode(t, c) },
		"parse":  checkParse,
	})
}

func checkEncode(t *testing.T, c msltest.Case) error {
	k := &Key{Type: c.String("kty"), Use: c.String("use"), Alg: c.String("alg"), Extractable: c.Bool("extractable"), ID: c.String("kid")}
	c.Into("key_ops", &k.Ops)
	if c.Has("k") {
		k.Secret = secret.Take(c.Hex("k"))
	}
	if c.Has("key") {
		rsaKey := fixtureKey(t, c.String("key"))
		k.N = rsaKey.N.Bytes()
		if c.Bool("public") {
			k.E = big.NewInt(int64(rsaKey.E)).Bytes()
		}
		if c.Bool("private") {
			k.D = secret.Take(rsaKey.D.Bytes())
		}
	}
	if c.Name == "oct-all-key-ops" {
		k.Extractable = true // the case leaves it out
	}
	var ours, theirs any
	if err := json.Unmarshal(k.Encode(), &ours); err != nil {
		return err
	}
	if err := json.Unmarshal(c.Bytes("output"), &theirs); err != nil {
		return err
	}
	if !reflect.DeepEqual(ours, theirs) {
		return fmt.Errorf("encoded %s", k.Encode())
	}
	back, err := ParseKey(c.Bytes("output"))
	if err != nil {
		return err
	}
	if !back.Secret.Equal(k.Secret) || !bytes.Equal(back.N, k.N) || !bytes.Equal(back.E, k.E) || !back.D.Equal(k.D) {
		return errors.New("another key read back")
	}
	return nil
}

func checkParse(c msltest.Case) error {
	k, err := ParseKey(c.Bytes("document"))
	if err != nil {
		return compare(c, err)
	}
	if k.Type != c.String("kty") || k.Use != c.String("use") || k.Alg != c.String("alg") ||
		k.Extractable != c.Bool("extractable") || k.ID != c.String("kid") {
		return fmt.Errorf("read %+v", k)
	}
	if c.Has("key_ops") {
		var ops []string
		c.Into("key_ops", &ops)
		slices.Sort(ops)
		ours := slices.Sorted(slices.Values(k.Ops))
		if k.Ops == nil || !slices.Equal(ops, ours) {
			return fmt.Errorf("read key_ops %v", k.Ops)
		}
	}
	if c.Has("secret_key") && !bytes.Equal(secret.Reveal(k.Secret), c.Hex("secret_key")) {
		return errors.New("another key")
	}
	if c.Has("modulus_bits") && (new(big.Int).SetBytes(k.N).BitLen() != int(c.Int("modulus_bits")) ||
		(k.E != nil) != c.Bool("public") || (k.D != nil) != c.Bool("private")) {
		return errors.New("another RSA key")
	}
	return compare(c, nil)
}

// TestTamper changes every byte of an encryption in every bit.
func TestTamper(t *testing.T) {
	ctx := context.Background()
	plain := (&Key{Type: "oct", Alg: "A128CBC", Use: "enc", Secret: secret.Random(16)}).Encode()
	x := &Context{Alg: A128KW, Enc: A128GCM, Wrapper: aesKW(make([]byte, 16)), Unwrapper: aesKW(make([]byte, 16))}
	for _, compact := range []bool{true, false} {
		good, err := x.Wrap(ctx, plain, compact)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if _, err := x.Unwrap(ctx, bad); err == nil {
					t.Fatalf("compact %v: byte %d, bit %d: accepted %q", compact, i, bit, bad)
				}
			}
		}
		for n := range good {
			if _, err := x.Unwrap(ctx, good[:n]); err == nil {
				t.Fatalf("compact %v: accepted the first %d bytes of %d", compact, n, len(good))
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	x := &Context{Alg: A128KW, Enc: A128GCM, Wrapper: aesKW(make([]byte, 16)), Unwrapper: aesKW(make([]byte, 16))}
	for _, compact := range []bool{true, false} {
		good, err := x.Wrap(context.Background(), []byte("{}"), compact)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := x.Unwrap(context.Background(), b); (err == nil) != (plain != nil) {
			t.Fatal("plaintext with an error, or neither")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"kty":"oct","k":"AAEC"}`))
	f.Add([]byte(`{"kty":"rsa","n":"AQAB","e":"AQAB","d":"AQ"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err != nil {
			return
		}
		again, err := ParseKey(k.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if !again.Secret.Equal(k.Secret) || !bytes.Equal(again.N, k.N) || again.Alg != k.Alg || again.ID != k.ID {
			t.Fatal("another key read back")
		}
	})
}
