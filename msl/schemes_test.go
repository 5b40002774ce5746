// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestRSAEntities: an entity may claim the identities that the configuration gives its key and no other, keys
// are large enough, and only what they signed is opened (§5.4, behaviours 25 and 66).
func TestRSAEntities(t *testing.T) {
	ctx := context.Background()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PublicKey{N: inproc.SmallModulus(), E: 65537}
	cfg := &msl.Config{
		RSAPublicKeys: map[string]*rsa.PublicKey{"key": &private.PublicKey, "alone": &private.PublicKey, "small": small, "empty": {}},
		RSAIdentities: map[string][]string{"key": {"a", "b"}, "small": {"a"}, "empty": {"a"}},
		PublicKey:     found(map[string]crypto.PublicKey{"enrolled": &private.PublicKey, "of another type": private}),
	}
	for _, c := range []struct {
		identity, key string
		want          msl.Code
	}{
		{"a", "key", 0}, {"b", "key", 0}, {"c", "key", msl.IncorrectEntityAuthData}, {"", "key", msl.IncorrectEntityAuthData},
		{"alone", "alone", 0}, {"a", "alone", msl.IncorrectEntityAuthData},
		{"enrolled", "enrolled", 0}, {"a", "enrolled", msl.IncorrectEntityAuthData}, {"of another type", "of another type", msl.RSAPublicKeyNotFound},
		{"down", "down", msl.InternalException},
		{"a", "nokey", msl.RSAPublicKeyNotFound}, {"a", "small", msl.InvalidPublicKey}, {"a", "empty", msl.InvalidPublicKey},
	} {
		context, _, err := msl.RemoteContext(ctx, cfg, nil, msl.RSA(c.identity, c.key).Encoding())
		if (err == nil) != (c.want == 0) || err != nil && msl.CodeOf(err) != c.want {
			t.Errorf("%q with key %q: %v", c.identity, c.key, err)
		}
		if err != nil {
			continue
		}
		data := []byte("data")
		digest := sha256.Sum256(data)
		signature, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []struct {
			data, signature []byte
			ok              bool
		}{{data, signature, true}, {[]byte("other"), signature, false}, {data, signature[1:], false}, {data, nil, false}} {
			plain, err := context.Open(ctx, []msl.Part{{Data: s.data, Signature: s.signature}})
			if s.ok != (err == nil) || s.ok && !bytes.Equal(plain[0], data) || !s.ok && len(plain) > 0 {
				t.Errorf("opened %q: %q, %v", s.data, plain, err)
			}
		}
		if _, err := context.Seal(ctx, [][]byte{data}); err == nil {
			t.Error("sealed with a public key")
		}
	}
}

// TestOwnRSAKey: this side's key is in custody (§5.4).
func TestOwnRSAKey(t *testing.T) {
	ctx := context.Background()
	cfg := vectorConfig()
	cfg.Entity = msl.RSA("rsa-srv", "rsa-server-key")
	custody := inproc.Agent(t)
	own, err := msl.OwnContext(ctx, cfg, custody)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := own.Seal(ctx, [][]byte{[]byte("data")})
	if err != nil {
		t.Fatal(err)
	}
	remote, _, err := msl.RemoteContext(ctx, cfg, custody, cfg.Entity.Encoding())
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := remote.Open(ctx, parts); err != nil || string(plain[0]) != "data" {
		t.Errorf("%q, %v", plain, err)
	}
	cfg.Entity = msl.RSA("rsa-srv", "nokey")
	if _, err := msl.OwnContext(ctx, cfg, custody); msl.CodeOf(err) != msl.RSAPrivateKeyNotFound {
		t.Errorf("got %v", err)
	}
}

// found is a Config.PublicKey that knows some keys, and fails for the key "down".
func found(keys map[string]crypto.PublicKey) func(context.Context, string) (crypto.PublicKey, error) {
	return func(_ context.Context, id string) (crypto.PublicKey, error) {
		if id == "down" {
			return nil, errors.New("down")
		}
		return keys[id], nil
	}
}

// TestOwnEntity: a configuration without this side's data, or with data that no constructor made, is refused.
func TestOwnEntity(t *testing.T) {
	for _, d := range []msl.EntityAuthData{{}, {Scheme: "NONE"}, {Scheme: "X509"}, {Scheme: "MAGIC"}} {
		if _, err := msl.OwnContext(context.Background(), &msl.Config{Entity: d}, nil); err == nil {
			t.Errorf("%+v is accepted", d)
		}
	}
}

// TestCredentialsAreUnprintable: no verb prints a password.
func TestCredentialsAreUnprintable(t *testing.T) {
	d := msl.EmailPassword("user@example.com", "hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{d, *d, []any{d}, struct{ D *msl.UserAuthData }{d}, struct{ D msl.UserAuthData }{*d}} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, "hunter2") || strings.Contains(s, "user@") || strings.Contains(s, "104 117 110") {
				t.Errorf("%s prints %s", verb, s)
			}
		}
	}
}

// failingUsers is a user store that is down.
type failingUsers struct{}

