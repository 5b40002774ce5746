// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
)

func FuzzEnvelope(f *testing.F) {
	f.Add(appendEnvelope(nil, keyLabel("id"), make([]byte, 16), make([]byte, 32)))
	f.Add([]byte(`{"version":2,"cipherspec":"AESWrap","ciphertext":""}`))
	s := &suite{label: keyLabel("id")}
	var err error
	if s.enc, err = newAESCBC(secret.New(16)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for version := range 3 {
			e, err := parseEnvelope(nil, b, version)
			if err == nil && e.version == 1 {
				again, err := parseEnvelope(nil, appendEnvelope(nil, keyLabel("x"), e.iv, e.ciphertext), 1)
				if err != nil || !bytes.Equal(again.iv, e.iv) || !bytes.Equal(again.ciphertext, e.ciphertext) {
					t.Fatal("another envelope read back")
				}
			}
		}
		s.decrypt(context.Background(), b)
		rawSignature(b)
	})
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"renewalwindow":1,"expiration":2,"sequencenumber":3,"serialnumber":4,"sessiondata":"AA=="}`))
	f.Add([]byte(`{"renewalwindow":1,"expiration":2,"mtserialnumber":3,"serialnumber":4,"userdata":"AA=="}`))
	f.Add([]byte(`{"name":"n","mtserialnumber":3,"encrypted":true,"compressionalgo":"LZW","servicedata":"AA=="}`))
	f.Add([]byte(`{"identity":"i","encryptionkey":"AAAAAAAAAAAAAAAAAAAAAA==","hmackey":"AA==","issuerdata":{"a":[1]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseMasterClaims(b); err == nil {
			if again, err := parseMasterClaims(c.encode()); err != nil || again.serialNumber != c.serialNumber || !bytes.Equal(again.sessionData, c.sessionData) {
				t.Fatal("another master token read back")
			}
		}
		if c, err := parseUserClaims(b); err == nil {
			if again, err := parseUserClaims(c.encode()); err != nil || again.masterSerialNumber != c.masterSerialNumber {
				t.Fatal("another user ID token read back")
			}
		}
		if c, err := parseServiceClaims(b); err == nil {
			if again, err := parseServiceClaims(c.encode()); err != nil || again.name != c.name || again.userSerial != c.userSerial {
				t.Fatal("another service token read back")
			}
		}
		if c, err := parseSessionClaims(b); err == nil {
			if again, err := parseSessionClaims(c.encode()); err != nil || again.identity != c.identity || !again.keys.mac.Equal(c.keys.mac) {
				t.Fatal("other session data read back")
			}
		}
		parseUser(b)
	})
}

func FuzzSealedSession(f *testing.F) {
	keys := newSessionKeys()
	for range 2 {
		s, err := newSession(keys, "identity", 5)
		if err != nil {
			f.Fatal(err)
		}
		good, err := encodeSealed(nil, s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(good)
		keys.rung = &rung{schemeJWKLadder, []byte("wrapdata"), secret.Random(wrapKeySize)}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, format := range []byte{sealedPlain, sealedLadder} {
			s, err := parseSealed(format, b)
			if err != nil || len(s.identity) > maxSealed/2 {
				continue
			}
			again, err := encodeSealed(nil, s)
			if err != nil || !bytes.Equal(again, b) || (s.keys.rung != nil) != (format == sealedLadder) {
				t.Fatal("another session read back")
			}
		}
	})
}

func FuzzKeyData(f *testing.F) {
	f.Add([]byte(`{"keyid":"PSK","encryptionkey":"AA==","hmackey":"AA=="}`))
	f.Add([]byte(`{"keypairid":"p","mechanism":"JWE_RSA","publickey":"MAA=","encryptionkey":"AA==","hmackey":"AA=="}`))
	f.Add([]byte(`{"parametersid":"small","publickey":"AAI="}`))
	f.Add([]byte(`{"mechanism":"WRAP","wrapdata":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"}`))
	f.Add([]byte(`{"mechanism":"PSK","wrapkey":"AA==","wrapdata":"AA==","encryptionkey":"AA==","hmackey":"AA=="}`))
	small, err := newGroup(fixtureGroup("dh768"), true)
	if err != nil {
		f.Fatal(err)
	}
	a := &Agent{provider: newProvider(f), groups: map[string]*group{"small": small}}
	kw, err := newAESKW(secret.New(16))
	if err != nil {
		f.Fatal(err)
	}
	pendings := []pendingExchange{
		&pendingSymmetric{&keySet{versions: []*suite{{kw: kw}}}},
		&pendingAgreement{agreement{"small", []byte{4}}, small, secret.Random(8)},
		&pendingLadder{ladder: ladder{schemeJWELadder, true}, under: []*suite{{kw: kw}}},
		&pendingLadder{ladder: ladder{schemeJWKLadder, false}, under: []*suite{{kw: kw}}},
		&pendingAsymmetric{"JWE_RSA", mechanisms["JWE_RSA"], &exchangePair{id: "p", private: &keyPair{private: fixturePair("rsa_keyx")}}},
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseKeyData(b)
		if err != nil {
			return
		}
		for _, p := range pendings {
			if keys, err := p.finish(context.Background(), o); err == nil && !keys.wellSized() {
				t.Fatal("keys of another size")
			}
		}
		for _, x := range keyExchanges {
			x.respond(context.Background(), a, &requester{identity: "nobody"}, o)
		}
	})
}

func FuzzImport(f *testing.F) {
	f.Add([]byte("00112233445566778899aabbccddeeff"), "")
	f.Add([]byte(`{"kty":"oct","k":"AAEC"}`), "jwk")
	f.Fuzz(func(t *testing.T, b []byte, format string) {
		for _, size := range []int{16, 32, 48, 64} {
			if key, err := decodeSymmetric(b, format, size); err == nil && len(key) != size {
				t.Fatal("a key of another size")
			}
		}
		decodePrivate(b, format, "rsa-2048")
		mergeIssuerData(nil, b)
		mslenc.Parse(b)
	})
}
