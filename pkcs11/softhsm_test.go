// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

// modulePaths are where distributions install SoftHSM.
var modulePaths = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"}

const testPIN = "canary-pin-4711"

// A hsm is SoftHSM in a folder of the test.
type hsm struct {
	dir, module, sum, pin string
}

// newHSM makes a token. The test is skipped if there is no SoftHSM.
func newHSM(t testing.TB) *hsm {
	t.Helper()
	h := &hsm{dir: t.TempDir()}
	for _, path := range modulePaths {
		if b, err := os.ReadFile(path); err == nil {
			sum := sha256.Sum256(b)
			h.module, h.sum = path, hex.EncodeToString(sum[:])
		}
	}
	if h.module == "" {
		t.Skip("SoftHSM is not installed (apt-get install softhsm2)")
	}
	h.pin = filepath.Join(h.dir, "pin")
	write(t, h.pin, testPIN+"\n")
	if err := os.Mkdir(filepath.Join(h.dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.dir, "softhsm2.conf"), "directories.tokendir = "+filepath.Join(h.dir, "tokens")+"\nlog.level = ERROR\n")
	t.Setenv("SOFTHSM2_CONF", filepath.Join(h.dir, "softhsm2.conf"))
	h.initToken(t, "keys")
	return h
}

func (h *hsm) initToken(t testing.TB, label string) {
	t.Helper()
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", testPIN, "--so-pin", "87654321").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
}

func (h *hsm) config() Config {
	return Config{Module: h.module, SHA256: h.sum, Token: "pkcs11:token=keys?pin-source=file:" + h.pin}
}

// open opens the token until the test ends.
func (h *hsm) open(t testing.TB, c Config) *Provider {
	t.Helper()
	p, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Config)
	}{
		{"Encrypting", func(*Config) {}},
		{"Wrapping", func(c *Config) { c.Wrapping = []string{"conformance/*"} }},
		{"PKCS1", func(c *Config) { c.AllowRSAPKCS1, c.Sessions = true, 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var config Config
			c.edit(&config)
			providertest.Run(t, func(t *testing.T) providers.Provider {
				h := newHSM(t)
				config := h.config()
				c.edit(&config)
				return h.open(t, config)
			}, providertest.Options{TooLarge: maxData + 1, NoPKCS1Decryption: !config.AllowRSAPKCS1})
		})
	}
}
