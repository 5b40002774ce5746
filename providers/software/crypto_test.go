// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

var symmetricTypes = map[int]providers.KeyType{16: providers.AES128, 32: providers.AES256}

// importer imports each key once.
type importer struct {
	t    testing.TB
	p    *software.Provider
	seen map[string]bool
}

func (im *importer) open(kt providers.KeyType, key []byte) providers.Key {
	im.t.Helper()
	sum := sha256.Sum256(key)
	name := fmt.Sprintf("%s/%x", kt, sum[:4])
	if !im.seen[name] {
		im.seen[name] = true
		before := bytes.Clone(key)
		if _, err := im.p.Import(im.t.Context(), name, kt, key); err != nil {
			im.t.Fatal(err)
		}
		if !bytes.Equal(key, before) {
			im.t.Fatal("Import changed its input")
		}
	}
	return openKey[providers.Key](im.t, im.p, name, 0)
}

func newImporter(t testing.TB) *importer {
	p, _, _ := fresh(t)
	return &importer{t, p, make(map[string]bool)}
}

// TestReferenceSymmetric compares with what MSL's reference computed.
func TestReferenceSymmetric(t *testing.T) {
	im, ctx, ran := newImporter(t), t.Context(), 0
	for _, c := range msltest.Cases(t, "symmetric.json") {
		var keys struct {
			Encryption string `json:"encryption_key"`
			Signature  string `json:"signature_key"`
			Algorithm  string `json:"signature_algorithm"`
			Wrapping   string `json:"wrapping_key"`
		}
		c.Into("keys", &keys)
		if c.Has("error") {
			continue
		}
		var got []byte
		var err error
		switch {
		case c.Group == "encrypt" && len(c.Bytes("data")) > 0 && len(keys.Encryption)%32 == 0:
			k := im.open(symmetricTypes[len(keys.Encryption)/2], unhex(t, keys.Encryption))
			got, err = k.(providers.Encrypter).Encrypt(ctx, providers.AESCBC, c.Bytes("iv"), c.Bytes("data"), nil)
			check(t, c.Name, got, err, c.Bytes("ciphertext"))
			got, err = k.(providers.Decrypter).Decrypt(ctx, providers.AESCBC, c.Bytes("iv"), c.Bytes("ciphertext"), nil)
			check(t, c.Name, got, err, c.Bytes("data"))
		case c.Group == "sign" && keys.Algorithm == "HmacSHA256" && len(keys.Signature) == 64:
			k := im.open(providers.HMACSHA256, unhex(t, keys.Signature))
			got, err = k.(providers.MACer).MAC(ctx, c.Bytes("data"))
			check(t, c.Name, got, err, c.Bytes("signature"))
			if err := k.(providers.MACVerifier).VerifyMAC(ctx, c.Bytes("data"), c.Bytes("signature")); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		case c.Group == "wrap" && len(c.Bytes("data")) >= 16:
			k := im.open(symmetricTypes[len(keys.Wrapping)/2], unhex(t, keys.Wrapping))
			got, err = k.(providers.Wrapper).Wrap(ctx, c.Bytes("data"))
			check(t, c.Name, got, err, c.Bytes("output"))
			got, err = k.(providers.Unwrapper).Unwrap(ctx, c.Bytes("output"))
			check(t, c.Name, got, err, c.Bytes("data"))
		default:
			continue
		}
		ran++
	}
	if ran < 30 {
		t.Errorf("only %d cases ran", ran)
	}
}

// pairs are the key pairs of the reference's fixtures.
type pairs map[string]struct{ PKCS8, SPKI []byte }

func fixturePairs(t testing.TB) pairs {
	var fixtures struct {
		Pairs pairs `json:"key_pairs"`
	}
	msltest.VectorFile(t, "fixtures.json", &fixtures)
	return fixtures.Pairs
}

