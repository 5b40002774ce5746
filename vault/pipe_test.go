// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// The test binary is also the provider.
func TestMain(m *testing.M) {
	if !plugin.IsChild() {
		os.Exit(m.Run())
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(providers.ExitCode(err))
	}
}

func serve() error {
	plugin.Harden(false)
	var c Config
	if err := providers.ReadSettings(&c); err != nil {
		return err
	}
	p, err := Open(context.Background(), c)
	if err != nil {
		return err
	}
	return providers.Serve(p.Provider())
}

// A log is what a provider's process has written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// connect starts the provider as a process.
func connect(t testing.TB, settings map[string]any, l *log) *providers.Connection {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the provider says: %s", l)
		}
	})
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	c, err := providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum, Settings: b, Log: l, Env: []string{"GOCOVERDIR"}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func settingsOf(c Config) map[string]any {
	auth := map[string]any{"method": c.Auth.Method}
	for name, value := range map[string]string{"token": c.Auth.Token, "role-id": c.Auth.RoleID, "secret-id": c.Auth.SecretID} {
		if value != "" {
			auth[name] = value
		}
	}
	s := map[string]any{"address": c.Address, "auth": auth, "create": c.Create, "timeout": "2s"}
	if c.Keys != nil {
		s["keys"] = c.Keys
	}
	return s
}

func TestPipeConformance(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	t.Run("Transit", func(t *testing.T) {
		p := connect(t, settingsOf(configOf(t, v)), new(log)).Provider() // the parts of the suite use different names
		providertest.Run(t, func(*testing.T) providers.Provider { return p }, providertest.Options{TooLarge: maxData + 1})
	})
	t.Run("Wrapped", func(t *testing.T) {
		v.Do("POST", "transit/keys/root", `{"type":"aes256-gcm96"}`, nil)
		s := settingsOf(configOf(t, v))
		s["wrapped"] = map[string]any{"folder": t.TempDir(), "key": "root"}
		p := connect(t, s, new(log)).Provider()
		symmetric := []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256}
		providertest.Run(t, func(*testing.T) providers.Provider { return p }, providertest.Options{Generates: symmetric, Imports: symmetric})
	})
}

// TestNothingTold: whatever goes wrong, neither the process's output nor its errors have a secret.
func TestNothingTold(t *testing.T) {
	w := newWorld(t, vaulttest.Options{Storage: t.TempDir()}, `,"token_ttl":"1s","token_max_ttl":"1s"`)
	out := new(log)
	settings := settingsOf(w.config)
	settings["timeout"] = "300ms"
	p := connect(t, settings, out).Provider()
	k, err := p.Open(t.Context(), "entities", 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.(providers.Encrypter).Encrypt(t.Context(), providers.AEAD, nil, []byte(canary), nil)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	try := func() {
		for range 6 { // the breaker opens after five
			_, err := k.(providers.Decrypter).Decrypt(t.Context(), providers.AEAD, nil, c, nil)
			texts = append(texts, fmt.Sprint(err, p.(providers.HealthChecker).Health(t.Context())))
		}
	}
	w.proxy.answers(403, -1, "")
	try()
	w.proxy.answers(400, -1, "decrypt")
	try()
	w.proxy.answers(0, 0, "")
	w.Do("POST", "auth/approle/role/mslkeep/secret-id/destroy", fmt.Sprintf(`{"secret_id":%q}`, w.secretID), nil)
	w.Eventually("the token has ended", func() bool { try(); return strings.Contains(texts[len(texts)-1], "logging in") })
	w.Seal()
	try()
	w.Stop()
	try()
	all := out.String() + strings.Join(texts, "\n")
	if len(all) < 500 {
		t.Fatalf("hardly anything was told: %q", all)
	}
	for _, s := range []string{canary, w.secretID, w.Token, "hvs.", string(c[9:])} {
		if strings.Contains(all, s) {
			t.Errorf("%q was told:\n%s", s[:4], all)
		}
	}
}

// TestSlowThroughPipe: however slow Vault is, the provider answers in time, and is not killed.
func TestSlowThroughPipe(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	settings := settingsOf(w.config)
	conn := connect(t, settings, new(log))
	p, c := conn.Provider(), w.seal(t)
	pid := conn.PID()
	k, err := p.Open(t.Context(), "entities", 0)
	if err != nil {
		t.Fatal(err)
	}
	w.proxy.delays(time.Minute, "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // as the agent has it
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := k.(providers.Decrypter).Decrypt(ctx, providers.AEAD, nil, c, []byte("aad"))
			wantCode(t, "while Vault is slow", err, providers.Transient)
			if err != nil && strings.Contains(err.Error(), "killed") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("that took %v", took)
	}
	w.proxy.answers(0, 0, "")
	w.Eventually("it decrypts again", func() bool {
		_, err := k.(providers.Decrypter).Decrypt(t.Context(), providers.AEAD, nil, c, []byte("aad"))
		return err == nil
	})
	if conn.PID() != pid {
		t.Error("the provider was killed")
	}
}

// TestStartCauses: the agent learns why a provider does not start.
func TestStartCauses(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cause, change := range map[providers.StartCause]func(*Config){
		providers.CauseSettings:      func(c *Config) { c.Address = "http://vault.example" },
		providers.CauseDevice:        func(c *Config) { c.Address = "http://127.0.0.1:1" },
		providers.CauseSecretSource:  func(c *Config) { c.Auth.Token = "file:/nonexistent" },
		providers.CauseSecretRefused: func(c *Config) { c.Auth.Token = "file:" + write(t, "token", "hvs.wrong") },
	} {
		c := configOf(t, v)
		change(&c)
		b, err := json.Marshal(settingsOf(c))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum, Settings: b, Env: []string{"GOCOVERDIR"}})
		if err == nil {
			conn.Close()
		}
		if got := providers.CauseOf(err); got != cause || errors.Is(err, os.ErrNotExist) {
			t.Errorf("cause %d, want %d: %v", got, cause, err)
		}
	}
}
