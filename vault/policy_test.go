// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// TestPolicyIsEnough: with the policy, all that the configuration promises works, and nothing can be taken away from
// the policy.
func TestPolicyIsEnough(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	config := Config{Address: v.Address, Create: true, Keys: map[string]providers.KeyType{"entities/wrap": providers.AES256, "mac": providers.HMACSHA256,
		"sign": providers.ECP256, "rsa": providers.RSA2048}, Auth: Auth{Method: "approle", RoleID: "?", SecretID: "file:/?"}}
	policy, err := Policy(config)
	if err != nil {
		t.Fatal(err)
	}
	role, secretID := v.AppRole("exact", policy, "")
	config.Auth.RoleID, config.Auth.SecretID = role, "file:"+write(t, "secret-id", secretID(""))
	used := func(c Config) error {
		p, err := Open(t.Context(), c)
		if err != nil {
			return err
		}
		defer p.Close()
		return everything(t.Context(), p)
	}
	if err := used(config); err != nil {
		t.Fatal(err)
	}
	blocks := strings.SplitAfter(policy, "}\n")
	for i, b := range blocks[:len(blocks)-1] {
		if strings.Contains(b, "renew-self") || strings.Contains(b, "revoke-self") { // nothing fails at once without these
			continue
		}
		v.Policy("exact", strings.Join(slices.Concat(blocks[:i], blocks[i+1:]), ""))
		if err := used(config); err == nil {
			t.Errorf("all works without %s", b)
		}
	}
}

// everything does once all that the package can do in Vault.
func everything(ctx context.Context, p *Provider) error {
	for name, t := range p.config.Keys {
		if _, err := p.Generate(ctx, name, t); err != nil {
			return err
		}
		if _, err := p.Rotate(ctx, name); err != nil {
			return err
		}
		if err := p.Destroy(ctx, name, 1); err != nil {
			return err
		}
		k, err := p.Open(ctx, name, 0)
		if err == nil {
			err = try(ctx, k)
		}
		if err != nil {
			return err
		}
		switch k := k.(type) {
		case *aeadKey:
			for _, aad := range [][]byte{nil, []byte("aad")} {
				c, err := k.Encrypt(ctx, providers.AEAD, nil, []byte("x"), aad)
				if err == nil {
					c, err = k.Rewrap(ctx, c, aad)
				}
				if err == nil {
					_, err = k.Decrypt(ctx, providers.AEAD, nil, c, aad)
				}
				if err != nil {
					return err
				}
			}
		case *macKey:
			mac, err := k.MAC(ctx, []byte("x"))
			if err == nil {
				err = k.VerifyMAC(ctx, []byte("x"), mac)
			}
			if err != nil {
				return err
			}
		}
	}
	if _, err := p.Random(ctx, 16); err != nil {
		return err
	}
	if wide, err := p.Wide(ctx); err != nil || len(wide) > 0 {
		return failure(providers.Device, "wide: "+strings.Join(wide, "; "), err)
	}
	for name := range p.config.Keys {
		if err := p.Destroy(ctx, name, 2); err != nil {
			return err
		}
	}
	return nil
}

func TestWide(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	if wide, err := w.provider.Wide(t.Context()); err != nil || len(wide) > 0 {
		t.Fatalf("the exact policy is too wide: %q, %v", wide, err)
	}
	for more, want := range map[string]string{
		hcl("transit/encrypt/* create update"):            "a mistyped name makes a new key",
		hcl("transit/keys/* create read update"):          "keys of any name can be made",
		hcl("transit/decrypt/+ update"):                   "what other keys have encrypted",
		hcl("transit/export/encryption-key/* read"):       "taken out",
		hcl("transit/keys/entities/config update"):        "exportable",
		hcl("transit/encrypt/entities create"):            "made anew",
		hcl("sys/policies/acl/* create update"):           "policies can be written",
		hcl("auth/token/create create update sudo"):       "tokens can be made",
		hcl("transit/keys/entities create update delete"): "no create",
	} {
		w.Policy("mslkeep", w.policy+more)
		wide, err := w.provider.Wide(t.Context())
		if err != nil || !slices.ContainsFunc(wide, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%s is not pointed out: %q, %v", more, wide, err)
		}
	}
	w.Policy("mslkeep", strings.ReplaceAll(w.policy, "sys/capabilities-self", "sys/none"))
	_, err := w.provider.Wide(t.Context())
	wantCode(t, "not being allowed to ask", err, providers.Denied)
}

// TestTypo: with the exact policy, a name that is not there makes no key. Vault does make one for a token with create.
func TestTypo(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	config := w.config
	config.Keys = map[string]providers.KeyType{"entitise": providers.AES256}
	refused(t, "a mistyped key", config, providers.Denied)
	if err := w.As(w.Token, "GET", "transit/keys/entitise", "", nil); err == nil {
		t.Error("a key was made")
	}
}

func TestNoPolicyForAll(t *testing.T) {
	_, err := Policy(Config{Address: "https://vault:8200", Auth: Auth{Method: "token", Token: "file:/x"}})
	wantCode(t, "a policy for all keys", err, providers.Malformed)
}
