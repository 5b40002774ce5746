// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// buildVault builds the provider for Vault beside the other binaries, once.
var buildVault = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", binaries+"/", "../mslkeep-provider-vault")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

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
// rotations, as they stand there, but for the port.
func TestVaultDocument(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed (apt-get install curl)")
	}
	v := newVault(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "vault.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	for _, block := range blocks {
		script.WriteString(block[1])
	}
	if n := len(blocks); n != 13 {
		t.Errorf("%d blocks of commands, not what comes first, ten, and two rotations", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	commands := strings.NewReplacer(
		"send --example >", "send --example | sed s/:8080/:"+port+"/ >",
		"serve --example |", "serve --example | sed s/:8080/:"+port+"/ |",
		// A person does not type the next command before a service says that it is there.
		"--manage &\n", "--manage &\nuntil [ -S server/socket ]; do kill -0 $!; sleep 0.1; done\n",
		"serve.toml &\n", "serve.toml > serving &\nuntil grep -q http serving; do kill -0 $!; sleep 0.1; done\n",
	).Replace(script.String())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", "trap 'kill $(jobs -p); wait' EXIT\n"+commands)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"), "VAULT_ADDR="+v.Address, "VAULT_CACERT="+v.CA, "VAULT_TOKEN="+v.Token)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"\nhello", "hello again", "and again", "1 sealed anew"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %q", want)
		}
	}
	for _, not := range []string{"the policy is too wide", "is spent", v.Token} {
		if strings.Contains(string(out), not) {
			t.Errorf("there is %q", not)
		}
	}
	if !regexp.MustCompile(`device-1 +vault:entities +2\n`).Match(out) {
		t.Error("the record was not wrapped anew")
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", out)
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
	var key struct{ Data struct{ Type string } }
	if v.Do("GET", "transit/keys/token-keys.mac", "", &key); key.Data.Type != "hmac" {
		t.Errorf("in Vault, the key for MACs is of type %q", key.Data.Type)
	}
	w.edit("server/agent.toml", "method = \"approle\"", "method = \"approle\"\nrole = \"mslkeep\"\nwrapped = true")
	w.mslkeep("vault", "policy", "--agent-config", w.path("server/agent.toml"), "--check").oneLine(t, exitFailure, "would spend")
}