func (failingUsers) EmailPassword(context.Context, string, string, string) (string, bool, error) {
	return "user1", true, errors.New("down")
}

// TestUserStoreFails: nobody is logged in by a user store that fails, and it is not the user's fault.
func TestUserStoreFails(t *testing.T) {
	cfg := vectorConfig()
	cfg.Users = failingUsers{}
	user, err := msl.AuthenticateUser(context.Background(), cfg, nil, msl.EmailPassword("a", "b").EncodeForTest(), "psk-client", true, nil)
	if user != "" || msl.CodeOf(err) != msl.InternalException {
		t.Errorf("%q, %v", user, err)
	}
	_, err = msl.AuthenticateUser(context.Background(), vectorConfig(), nil, msl.EmailPassword("user1@example.com", "pass-1").EncodeForTest(), "psk-client", true, &msl.UserIDToken{User: "user1"})
	if msl.CodeOf(err) != msl.UserIDTokenUserAuthDataMismatch {
		t.Errorf("beside a token that was not verified: %v", err)
	}
}

// keyRequest begins an exchange as a client does.
func keyRequest(t *testing.T, scheme, mechanism string) msl.KeyRequest {
	t.Helper()
	p, err := inproc.Agent(t).BeginExchange(context.Background(), scheme, mechanism, "psk-client", nil)
	if err != nil {
		t.Fatal(err)
	}
	return msl.KeyRequest{Scheme: scheme, KeyData: p.KeyData()}
}

// TestChoiceOfKeyExchange: the server's preference decides, failing requests are passed over, and if nothing
// works the first failure is told (§7.7).
func TestChoiceOfKeyExchange(t *testing.T) {
	ctx := context.Background()
	jwe, jwk := keyRequest(t, "ASYMMETRIC_WRAPPED", "JWE_RSA"), keyRequest(t, "ASYMMETRIC_WRAPPED", "JWK_RSA")
	psk := keyRequest(t, "SYMMETRIC_WRAPPED", "PSK")
	session := msl.KeyRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: []byte(`{"keyid":"SESSION"}`)}
	dh := msl.KeyRequest{Scheme: "DIFFIE_HELLMAN", KeyData: []byte(`{"parametersid":"x","publickey":"AAEC"}`)}
	exchange := func(names ...string) (k []msl.KeyExchange) {
		for _, n := range names {
			scheme, mechanism, _ := strings.Cut(n, "/")
			k = append(k, msl.KeyExchange{Scheme: scheme, Mechanism: mechanism})
		}
		return k
	}
	for _, c := range []struct {
		name     string
		own      []msl.KeyExchange
		requests []msl.KeyRequest
		want     string
		refused  msl.Code
	}{
		{"by default pre-shared keys first", nil, []msl.KeyRequest{jwk, jwe, psk}, "SYMMETRIC_WRAPPED", 0},
		{"own order", exchange("ASYMMETRIC_WRAPPED/JWK_RSA", "SYMMETRIC_WRAPPED/PSK"), []msl.KeyRequest{psk, jwk}, "ASYMMETRIC_WRAPPED", 0},
		{"only what is allowed", exchange("ASYMMETRIC_WRAPPED/JWK_RSA"), []msl.KeyRequest{psk, jwe}, "", msl.KeyxFactoryNotFound},
		{"unknown ones are passed over", nil, []msl.KeyRequest{dh, jwe}, "ASYMMETRIC_WRAPPED", 0},
		{"nothing but unknown ones", nil, []msl.KeyRequest{dh}, "", msl.KeyxFactoryNotFound},
		{"failing ones are passed over", exchange("SYMMETRIC_WRAPPED/SESSION", "ASYMMETRIC_WRAPPED/JWE_RSA"), []msl.KeyRequest{session, jwe}, "ASYMMETRIC_WRAPPED", 0},
	} {
		cfg := vectorConfig()
		cfg.KeyExchanges = c.own
		o := server(t, cfg)
		m, err := o.Open(ctx, bytes.NewReader(pskMessage(t, o, c.requests)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		h, _, err := msl.Respond(ctx, cfg, o.Tokens.(msl.ServerKeys), m, io.Discard, []byte("answer"))
		if msl.CodeOf(err) != c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (h.KeyResponse == nil || h.KeyResponse.Scheme != c.want) {
			t.Errorf("%s: answered %+v", c.name, h.KeyResponse)
		}
	}
}

// pskMessage is a renewable message of psk-client.
func pskMessage(t *testing.T, o *msl.Opener, requests []msl.KeyRequest) []byte {
	t.Helper()
	ctx := context.Background()
	cfg := vectorConfig()
	cfg.Entity = msl.PSK("psk-client")
	own, err := msl.OwnContext(ctx, cfg, o.Entities)
	if err != nil {
		t.Fatal(err)
	}
	h := msl.NewHeaderData(cfg, 5)
	h.Renewable, h.KeyRequests = true, requests
	var out bytes.Buffer
	w, err := msl.NewMessageWriter(ctx, &out, &msl.Outgoing{Header: h, Entity: cfg.Entity, Context: own})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "request")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
