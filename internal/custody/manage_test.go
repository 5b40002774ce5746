// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

func TestNew(t *testing.T) {
	software := fixtureProvider(t)
	for name, cfg := range map[string]Config{
		"no provider":       {},
		"no token keys":     {Provider: software, TokenKeys: "missing"},
		"no storage key":    {Provider: software, StorageKey: "missing"},
		"storage key":       {Provider: software, StorageKey: "tokens.enc"},
		"pre-shared tokens": {Provider: software, TokenKeys: "psk/psk-client"},
		"service tokens":    {Provider: software, TokenKeys: "service/secure"},
		"limits":            {Provider: software, Limits: Limits{Sessions: -1}},
	} {
		if _, err := New(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(t.Context(), Config{Provider: software}); err != nil {
		t.Error(err)
	}
}

func TestKeyName(t *testing.T) {
	names := make(map[string]string)
	for _, id := range []string{"a", "a/b", "a%2Fb", "a b", "a+b", "..", "../x", "ü", "a.enc", "a\x00", "A"} {
		name, err := KeyName("psk/", id)
		if err != nil {
			t.Errorf("%q: %v", id, err)
		}
		if rest := strings.TrimPrefix(name, "psk/"); strings.ContainsAny(rest, "/ \x00") || names[name] != "" {
			t.Errorf("%q and %q are %q", id, names[name], name)
		}
		names[name] = id
	}
	for _, id := range []string{"", "\xff", strings.Repeat("x", 513)} {
		if _, err := KeyName("psk/", id); err == nil {
			t.Errorf("%q has a name", id)
		}
	}
}

// TestRotation: old tokens open, new ones are of the new version, and no session is lost.
func TestRotation(t *testing.T) {
	software := fixtureProvider(t)
	clock := newClock()
	start := func() *Peer {
		return newPeer(t, newAgent(t, func(c *Config) { c.Provider, c.Now = software, clock.Now }))
	}
	p, other := start(), start()
	before, _ := exchanged(t, p)
	changed := ask[*wire.ChangedKeysReply](t, p, &wire.RotateKeyRequest{Name: "tokens"})
	if len(changed.Keys) != 3 || changed.Keys[0].Version != 2 || changed.Keys[0].Name != "tokens.enc" {
		t.Errorf("%+v", changed)
	}
	after, _ := exchanged(t, p)
	for _, token := range []wire.Token{before.Token, after.Token} {
		if !ask[*wire.OpenMasterTokenReply](t, start(), &wire.OpenMasterTokenRequest{Token: token}).Verified {
			t.Error("a token of either version does not open")
		}
	}
	live(t, p, before.Session)
	// An agent that has not heard of the rotation finds out.
	clock.advance(2 * time.Second)
	if !ask[*wire.OpenMasterTokenReply](t, other, &wire.OpenMasterTokenRequest{Token: after.Token}).Verified {
		t.Error("a rotation by another process is not noticed")
	}
	// A rotation that broke off leaves a key of one kind.
	if _, err := software.Rotate(t.Context(), "tokens.mac"); err != nil {
		t.Fatal(err)
	}
	late := start()
	for _, token := range []wire.Token{before.Token, after.Token} {
		if !ask[*wire.OpenMasterTokenReply](t, late, &wire.OpenMasterTokenRequest{Token: token}).Verified {
			t.Error("a broken-off rotation loses tokens")
		}
	}
	exchanged(t, late)
}

func TestGenerateAndList(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	made := ask[*wire.ChangedKeysReply](t, p, &wire.GenerateKeyRequest{Name: "new/set", Type: "keyset"})
	if len(made.Keys) != 3 {
		t.Errorf("%+v", made)
	}
	ask[*wire.ChangedKeysReply](t, p, &wire.GenerateKeyRequest{Name: "new/one", Type: "ec-p256"})
	listed := ask[*wire.KeysReply](t, p, &wire.KeysRequest{Prefix: "new/"})
	var names []string
	for _, k := range listed.Keys {
		names = append(names, k.Name)
	}
	if got := strings.Join(names, " "); got != "new/one new/set.enc new/set.mac new/set.wrap" {
		t.Error(got)
	}
	if r := ask[*wire.PublicKeyReply](t, p, &wire.PublicKeyRequest{Name: "new/one"}); len(r.SPKI) == 0 || r.Key.Version != 1 {
		t.Errorf("%+v", r)
	}
	for _, req := range []wire.Request{
		&wire.GenerateKeyRequest{Name: "new/one", Type: "aes-128"}, &wire.GenerateKeyRequest{Name: "a b", Type: "aes-128"},
		&wire.GenerateKeyRequest{Name: "", Type: "aes-128"}, &wire.GenerateKeyRequest{Name: "x", Type: "des"},
		&wire.RotateKeyRequest{Name: "missing"}, &wire.PublicKeyRequest{Name: "tokens.enc"}, &wire.PublicKeyRequest{Name: "missing"},
	} {
		if _, err := p.Handle(t.Context(), req); err == nil {
			t.Errorf("%+v is accepted", req)
		} else if _, ok := err.(*wire.Error); !ok {
			t.Errorf("%+v: %T", req, err)
		}
	}
	// A set of which one key is there already is not made by halves.
	ask[*wire.ChangedKeysReply](t, p, &wire.GenerateKeyRequest{Name: "half.wrap", Type: "aes-128"})
	if _, err := try[*wire.ChangedKeysReply](p, &wire.GenerateKeyRequest{Name: "half", Type: "psk"}); !errors.Is(err, wire.Malformed) {
		t.Error(err)
	}
	if left := ask[*wire.KeysReply](t, p, &wire.KeysRequest{Prefix: "half"}); len(left.Keys) != 1 {
		t.Errorf("%+v", left)
	}
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k := fixtures().PSK["psk-client"]
	both := unhex(k.EncryptionKey + k.HMACKey)
	der, err := base64.StdEncoding.DecodeString(fixtures().Pairs["rsa_client"].PKCS8)
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, newAgent(t, func(c *Config) { c.Stdin = strings.NewReader(k.EncryptionKey + "\n") }))
	for name, req := range map[string]*wire.ImportKeyRequest{
		"hex":       {Type: "aes-128", Path: write("hex", []byte(k.EncryptionKey+"\n"))},
		"base64":    {Type: "hmac-sha256", Path: write("base64", []byte(base64.StdEncoding.EncodeToString(unhex(k.HMACKey))))},
		"base64url": {Type: "hmac-sha256", Path: write("base64url", []byte(base64.RawURLEncoding.EncodeToString(unhex(k.HMACKey)))), Format: "base64"},
		"jwk":       {Type: "aes-128", Path: write("jwk", []byte(`{"kty":"oct","k":"`+base64.RawURLEncoding.EncodeToString(unhex(k.EncryptionKey))+`"}`))},
		"stdin":     {Type: "aes-128", Path: "-", Format: "hex"},
		"der":       {Type: "rsa-2048", Path: write("der", der)},
		"pem":       {Type: "rsa-2048", Path: write("pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), Format: "pkcs8"},
		"psk48":     {Type: "psk", Path: write("psk48", []byte(hex.EncodeToString(both)))},
		"psk64":     {Type: "keyset", Path: write("psk64", []byte(base64.StdEncoding.EncodeToString(append(bytes.Clone(both), unhex(k.WrappingKey)...))))},
	} {
		req.Name = "imported/" + name
		r := ask[*wire.ChangedKeysReply](t, p, req)
		if want := 1 + 2*strings.Count(name, "psk"); len(r.Keys) != want {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Both forms of the pre-shared keys are the same keys, derived wrapping key included.
	for _, suffix := range []string{encSuffix, macSuffix, wrapSuffix} {
		key, err := p.agent.provider.Open(t.Context(), "imported/psk48"+suffix, 0)
		if err != nil {
			t.Fatal(err)
		}
		other, err := p.agent.provider.Open(t.Context(), "imported/psk64"+suffix, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !sameKey(t, key, other) {
			t.Errorf("%s differs", suffix)
		}
	}
	for name, req := range map[string]*wire.ImportKeyRequest{
		"missing":   {Type: "aes-128", Path: filepath.Join(dir, "missing")},
		"directory": {Type: "aes-128", Path: dir},
		"device":    {Type: "aes-128", Path: "/dev/zero"},
		"too long":  {Type: "aes-128", Path: write("long", make([]byte, maxImport+1))},
		"empty":     {Type: "aes-128", Path: write("empty", nil)},
		"size":      {Type: "aes-256", Path: filepath.Join(dir, "hex")},
		"format":    {Type: "aes-128", Path: filepath.Join(dir, "hex"), Format: "jwk"},
		"type":      {Type: "rsa-4096", Path: filepath.Join(dir, "der")},
		"taken":     {Name: "tokens.enc", Type: "aes-128", Path: filepath.Join(dir, "hex")},
		"set":       {Type: "keyset", Path: filepath.Join(dir, "hex")},
		"stdin":     {Type: "aes-128", Path: "-"}, // at its end
	} {
		if req.Name == "" {
			req.Name = "bad/" + strings.ReplaceAll(name, " ", "-")
		}
		if _, err := try[*wire.ChangedKeysReply](p, req); !errors.Is(err, wire.Malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := ask[*wire.KeysReply](t, p, &wire.KeysRequest{Prefix: "bad/"}); len(left.Keys) != 0 {
		t.Errorf("%+v", left)
	}
}

func sameKey(t *testing.T, a, b providers.Key) bool {
	use := func(k providers.Key) (out []byte, err error) {
		if mac, ok := k.(providers.MACer); ok {
			return mac.MAC(t.Context(), []byte("x"))
		}
		return k.(providers.Encrypter).Encrypt(t.Context(), providers.AESCBC, make([]byte, 16), []byte("x"), nil)
	}
	x, err := use(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := use(b)
	return err == nil && bytes.Equal(x, y)
}

func TestHealthAndKeyLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := secret.OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, func(c *Config) { c.KeyLog, c.Findings = log, []wire.Finding{{Name: "core dumps", Detail: "no"}} })
	p := newPeer(t, a)
	issued, finished := exchanged(t, p)
	r := ask[*wire.HealthReply](t, p, &wire.HealthRequest{})
	if r.Sessions != 2 || r.Entities != 1 || len(r.Findings) != 4 || r.Findings[0].OK || !r.Findings[1].OK {
		t.Errorf("%+v", r)
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []wire.Handle{issued.Session, finished.Session} {
		e := p.sessions.acquire(h)
		for label, key := range map[string]*secret.Bytes{"session-enc_psk-client": e.value.keys.enc, "session-mac_psk-client": e.value.keys.mac} {
			if line := label + " " + hex.EncodeToString(secret.Reveal(key)) + "\n"; !bytes.Contains(written, []byte(line)) {
				t.Errorf("%s is not in the key log", label)
			}
		}
		p.sessions.release(e, 0, 0)
	}
}
