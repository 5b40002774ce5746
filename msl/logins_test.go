// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// ticketLogin is the application's way of authenticating a user in tests.
func ticketLogin(_ context.Context, entity string, authData []byte) (string, error) {
	switch {
	case strings.Contains(string(authData), "refused"):
		return "", msl.UserAuthVerificationFailed
	case strings.Contains(string(authData), "down"):
		return "user1", errors.New("the user store is down")
	case strings.Contains(string(authData), "nobody"):
		return "", nil
	}
	return "user-of-" + entity, nil
}

// TestUserLogins: schemes of the application's own (§6.4) are held to what all schemes are.
func TestUserLogins(t *testing.T) {
	ctx := context.Background()
	cfg := vectorConfig()
	cfg.UserSchemes = nil
	cfg.UserLogins = map[string]msl.UserLogin{"OURS": ticketLogin}
	for _, c := range []struct {
		entity, authData string
		encrypted        bool
		beside           *msl.UserIDToken
		user             string
		want             msl.Code
	}{
		{"psk-client", `{"ticket":1}`, true, nil, "user-of-psk-client", 0},
		{"psk-client", `{"ticket":1}`, true, &msl.UserIDToken{Verified: true, User: "user-of-psk-client"}, "user-of-psk-client", 0},
		{"psk-client", `{"ticket":1}`, true, &msl.UserIDToken{Verified: true, User: "user1"}, "", msl.UserIDTokenUserAuthDataMismatch},
		{"psk-client", `{"ticket":1}`, true, &msl.UserIDToken{User: "user-of-psk-client"}, "", msl.UserIDTokenUserAuthDataMismatch},
		{"psk-client", `{"ticket":1}`, false, nil, "", msl.UnencryptedMessageWithUserAuthData},
		{"unpermitted-entity", `{"ticket":1}`, true, nil, "", msl.UserAuthEntityIncorrectData},
		{"psk-client", `{"ticket":"refused"}`, true, nil, "", msl.UserAuthVerificationFailed},
		{"psk-client", `{"ticket":"down"}`, true, nil, "", msl.InternalException},
		{"psk-client", `{"ticket":"nobody"}`, true, nil, "", msl.InternalException},
		{"psk-client", `"ticket"`, true, nil, "", msl.MSLParseError},
	} {
		encoded := []byte(`{"scheme":"OURS","authdata":` + c.authData + `}`)
		user, err := msl.AuthenticateUser(ctx, cfg, nil, encoded, c.entity, c.encrypted, c.beside)
		if user != c.user || (err == nil) != (c.want == 0) || err != nil && msl.CodeOf(err) != c.want {
			t.Errorf("%+v: %q, %v", c, user, err)
		}
	}
	data, err := msl.ApplicationLogin("OURS", []byte(`{"ticket":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if user, err := msl.AuthenticateUser(ctx, cfg, nil, data.EncodeForTest(), "x", true, nil); user != "user-of-x" {
		t.Errorf("%q, %v", user, err)
	}
	for _, bad := range [][2]string{{"EMAIL_PASSWORD", "{}"}, {"OURS", ""}, {"OURS", "[]"}, {"OURS", "{} {}"}} {
		if _, err := msl.ApplicationLogin(bad[0], []byte(bad[1])); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	cfg.UserSchemes = []string{"EMAIL_PASSWORD"}
	if _, err := msl.AuthenticateUser(ctx, cfg, nil, data.EncodeForTest(), "x", true, nil); msl.CodeOf(err) != msl.UserAuthFactoryNotFound {
		t.Errorf("a scheme that is not named: %v", err)
	}
}

// TestEarlierUserIDToken: off unless named, only in encrypted messages, and nobody is logged in without custody (§6.3).
func TestEarlierUserIDToken(t *testing.T) {
	ctx := context.Background()
	var document []byte
	for _, c := range msltest.Cases(t, "userauth.json") {
		if c.Name == "token-good" {
			document = c.Bytes("document")
		}
	}
	for _, c := range []struct {
		name      string
		change    func(*msl.Config)
		tokens    msl.TokenOpener
		encrypted bool
		want      msl.Code
	}{
		{"good", func(*msl.Config) {}, inproc.Agent(t), true, 0},
		{"without a policy", func(c *msl.Config) { c.Policy = nil }, inproc.Agent(t), true, 0},
		{"not named", func(c *msl.Config) { c.UserSchemes = nil }, inproc.Agent(t), true, msl.UserAuthFactoryNotFound},
		{"another is named", func(c *msl.Config) { c.UserSchemes = []string{"EMAIL_PASSWORD"} }, inproc.Agent(t), true, msl.UserAuthFactoryNotFound},
		{"not encrypted", func(*msl.Config) {}, nil, false, msl.UnencryptedMessageWithUserAuthData},
		{"a side that issues nothing", func(*msl.Config) {}, nil, true, msl.UserAuthMasterTokenNotDecrypted},
		{"tokens of others", func(*msl.Config) {}, inproc.Strangers(t), true, msl.UserAuthMasterTokenNotDecrypted},
		{"custody away", func(*msl.Config) {}, &failingCustody{ServerKeys: inproc.Agent(t), after: 1}, true, msl.InternalException},
		{"custody away later", func(*msl.Config) {}, &failingCustody{ServerKeys: inproc.Agent(t), after: 2}, true, msl.InternalException},
		{"policy away", func(c *msl.Config) { c.Policy = brokenPolicy{c.Policy} }, inproc.Agent(t), true, msl.UserAuthUserIDTokenRevokeCheckError},
	} {
		cfg := vectorConfig()
		c.change(cfg)
		user, err := msl.AuthenticateUser(ctx, cfg, c.tokens, document, "psk-client", c.encrypted, nil)
		if (err == nil) != (c.want == 0) || err != nil && (msl.CodeOf(err) != c.want || user != "") || err == nil && user != "user1" {
			t.Errorf("%s: %q, %v", c.name, user, err)
		}
	}
}

// A brokenPolicy cannot say whether a user ID token is revoked.
type brokenPolicy struct{ msl.Policy }

func (brokenPolicy) UserIDToken(context.Context, string, *msl.UserIDToken) (msl.Code, error) {
	return 0, errors.New("down")
}

// TestProvisioned: an identity is made once a message, and only for a message that says so (§5.7).
func TestProvisioned(t *testing.T) {
	ctx := context.Background()
	asked := 0
	cfg := vectorConfig()
	cfg.Provision = func(context.Context) (string, error) {
		asked++
		return "made", nil
	}
	for _, c := range msltest.Cases(t, "messages.json") {
		if c.Group != "entity" && c.Group != "master-token" || c.String("receiver") != "server" {
			continue
		}
		asked = 0
		m, err := server(t, cfg).Open(ctx, strings.NewReader(string(c.Bytes("message"))))
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		m.Close()
		provisioned := strings.HasPrefix(c.Name, "PROVISIONED")
		if want := map[bool]int{true: 1}[provisioned]; asked != want || provisioned && m.Identity() != "made" {
			t.Errorf("%s: asked %d times, %q", c.Name, asked, m.Identity())
		}
	}
	for name, provision := range map[string]func(context.Context) (string, error){
		"nothing": nil,
		"down":    func(context.Context) (string, error) { return "x", errors.New("down") },
		"nobody":  func(context.Context) (string, error) { return "", nil },
	} {
		cfg.Provision = provision
		want := msl.InternalException
		if provision == nil {
			want = msl.EntityAuthFactoryNotFound
		}
		if _, _, err := msl.RemoteContext(ctx, cfg, nil, msl.Provisioned().Encoding()); msl.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzUserAuthData authenticates users with any data. Without custody nobody is logged in by tokens.
func FuzzUserAuthData(f *testing.F) {
	f.Add([]byte(`{"scheme":"OURS","authdata":{"a":1}}`))
	for _, c := range msltest.Cases(f, "userauth.json") {
		if d := c.Bytes("document"); d != nil {
			f.Add(d)
		}
	}
	cfg := vectorConfig()
	cfg.UserSchemes = append(cfg.UserSchemes, "OURS")
	cfg.UserLogins = map[string]msl.UserLogin{"OURS": ticketLogin}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		for _, encrypted := range []bool{true, false} {
			user, err := msl.AuthenticateUser(context.Background(), cfg, noIssuer{}, encoded, "e", encrypted, nil)
			if (user == "") == (err == nil) || !encrypted && err == nil {
				t.Errorf("%q, %v", user, err)
			}
			if err != nil && msl.CodeOf(err).Name() == "" {
				t.Errorf("an error without a code: %v", err)
			}
		}
	})
}
