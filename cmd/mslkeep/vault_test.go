// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

var buildVault = buildOnce("mslkeep-provider-vault", "0")

// newVault starts an empty Vault.
func newVault(t *testing.T) *vaulttest.Server {
	t.Helper()
	if err := buildVault(); err != nil {
		t.Fatal(err)
	}
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	v.Do("DELETE", "sys/mounts/transit", "", nil)
	return v
}

// TestVaultDocument runs the commands with which docs/vault.md leads from an empty Vault to a running server, and the
// rotations: what comes first, ten steps, and two rotations. In the end the record is wrapped anew.
func TestVaultDocument(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed (apt-get install curl)")
	}
	v := newVault(t)
	script := onFreePort(t, strings.Join(blocksOf(t, "docs/vault.md", 13), ""), "8080")
	script = whenReady(script, "--manage", "[ -S server/socket ]")
	script = whenReady(script, "serve.toml", serves)
	out := runScript(t, t.TempDir(), script, []string{"VAULT_ADDR=" + v.Address, "VAULT_CACERT=" + v.CA, "VAULT_TOKEN=" + v.Token},
		"\nhello", "hello again", "and again", "1 sealed anew", `device-1 +vault:entities +2\n`)
	for _, not := range []string{"the policy is too wide", "is spent", v.Token} {
		if strings.Contains(out, not) {
			t.Errorf("there is %q", not)
		}
	}
}

// TestVaultPolicy: the policy is enough, and the check says what another one lacks, and what it allows too much.
func TestVaultPolicy(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.Do("POST", "sys/mounts/transit", `{"type":"transit"}`, nil)
	v.Do("POST", "transit/keys/entities", `{"type":"aes256-gcm96"}`, nil)
	w := newWorld(t)
	section := w.mslkeep("provider", "hash", "--name", "roots", filepath.Join(binaries, "mslkeep-provider-vault")).ok(t)
	configure := func(more string) {
		w.write("server/vault.toml", w.read("server/agent.toml")+section+fmt.Sprintf(`[providers.settings]
address = %q
ca = %q
keys = { entities = "aes-256" }
[providers.settings.auth]
method = "token"
token = "file:%s"
%s`, v.Address, v.CA, w.path("token"), more))
	}
	configure("")
	policy := func(args ...string) result {
		return w.mslkeep(append([]string{"vault", "policy", "--agent-config", w.path("server/vault.toml"), "--name", "roots"}, args...)...)
	}
	exact := policy().ok(t)
	if strings.Contains(exact, "create") || strings.Contains(exact, "*") || !strings.Contains(exact, `"transit/decrypt/entities"`) {
		t.Errorf("the policy is %s", exact)
	}
	for _, c := range []struct {
		policy, says string
		code         int
	}{
		{exact, "nothing else that was looked for", 0},
		{exact + "path \"transit/encrypt/*\" {\n capabilities = [\"create\", \"update\"]\n}\n", "too much: create on transit/encrypt/typo-", exitFailure},
		{strings.ReplaceAll(exact, "transit/rewrap/", "transit/other/"), "lacking: update on transit/rewrap/entities", exitFailure},
	} {
		v.Policy("some", c.policy)
		var made struct {
			Auth struct {
				Token string `json:"client_token"`
			}
		}
		v.Do("POST", "auth/token/create", `{"policies":["some"],"no_default_policy":true}`, &made)
		w.write("token", made.Auth.Token+"\n")
		r := policy("--check")
		if r.code != c.code || !strings.Contains(r.out, c.says) || strings.Contains(r.out+r.err, made.Auth.Token) {
			t.Errorf("%q was to be said: %+v", c.says, r)
		}
		if c.code != 0 {
			r.out = ""
			r.oneLine(t, c.code, "provider roots")
		}
	}
	w.write("token", v.Token+"\n")
	if r := policy("--check"); r.code != exitFailure || !strings.Contains(r.out, "root") {
		t.Errorf("with root's token: %+v", r)
	}
	configure("mount = \"no/../mount\"\n") // of auth
	policy().oneLine(t, exitFailure, "provider roots")
	w.mslkeep("vault", "policy", "--agent-config", w.path("server/vault.toml")).oneLine(t, exitConfig, `"vault"`)
	w.mslkeep("vault", "policy", "--agent-config", w.path("server/none.toml")).oneLine(t, exitConfig)
	for _, args := range [][]string{{}, {"policy"}, {"write", "--agent-config", "x"}, {"policy", "x", "--agent-config", "y"}, {"policy", "--agent-config", "x", "--name", ""}} {
		w.mslkeep(append([]string{"vault"}, args...)...).oneLine(t, exitUsage)
	}
}

