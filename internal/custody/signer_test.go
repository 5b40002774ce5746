// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// TestSigningEntities: an entity with a key pair signs with it, of the right type and name only, opens nothing that was
// changed, and proves nobody else to be anyone (behaviours 25, 27 and 66).
func TestSigningEntities(t *testing.T) {
	a := newAgent(t, nil)
	provider := a.provider.(providers.Generator)
	for name, keyType := range map[string]providers.KeyType{
		"rsa/cert": providers.RSA2048, "ec/curve": providers.ECP256, "ec/rsa": providers.RSA2048, "rsa/ec": providers.ECP256, "ec/aes": providers.AES128,
	} {
		if _, err := provider.Generate(t.Context(), name, keyType); err != nil {
			t.Fatal(err)
		}
	}
	p := newPeer(t, a)
	for _, c := range []struct {
		scheme, keyID string
		want          wire.Code
	}{
		{"RSA", "cert", 0}, {"X509", "cert", 0}, {"ECC", "curve", 0}, {"ECC", "cert", wire.NoSuchKey}, {"RSA", "curve", wire.NoSuchKey},
		{"ECC", "", wire.NoSuchKey}, {"ECC", "../rsa/cert", wire.NoSuchKey}, {"ECC", "rsa", wire.NotSupported}, {"RSA", "ec", wire.NotSupported},
		{"X509", "ec", wire.NotSupported}, {"ECC", "aes", wire.NotSupported}, {"MAGIC", "curve", wire.NotSupported}, {"NONE", "", wire.NotSupported},
	} {
		e, err := try[*wire.EntityContextReply](p, &wire.EntityContextRequest{Scheme: c.scheme, Identity: "me", KeyID: c.keyID})
		if codeOf(err) != c.want {
			t.Errorf("%s %q: %v", c.scheme, c.keyID, err)
		}
		if err != nil {
			continue
		}
		data := []byte("data")
		sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: e.Context, Plain: [][]byte{data}})
		part := sealed.Parts[0]
		opens := func(part wire.Part) bool {
			return ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: e.Context, Parts: []wire.Part{part}}).FailedPart == -1
		}
		if !bytes.Equal(part.Data, data) || !opens(part) {
			t.Errorf("%s: what it signed does not open", c.scheme)
		}
		for i := range part.Signature {
			changed := bytes.Clone(part.Signature)
			changed[i] ^= 1
			if opens(wire.Part{Data: data, Signature: changed}) {
				t.Errorf("%s: byte %d of the signature was changed", c.scheme, i)
			}
		}
		begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"})
		_, err = try[*wire.IssueReply](p, &wire.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: begun.KeyData, Entity: e.Context, RenewalWindow: 1, Expiration: 2})
		if codeOf(err) != wire.Denied {
			t.Errorf("%s: a token for the local entity: %v", c.scheme, err)
		}
	}
}

// TestProfiles: the entities of one device have keys of their own, and must use them (§5.2).
func TestProfiles(t *testing.T) {
	provider := fixtureProvider(t)
	importSet(t, provider, "psk/psk-client-kids", fixtures().PSK["psk-server"])
	a := newAgent(t, func(c *Config) { c.Provider = provider })
	p := newPeer(t, a)
	if _, err := try[*wire.EntityContextReply](p, &wire.EntityContextRequest{Scheme: "PSK_PROFILE", Identity: "psk-client-other"}); codeOf(err) != wire.NoSuchKey {
		t.Errorf("a profile without keys: %v", err)
	}
	kids := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "PSK_PROFILE", Identity: "psk-client-kids"})
	parent := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "PSK", Identity: "psk-client"})
	sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: parent.Context, Plain: [][]byte{[]byte("data")}})
	if opened := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: kids.Context, Parts: sealed.Parts}); opened.FailedPart != 0 {
		t.Error("a device may be any of its profiles")
	}
	for _, r := range []*wire.IssueRequest{{Entity: kids.Context}, {Identity: "psk-client-kids"}} {
		begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"})
		r.Scheme, r.KeyData, r.RenewalWindow, r.Expiration = "ASYMMETRIC_WRAPPED", begun.KeyData, 1, 2
		if _, err := try[*wire.IssueReply](p, r); codeOf(err) != wire.Denied {
			t.Errorf("a token for a profile that has not authenticated: %v", err)
		}
	}
}

// FuzzECSignature: a signature has one encoding, and what verifies is encoded so.
func FuzzECSignature(f *testing.F) {
	key := anyPair("ec_server").(*ecdsa.PrivateKey)
	sum := sha256.Sum256([]byte("data"))
	for range 3 {
		signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(signature)
	}
	f.Add([]byte{0x30, 6, 2, 1, 0, 2, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isECSignature(b) {
			if ecdsa.VerifyASN1(&key.PublicKey, sum[:], b) {
				t.Error("verifies, and is no signature")
			}
			return
		}
		var pair struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(b, &pair); err != nil || len(rest) > 0 {
			t.Fatalf("%x: %v", b, err)
		}
		if again, err := asn1.Marshal(pair); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is also %x: %v", b, again, err)
		}
	})
}