// TestReferenceRSA compares signatures, and decrypts what the reference encrypted.
func TestReferenceRSA(t *testing.T) {
	im, ctx, ran, pairs := newImporter(t), t.Context(), 0, fixturePairs(t)
	for _, c := range msltest.Cases(t, "rsa.json") {
		if name := c.String("key"); c.Has("error") || name == "rsa_small" || name == "" {
			continue
		}
		pair := pairs[c.String("key")]
		k := im.open(providers.RSA2048, pair.PKCS8)
		var envelope struct{ Ciphertext []byte }
		mechanism := map[string]providers.Mechanism{"oaep": providers.RSAOAEP, "oaep-decrypt": providers.RSAOAEP,
			"pkcs1": providers.RSAPKCS1, "pkcs1-decrypt": providers.RSAPKCS1}[c.Group]
		input := c.Bytes("output")
		if c.Has("input") {
			input = c.Bytes("input")
		}
		switch {
		case c.Group == "sign":
			got, err := k.(providers.Signer).Sign(ctx, providers.RSAPKCS1, c.Bytes("data"))
			check(t, c.Name, got, err, c.Bytes("signature"))
		case mechanism != "":
			if err := json.Unmarshal(input, &envelope); err != nil {
				t.Fatal(err)
			}
			got, err := k.(providers.RSADecrypter).DecryptRSA(ctx, mechanism, envelope.Ciphertext)
			check(t, c.Group+"/"+c.Name, got, err, c.Bytes("data"))
		default:
			continue
		}
		got, err := k.(providers.PublicKeyer).PublicKey(ctx)
		check(t, "public key", got, err, pair.SPKI)
		ran++
	}
	if ran < 20 {
		t.Errorf("only %d cases ran", ran)
	}
}

func TestRefusedRSA(t *testing.T) {
	im, ctx := newImporter(t), t.Context()
	k := im.open(providers.RSA2048, fixturePairs(t)["rsa_server"].PKCS8).(providers.RSADecrypter)
	spki, err := k.(providers.PublicKeyer).PublicKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pub := parsePublic[*rsa.PublicKey](t, spki)
	good, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, m := range []providers.Mechanism{providers.RSAOAEP, providers.RSAPKCS1} {
		bad := bytes.Clone(good)
		bad[100] ^= 1
		for _, in := range [][]byte{bad, nil, good[1:], append(bytes.Clone(good), 0), bytes.Repeat([]byte{0xff}, 256), make([]byte, 256)} {
			_, err := k.DecryptRSA(ctx, m, in)
			wantCode(t, fmt.Sprintf("%s, %d bytes", m, len(in)), err, providers.VerificationFailed)
			if text == "" {
				text = err.Error()
			}
			if err.Error() != text {
				t.Errorf("failures can be told apart: %q, %q", text, err)
			}
		}
	}
	_, err = k.DecryptRSA(ctx, providers.AESCBC, good)
	wantCode(t, "mechanism", err, providers.NotSupported)
	_, err = k.(providers.Signer).Sign(ctx, providers.ECDSAP256, nil)
	wantCode(t, "mechanism", err, providers.NotSupported)
}

