// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"bytes"
	"encoding/base64"
	"math/big"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
)

// maxKey bounds the encoding of a JSON web key, in bytes. An RSA key of 8192 bits with its private
// exponent needs 3 KiB.
const maxKey = 8 << 10

// The vocabulary of §2.9. Names are case-sensitive.
var (
	keyTypes   = []string{"rsa", "oct"}
	keyUsages  = []string{"sig", "enc", "wrap"}
	keyOps     = []string{"sign", "verify", "encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"}
	algorithms = []string{"HS256", "RSA1_5", "RSA-OAEP", "A128KW", "A128CBC"}
)

// A Key is a JSON web key (§2.9). Type "oct" has Secret; type "rsa" has N, and E or D or both.
type Key struct {
	Type        string
	Use         string   // "" if absent
	Ops         []string // nil if absent; without duplicates
	Alg         string   // "" if absent
	Extractable bool
	ID          string // "" if absent

	Secret *secret.Bytes
	N, E   []byte // big-endian magnitudes
	D      *secret.Bytes
}

// Wipe wipes the secret parts.
func (k *Key) Wipe() {
	k.Secret.Wipe()
	k.D.Wipe()
}

// ParseKey reads a key. The caller wipes both b and the key.
func ParseKey(b []byte) (*Key, error) {
	o, err := mslenc.ParseLimited(b, mslenc.Limits{Size: maxKey, Depth: 8, Members: 64})
	if err != nil {
		return nil, &Error{MSL: ParseError, Op: "parsing a JSON web key", Err: err}
	}
	k := new(Key)
	if err := k.parseLabels(o); err != nil {
		return nil, err
	}
	if k.Type == "oct" {
		k.Secret, err = secretMember(o, "k")
		return k, err
	}
	if err := k.parseRSA(o); err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// parseLabels reads the members that every type has: all are read before any is judged.
func (k *Key) parseLabels(o mslenc.Object) error {
	var err error
	text := func(name string, optional bool) (s string) {
		if err == nil && (!optional || o.Has(name)) {
			s, err = o.String(name)
		}
		return s
	}
	k.Type = text("kty", false)
	k.Use = text("use", true)
	if err == nil && o.Has("key_ops") {
		var ops []string
		ops, err = o.Strings("key_ops")
		k.Ops = make([]string, 0, min(len(ops), len(keyOps)))
		for _, op := range ops {
			if !slices.Contains(keyOps, op) {
				return fail(UnidentifiedKeyOp, "reading key_ops")
			}
			if !slices.Contains(k.Ops, op) {
				k.Ops = append(k.Ops, op)
			}
		}
	}
	k.Alg = text("alg", true)
	if err == nil && o.Has("extractable") {
		k.Extractable, err = o.Bool("extractable")
	}
	k.ID = text("kid", true)
	switch {
	case err != nil:
		return &Error{MSL: ParseError, Op: "parsing a JSON web key", Err: err}
	case !slices.Contains(keyTypes, k.Type):
		return fail(UnidentifiedType, "reading kty")
	case o.Has("use") && !slices.Contains(keyUsages, k.Use):
		return fail(UnidentifiedUsage, "reading use")
	case o.Has("alg") && !slices.Contains(algorithms, k.Alg):
		return fail(UnidentifiedAlgorithm, "reading alg")
	}
	return nil
}

// parseRSA reads modulus and exponents. A modulus below 512 bits or an even exponent is no RSA key.
func (k *Key) parseRSA(o mslenc.Object) (err error) {
	if k.N, err = member(o, "n"); err != nil {
		return err
	}
	if !o.Has("e") && !o.Has("d") {
		return fail(ParseError, "reading e and d: both are missing")
	}
	if o.Has("e") {
		if k.E, err = member(o, "e"); err != nil {
			return err
		}
		if e := k.E[len(k.E)-1]; e&1 == 0 || len(k.E) == 1 && e < 3 {
			return fail(InvalidKeyData, "reading e")
		}
	}
	if new(big.Int).SetBytes(k.N).BitLen() < 512 {
		return fail(InvalidKeyData, "reading n")
	}
	if o.Has("d") {
		k.D, err = secretMember(o, "d")
	}
	return err
}

// member returns the bytes of a base64url member, without leading zeros but never empty.
func member(o mslenc.Object, name string) ([]byte, error) {
	text, err := o.String(name)
	if err != nil {
		return nil, &Error{MSL: ParseError, Op: "parsing a JSON web key", Err: err}
	}
	b, err := mslenc.DecodeBase64URL(text)
	if err != nil || len(b) == 0 {
		return nil, fail(InvalidKeyData, "reading "+name)
	}
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	return b, nil
}

// secretMember decodes a member without making a string of it, which could not be wiped.
func secretMember(o mslenc.Object, name string) (*secret.Bytes, error) {
	for found, raw := range o.Members() {
		if found != name {
			continue
		}
		if raw[0] != '"' {
			return nil, fail(ParseError, "reading "+name)
		}
		text := bytes.Clone(raw[1 : len(raw)-1])
		defer secret.Wipe(text)
		return decodeSecret(text, name)
	}
	return nil, fail(ParseError, "reading "+name)
}

// decodeSecret decodes base64url as leniently as §1.3 says: either alphabet, padding optional.
func decodeSecret(text []byte, name string) (*secret.Bytes, error) {
	for i, c := range text {
		switch c {
		case '+':
			text[i] = '-'
		case '/':
			text[i] = '_'
		case '\r', '\n':
			return nil, fail(InvalidKeyData, "reading "+name)
		}
	}
	if len(text)%4 == 0 {
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("=")), []byte("="))
	}
	key := make([]byte, base64.RawURLEncoding.DecodedLen(len(text)))
	n, err := base64.RawURLEncoding.Strict().Decode(key, text)
	if err != nil || n == 0 {
		secret.Wipe(key)
		return nil, fail(InvalidKeyData, "reading "+name)
	}
	return secret.Take(key[:n]), nil
}

