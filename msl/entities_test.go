// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestECCEntities: as RSA entities, and signatures are in DER (§5.4, behaviours 27 and 66).
func TestECCEntities(t *testing.T) {
	ctx := context.Background()
	private := make(map[string]*ecdsa.PrivateKey)
	cfg := &msl.Config{
		ECCPublicKeys: map[string]crypto.PublicKey{"rsa": rsaKeys(t)["rsa-client-key"], "nothing": nil, "empty": &ecdsa.PublicKey{}, "null": (*ecdsa.PublicKey)(nil)},
		ECCIdentities: map[string][]string{"P-256": {"a", "b"}, "rsa": {"a"}, "nothing": {"a"}, "empty": {"a"}, "null": {"a"}, "P-224": {"a"}},
	}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := curve.Params().Name
		private[name], cfg.ECCPublicKeys[name] = key, &key.PublicKey
	}
	private["enrolled"] = private["P-256"]
	cfg.PublicKey = found(map[string]crypto.PublicKey{"enrolled": &private["P-256"].PublicKey, "of another type": rsaKeys(t)["rsa-client-key"]})
	for _, c := range []struct {
		identity, key string
		want          msl.Code
	}{
		{"a", "P-256", 0}, {"b", "P-256", 0}, {"c", "P-256", msl.IncorrectEntityAuthData}, {"P-256", "P-256", msl.IncorrectEntityAuthData},
		{"enrolled", "enrolled", 0}, {"a", "enrolled", msl.IncorrectEntityAuthData}, {"of another type", "of another type", msl.ECCPublicKeyNotFound},
		{"down", "down", msl.InternalException},
		{"P-384", "P-384", 0}, {"P-521", "P-521", 0}, {"a", "P-384", msl.IncorrectEntityAuthData}, {"a", "nokey", msl.ECCPublicKeyNotFound},
		{"a", "P-224", msl.InvalidPublicKey}, {"a", "rsa", msl.InvalidPublicKey}, {"a", "nothing", msl.InvalidPublicKey},
		{"a", "empty", msl.InvalidPublicKey}, {"a", "null", msl.InvalidPublicKey},
	} {
		context, _, err := msl.RemoteContext(ctx, cfg, nil, msl.ECC(c.identity, c.key).Encoding())
		if (err == nil) != (c.want == 0) || err != nil && msl.CodeOf(err) != c.want {
			t.Errorf("%q with key %q: %v", c.identity, c.key, err)
		}
		if err != nil {
			continue
		}
		data := []byte("data")
		digest := sha256.Sum256(data)
		signature, err := ecdsa.SignASN1(rand.Reader, private[c.key], digest[:])
		if err != nil {
			t.Fatal(err)
		}
		onlySigned(t, context, data, signature)
	}
}