func TestEC(t *testing.T) {
	im, ctx, pairs := newImporter(t), t.Context(), fixturePairs(t)
	k := im.open(providers.ECP256, pairs["ec_server"].PKCS8)
	spki, err := k.(providers.PublicKeyer).PublicKey(ctx)
	check(t, "public key", spki, err, pairs["ec_server"].SPKI)
	pub := parsePublic[*ecdsa.PublicKey](t, spki)
	sig, err := k.(providers.Signer).Sign(ctx, providers.ECDSAP256, []byte("message"))
	digest := sha256.Sum256([]byte("message"))
	if err != nil || !ecdsa.VerifyASN1(pub, digest[:], sig) {
		t.Errorf("the signature is not good: %v", err)
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
	got, err := k.(providers.Agreer).Agree(ctx, peer.PublicKey().Bytes())
	check(t, "agree", got, err, want)
	off := peer.PublicKey().Bytes()
	off[40] ^= 1
	for _, bad := range [][]byte{nil, off, {0}, make([]byte, 65)} {
		_, err := k.(providers.Agreer).Agree(ctx, bad)
		wantCode(t, "bad point", err, providers.Malformed)
	}
	_, err = k.(providers.Signer).Sign(ctx, providers.RSAPKCS1, nil)
	wantCode(t, "mechanism", err, providers.NotSupported)
}

// TestGenerated signs with a fresh key of each kind of pair, from a file that was opened again.
func TestGenerated(t *testing.T) {
	p, path, u := fresh(t)
	generate(t, p, "rsa", providers.RSA2048)
	generate(t, p, "ec", providers.ECP256)
	q := reopen(t, path, u)
	digest := sha256.Sum256([]byte("m"))
	sign := func(name string, m providers.Mechanism) (pub any, sig []byte) {
		sig, err := openKey[providers.Signer](t, p, name, 0).Sign(t.Context(), m, []byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		spki, err := openKey[providers.PublicKeyer](t, q, name, 0).PublicKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return parsePublic[any](t, spki), sig
	}
	pub, sig := sign("rsa", providers.RSAPKCS1)
	if err := rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig); err != nil {
		t.Error(err)
	}
	if pub, sig := sign("ec", providers.ECDSAP256); !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the ECDSA signature is not good")
	}
	if err := q.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSymmetricRefusals(t *testing.T) {
	im, ctx := newImporter(t), t.Context()
	k := im.open(providers.AES256, make([]byte, 32))
	enc, dec := k.(providers.Encrypter), k.(providers.Decrypter)
	plain, aad := []byte("sixteen bytes + more"), []byte("aad")
	for m, size := range map[providers.Mechanism]int{providers.AESCBC: 16, providers.AESGCM: 12} {
		iv := make([]byte, size)
		extra := aad
		if m == providers.AESCBC {
			extra = nil
			_, err := enc.Encrypt(ctx, m, iv, plain, aad)
			wantCode(t, "aad", err, providers.Malformed)
		}
		ct, err := enc.Encrypt(ctx, m, iv, plain, extra)
		if err != nil {
			t.Fatal(err)
		}
		got, err := dec.Decrypt(ctx, m, iv, ct, extra)
		check(t, string(m), got, err, plain)
		for n := range len(ct) {
			if _, err := dec.Decrypt(ctx, m, iv, ct[:n], extra); n%16 != 0 || n == 0 || m == providers.AESGCM {
				wantCode(t, fmt.Sprintf("%s, %d bytes", m, n), err, providers.VerificationFailed)
			}
		}
		for _, n := range []int{0, size - 1, size + 1} {
			_, err := enc.Encrypt(ctx, m, make([]byte, n), plain, extra)
			wantCode(t, "iv", err, providers.Malformed)
			_, err = dec.Decrypt(ctx, m, make([]byte, n), ct, extra)
			wantCode(t, "iv", err, providers.Malformed)
		}
	}
	iv := make([]byte, 12)
	ct, err := enc.Encrypt(ctx, providers.AESGCM, iv, plain, aad)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ct {
		bad := bytes.Clone(ct)
		bad[i] ^= 1
		_, err := dec.Decrypt(ctx, providers.AESGCM, iv, bad, aad)
		wantCode(t, "tampered", err, providers.VerificationFailed)
	}
	_, err = enc.Encrypt(ctx, providers.RSAOAEP, iv, plain, nil)
	wantCode(t, "mechanism", err, providers.NotSupported)

	// Every padding that is not PKCS #7.
	block := make([]byte, 16)
	for last := range 256 {
		for _, flip := range []int{-1, 0, 7, 14} {
			plain := bytes.Repeat([]byte{byte(last)}, 16)
			if flip >= 0 {
				plain[flip] ^= 0x55
			}
			good := last >= 1 && last <= 16 && (flip < 0 || flip < 16-last)
			raw, err := enc.Encrypt(ctx, providers.AESCBC, block, plain, nil) // adds a block, which we cut off
			if err != nil {
				t.Fatal(err)
			}
			got, err := dec.Decrypt(ctx, providers.AESCBC, block, raw[:16], nil)
			if good != (err == nil) || good && len(got) != 16-last {
				t.Fatalf("padding %d, flipped %d: %d bytes, %v", last, flip, len(got), err)
			}
		}
	}

	h := im.open(providers.HMACSHA256, make([]byte, 32))
	mac, err := h.(providers.MACer).MAC(ctx, plain)
	if err != nil {
		t.Fatal(err)
	}
	for i := range mac {
		bad := bytes.Clone(mac)
		bad[i] ^= 1
		wantCode(t, "tampered", h.(providers.MACVerifier).VerifyMAC(ctx, plain, bad), providers.VerificationFailed)
		wantCode(t, "short", h.(providers.MACVerifier).VerifyMAC(ctx, plain, mac[:i]), providers.VerificationFailed)
	}

	w := k.(interface {
		providers.Wrapper
		providers.Unwrapper
	})
	for n := range 40 {
		_, err := w.Wrap(ctx, make([]byte, n))
		if good := n >= 16 && n%8 == 0; good && err != nil {
			t.Errorf("wrapping %d bytes: %v", n, err)
		} else if !good {
			wantCode(t, fmt.Sprintf("wrapping %d bytes", n), err, providers.Malformed)
		}
		_, err = w.Unwrap(ctx, make([]byte, n))
		wantCode(t, fmt.Sprintf("unwrapping %d bytes", n), err, providers.VerificationFailed)
	}

	over, cancel := context.WithCancel(ctx)
	cancel()
	_, err = enc.Encrypt(over, providers.AESCBC, block, plain, nil)
	wantCode(t, "cancelled", err, providers.Transient)
}

func TestImportRefusals(t *testing.T) {
	p, _, _ := fresh(t)
	pairs := fixturePairs(t)
	for _, c := range []struct {
		what string
		kt   providers.KeyType
		key  []byte
		code providers.Code
	}{
		{"short", providers.AES128, make([]byte, 15), providers.Malformed},
		{"long", providers.HMACSHA256, make([]byte, 33), providers.Malformed},
		{"empty", providers.AES256, nil, providers.Malformed},
		{"unknown type", "des", make([]byte, 8), providers.NotSupported},
		{"small RSA", providers.RSA2048, pairs["rsa_small"].PKCS8, providers.Malformed},
		{"other size", providers.RSA3072, pairs["rsa_server"].PKCS8, providers.Malformed},
		{"EC as RSA", providers.RSA2048, pairs["ec_server"].PKCS8, providers.Malformed},
		{"RSA as EC", providers.ECP256, pairs["rsa_server"].PKCS8, providers.Malformed},
		{"other curve", providers.ECP256, pairs["ec_p384"].PKCS8, providers.Malformed},
		{"public key", providers.RSA2048, pairs["rsa_server"].SPKI, providers.Malformed},
		{"truncated", providers.RSA2048, pairs["rsa_server"].PKCS8[:100], providers.Malformed},
		{"trailing", providers.ECP256, append(bytes.Clone(pairs["ec_server"].PKCS8), 0), providers.Malformed},
	} {
		_, err := p.Import(t.Context(), c.what, c.kt, c.key)
		wantCode(t, c.what, err, c.code)
	}
	if infos, err := p.Keys(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("something was imported: %v, %v", infos, err)
	}
}

// TestAbsence: what a key cannot do is not there.
func TestAbsence(t *testing.T) {
	p, _, _ := fresh(t)
	for _, kt := range []providers.KeyType{providers.AES128, providers.HMACSHA256, providers.ECP256} {
		generate(t, p, string(kt), kt)
		k := openKey[providers.Key](t, p, string(kt), 0)
		_, enc := k.(providers.Encrypter)
		_, mac := k.(providers.MACVerifier)
		_, rsa := k.(providers.RSADecrypter)
		_, pub := k.(providers.PublicKeyer)
		if enc != (kt == providers.AES128) || mac != (kt == providers.HMACSHA256) || pub != (kt == providers.ECP256) || rsa {
			t.Errorf("%s: %v %v %v %v", kt, enc, mac, rsa, pub)
		}
	}
}

func BenchmarkKeys(b *testing.B) {
	p, _, _ := fresh(b)
	ctx, data := b.Context(), make([]byte, 1024)
	for _, kt := range []providers.KeyType{providers.AES256, providers.HMACSHA256} {
		generate(b, p, string(kt), kt)
	}
	b.Run("open+encrypt", func(b *testing.B) {
		for b.Loop() {
			k, err := p.Open(ctx, "aes-256", 1)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := k.(providers.Encrypter).Encrypt(ctx, providers.AESCBC, data[:16], data, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open newest+mac", func(b *testing.B) {
		for b.Loop() {
			k, err := p.Open(ctx, "hmac-sha256", 0)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := k.(providers.MACer).MAC(ctx, data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func check(t testing.TB, what string, got []byte, err error, want []byte) {
	t.Helper()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v; want %d bytes", what, len(got), err, len(want))
	}
}

func parsePublic[T any](t testing.TB, spki []byte) T {
	t.Helper()
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	return pub.(T)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