// TestVaultMACs: token keys of which Vault itself makes the MACs seal tokens, and are rotated with the others.
func TestVaultMACs(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.Do("POST", "sys/mounts/transit", `{"type":"transit"}`, nil)
	v.Do("POST", "transit/keys/wrapping", `{"type":"aes256-gcm96"}`, nil)
	w := newWorld(t)
	w.edit("server/agent.toml", `token-keys = "token-keys"`, `token-keys = "vault:token-keys"`)
	if err := os.Mkdir(w.path("wrapped"), 0o700); err != nil {
		t.Fatal(err)
	}
	role, secretID := v.AppRole("mslkeep", "path \"none\" {\n capabilities = [\"read\"]\n}\n", "")
	w.write("secret-id", secretID(""))
	section := w.mslkeep("provider", "hash", "--name", "vault", filepath.Join(binaries, "mslkeep-provider-vault")).ok(t)
	w.write("server/agent.toml", w.read("server/agent.toml")+section+fmt.Sprintf(`[providers.settings]
address = %q
ca = %q
create = true
keys = { "token-keys.mac" = "hmac-sha256" }
wrapped = { folder = %q, key = "wrapping", names = ["token-keys.enc", "token-keys.wrap"] }
[providers.settings.auth]
method = "approle"
role-id = %q
secret-id = "file:%s"
`, v.Address, v.CA, w.path("wrapped"), role, w.path("secret-id")))
	v.Policy("mslkeep", w.mslkeep("vault", "policy", "--agent-config", w.path("server/agent.toml")).ok(t))
	execute(t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(t)
	if out := w.mslkeep("vault", "policy", "--agent-config", w.path("server/agent.toml"), "--check").ok(t); !strings.Contains(out, "nothing else") {
		t.Errorf("the check says %s", out)
	}
	w.send("device-1", w.serve(), "hello").ok(t)
	if out := w.mslkeep("keys", "rotate", "--agent-config", w.path("server/agent.toml"), "vault:token-keys").ok(t); strings.Count(out, " 2 ") != 3 {
		t.Errorf("rotated: %s", out)
	}
	w.send("device-1", w.serve(), "hello").ok(t)
	for _, command := range [][]string{{"doctor"}, {"keys", "health"}} {
		out := w.mslkeep(append(command, "--agent-config", w.path("server/agent.toml"))...).ok(t)
		if !regexp.MustCompile(`\(unsealed, a token for 76[0-9]h[0-9ms]+; token-keys.mac: versions 1 to 2, made with from 1 on\)`).MatchString(out) {
			t.Errorf("%s tells neither seal, nor the token's life, nor versions: %s", command, out)
		}
	}
	var key struct{ Data struct{ Type string } }
	if v.Do("GET", "transit/keys/token-keys.mac", "", &key); key.Data.Type != "hmac" {
		t.Errorf("in Vault, the key for MACs is of type %q", key.Data.Type)
	}
	w.edit("server/agent.toml", "method = \"approle\"", "method = \"approle\"\nrole = \"mslkeep\"\nwrapped = true")
	w.mslkeep("vault", "policy", "--agent-config", w.path("server/agent.toml"), "--check").oneLine(t, exitFailure, "would spend")
}