// onlySigned: a context opens what is signed, and nothing else, whichever byte is changed; it seals nothing.
func onlySigned(t *testing.T, c msl.CryptoContext, data, signature []byte) {
	t.Helper()
	ctx := context.Background()
	good := msl.Part{Data: data, Signature: signature}
	if plain, err := c.Open(ctx, []msl.Part{good, good}); err != nil || len(plain) != 2 || !bytes.Equal(plain[1], data) {
		t.Errorf("%q, %v", plain, err)
	}
	bad := []msl.Part{{Data: data}, {Data: data, Signature: signature[1:]}, {Data: data, Signature: append(slices.Clone(signature), 0)}}
	for i := range signature {
		changed := slices.Clone(signature)
		changed[i] ^= 1
		bad = append(bad, msl.Part{Data: data, Signature: changed})
	}
	for i := range data {
		changed := slices.Clone(data)
		changed[i] ^= 1
		bad = append(bad, msl.Part{Data: changed, Signature: signature})
	}
	for _, p := range bad {
		plain, err := c.Open(ctx, []msl.Part{good, p, good})
		if f, ok := errors.AsType[msl.FailureError](err); !ok || len(plain) != 1 {
			t.Errorf("opened %x, %x: %q, %v", p.Data, p.Signature, plain, err)
		} else if class, _ := f.Failure(); class != msl.VerificationFailed {
			t.Errorf("%v", err)
		}
	}
	if _, err := c.Seal(ctx, [][]byte{data}); err == nil {
		t.Error("sealed with a public key")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if plain, err := c.Open(ended, []msl.Part{good}); err == nil {
		t.Errorf("opened %q after the end", plain)
	}
}

// TestOwnKeyPairs: the key pairs of this side are in custody, and what they sign is what peers verify.
func TestOwnKeyPairs(t *testing.T) {
	ctx := context.Background()
	custody := inproc.Agent(t)
	certified, err := fixtureX509("x_leaf")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := fixtureX509("x_leaf2") // whose key the agent does not have
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		entity msl.EntityAuthData
		want   msl.Code
	}{
		{certified, 0}, {msl.ECC("ec-srv", "ec-server-key"), 0},
		{stranger, msl.RSAPrivateKeyNotFound}, {msl.ECC("ec-srv", "nokey"), msl.ECCPrivateKeyNotFound}, {msl.ECC("ec-srv", ""), msl.ECCPrivateKeyNotFound},
		{msl.ECC("x", "../rsa/rsa-server-key"), msl.ECCPrivateKeyNotFound},
	} {
		cfg := vectorConfig()
		cfg.Entity = c.entity
		own, err := msl.OwnContext(ctx, cfg, custody)
		if c.want != 0 {
			if msl.CodeOf(err) != c.want {
				t.Errorf("%s: %v", c.entity.KeyID(), err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		parts, err := own.Seal(ctx, [][]byte{[]byte("data")})
		if err != nil {
			t.Fatal(err)
		}
		remote, _, err := msl.RemoteContext(ctx, cfg, custody, c.entity.Encoding())
		if err != nil {
			t.Fatal(err)
		}
		onlySigned(t, remote, parts[0].Data, parts[0].Signature)
	}
}

// TestIdentitiesOfTwoParts: policy judges the part that owns an identity, as the reference does, and the identity.
func TestIdentitiesOfTwoParts(t *testing.T) {
	for _, d := range []msl.EntityAuthData{
		msl.PSKProfile("revoked-entity", "x"), msl.PSKProfile("revoked", "entity"),
		msl.NoneSuffixed("revoked-entity", "x"), msl.None("revoked-entity"),
	} {
		_, _, err := msl.RemoteContext(context.Background(), vectorConfig(), inproc.Agent(t), d.Encoding())
		if msl.CodeOf(err) != msl.EntityRevoked {
			t.Errorf("%s: %v", d.Identity(), err)
		}
	}
}

// TestUnauthenticatedSchemes: by default the schemes that prove nothing are refused, and a name that nobody
// knows is no configuration.
func TestUnauthenticatedSchemes(t *testing.T) {
	cfg := vectorConfig()
	cfg.EntitySchemes = nil
	for name, encoded := range entityDocuments(t) {
		_, _, err := msl.RemoteContext(context.Background(), cfg, inproc.Agent(t), encoded)
		switch name {
		case "NONE", "NONE_SUFFIXED", "PROVISIONED", "MT_PROTECTED", "MT_PROTECTED-NONE":
			if msl.CodeOf(err) != msl.EntityAuthFactoryNotFound {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, change := range []func(*msl.Config){
		func(c *msl.Config) { c.EntitySchemes = []string{"PSK", "psk"} },
		func(c *msl.Config) { c.UserSchemes = []string{"EMAIL"} },
		func(c *msl.Config) { c.UserLogins = map[string]msl.UserLogin{"USER_ID_TOKEN": ticketLogin} },
		func(c *msl.Config) { c.UserLogins = map[string]msl.UserLogin{"OURS": nil} },
	} {
		cfg := vectorConfig()
		change(cfg)
		if _, err := msl.NewServer(cfg, inproc.Agent(t), handler(echo)); err == nil {
			t.Error("taken for a server")
		}
		if _, err := msl.NewClient(cfg, inproc.Agent(t), nil, nil); err == nil {
			t.Error("taken for a client")
		}
	}
}

// entityDocuments are good data of every scheme.
func entityDocuments(t testing.TB) map[string][]byte {
	documents := make(map[string][]byte)
	for _, c := range msltest.Cases(t, "entityauth.json") {
		if c.Group == "encode" {
			documents[c.Name] = c.Bytes("output")
		}
	}
	return documents
}

// TestTamperEntity changes every byte of the data of every scheme. What is still accepted is what was sent, or
// names another entity, which the signature of the message then does not fit.
func TestTamperEntity(t *testing.T) {
	cfg, custody := vectorConfig(), inproc.Agent(t)
	for name, encoded := range entityDocuments(t) {
		want, err := cfg.ParseRemote(context.Background(), custody, encoded)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sealed := want.Scheme == "MT_PROTECTED"
		for i := range encoded {
			for _, bit := range []byte{0x01, 0x20} {
				changed := slices.Clone(encoded)
				changed[i] ^= bit
				got, err := cfg.ParseRemote(context.Background(), custody, changed)
				if err == nil && sealed && (got.Scheme != want.Scheme || got.Identity() != want.Identity()) {
					t.Errorf("%s, byte %d: opened as %s %q", name, i, got.Scheme, got.Identity())
				}
				if err != nil && msl.CodeOf(err) == msl.InternalException {
					t.Errorf("%s, byte %d: %v", name, i, err)
				}
			}
		}
	}
}

// TestMTProtected: what is inside is judged as if it were outside, is not protected itself, and needs custody (§5.6,
// behaviour 68).
func TestMTProtected(t *testing.T) {
	ctx := context.Background()
	documents := entityDocuments(t)
	open := func(cfg *msl.Config, keys msl.EntityKeys, name string) (msl.EntityAuthData, error) {
		_, d, err := msl.RemoteContext(ctx, cfg, keys, documents[name])
		return d, err
	}
	cfg := vectorConfig()
	if d, err := open(cfg, inproc.Agent(t), "MT_PROTECTED-NONE"); err != nil || d.Identity() != "none-dev" || d.Scheme != "MT_PROTECTED" {
		t.Errorf("%s %q, %v", d.Scheme, d.Identity(), err)
	}
	cfg.EntitySchemes = []string{"PSK", "MT_PROTECTED"}
	if _, err := open(cfg, inproc.Agent(t), "MT_PROTECTED"); err != nil {
		t.Error(err)
	}
	if _, err := open(cfg, inproc.Agent(t), "MT_PROTECTED-NONE"); msl.CodeOf(err) != msl.EntityAuthFactoryNotFound {
		t.Errorf("NONE inside: %v", err)
	}
	if _, err := open(cfg, inproc.Strangers(t), "MT_PROTECTED"); msl.CodeOf(err) != msl.EntityAuthMasterTokenNotDecrypted {
		t.Errorf("a token of others: %v", err)
	}
	if _, err := open(cfg, &failingCustody{ServerKeys: inproc.Agent(t), after: 1}, "MT_PROTECTED"); msl.CodeOf(err) != msl.InternalException {
		t.Errorf("custody away: %v", err)
	}
	var token []byte
	for _, c := range msltest.Cases(t, "entityauth.json") {
		if c.Group == "encode" && c.Name == "MT_PROTECTED" {
			var fields struct {
				Token []byte `json:"master_token"`
			}
			c.Into("fields", &fields)
			token = fields.Token
		}
	}
	session := knownSession{inproc.Session(t)}
	earlier := &msl.State{MasterToken: token}
	twice, err := session.seal(ctx, token, documents["MT_PROTECTED"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.ParseRemote(ctx, inproc.Agent(t), twice); msl.CodeOf(err) != msl.UnsupportedEntityAuthData {
		t.Errorf("twice: %v", err)
	}
	once, err := msl.MTProtected(ctx, session, earlier, msl.PSK("psk-client"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := msl.MTProtected(ctx, session, earlier, once); err == nil {
		t.Error("protected twice")
	}
	for _, bad := range []*msl.State{{}, {MasterToken: []byte("{}")}} {
		if _, err := msl.MTProtected(ctx, session, bad, msl.PSK("psk-client")); err == nil {
			t.Error("protected without a token")
		}
	}
	if _, err := msl.MTProtected(ctx, session, earlier, msl.EntityAuthData{}); err == nil {
		t.Error("protected nothing")
	}
	// As our own, it goes with the keys of what is inside.
	cfg.Entity = once
	own, err := msl.OwnContext(ctx, cfg, inproc.Agent(t))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := own.Seal(ctx, [][]byte{[]byte("data")})
	if err != nil {
		t.Fatal(err)
	}
	remote, _, err := msl.RemoteContext(ctx, cfg, inproc.Agent(t), once.Encoding())
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := remote.Open(ctx, parts); err != nil || string(plain[0]) != "data" {
		t.Errorf("%q, %v", plain, err)
	}
	// What was parsed and not opened is nobody.
	if cfg.Entity, err = msl.ParseEntityAuthData(once.Encoding()); err != nil || cfg.Entity.Identity() != "" {
		t.Errorf("%q, %v", cfg.Entity.Identity(), err)
	}
	if _, err := msl.OwnContext(ctx, cfg, inproc.Agent(t)); err == nil {
		t.Error("unopened data is our own")
	}
}