// Encode returns the key's JSON, secret parts included: the caller encrypts it, and wipes it. Where both
// Use and Ops are set, only Use is written (§2.9).
func (k *Key) Encode() []byte {
	// No reallocation may leave a copy of the key behind.
	size := 256 + len(k.ID)*6 + 2*(len(k.N)+len(k.E)+k.Secret.Len()+k.D.Len())
	var b mslenc.Builder
	b.Reset(make([]byte, 0, size))
	b.String("kty", k.Type)
	if k.Use != "" {
		b.String("use", k.Use)
	} else if k.Ops != nil {
		b.Strings("key_ops", k.Ops)
	}
	if k.Alg != "" {
		b.String("alg", k.Alg)
	}
	b.Bool("extractable", k.Extractable)
	if k.ID != "" {
		b.String("kid", k.ID)
	}
	out := b.Bytes()
	out = out[:len(out)-1]
	for _, m := range []struct {
		name  string
		value []byte
	}{{"k", secret.Reveal(k.Secret)}, {"n", k.N}, {"e", k.E}, {"d", secret.Reveal(k.D)}} {
		if len(m.value) == 0 {
			continue
		}
		out = append(append(append(out, `,"`...), m.name...), `":"`...)
		out = append(base64.RawURLEncoding.AppendEncode(out, m.value), '"')
	}
	return append(out, '}')
}

// Pad inserts blanks after the opening brace until the length is a multiple of 8, so that a JSON web key
// can be wrapped by AES key wrap (§7.6). Fewer than 16 bytes are refused, as the reference's key wrap
// does. Nothing removes the blanks: JSON ignores them. The caller wipes both b and the result.
func Pad(b []byte) ([]byte, error) {
	n := -len(b) & 7
	if len(b) == 0 || b[0] != '{' || len(b)+n < 16 {
		return nil, fail(PlaintextIllegalBlockSize, "padding a JSON web key")
	}
	out := make([]byte, 1, len(b)+n)
	out[0] = '{'
	for range n {
		out = append(out, ' ')
	}
	return append(out, b[1:]...), nil
}
