// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// Each thing that can be wrong at the start has a code and a text of its own.
func TestStart(t *testing.T) {
	h := newHSM(t)
	texts := make(map[string]string)
	for _, c := range []struct {
		name string
		code providers.Code
		edit func(*Config)
	}{
		{"no module", providers.Device, func(c *Config) { c.Module += ".none" }},
		{"relative path", providers.Malformed, func(c *Config) { c.Module = "libsofthsm2.so" }},
		{"not a library", providers.Device, func(c *Config) { c.Module, c.SHA256 = h.textFile(t) }},
		{"another hash", providers.Denied, func(c *Config) { c.SHA256 = strings.Repeat("0", 64) }},
		{"no hash", providers.Malformed, func(c *Config) { c.SHA256 = "" }},
		{"no token", providers.Transient, func(c *Config) { c.Token = strings.Replace(c.Token, "keys", "none", 1) }},
		{"any token", providers.Malformed, func(c *Config) { c.Token = "pkcs11:?pin-source=file:" + h.pin }},
		{"a key", providers.Malformed, func(c *Config) { c.Token = "pkcs11:token=keys;object=k?pin-source=file:" + h.pin }},
		{"no PIN source", providers.Locked, func(c *Config) { c.Token = "pkcs11:token=keys" }},
		{"no PIN file", providers.Locked, func(c *Config) { c.Token += ".none" }},
		{"a PIN that others can read", providers.Locked, func(c *Config) { c.Token = h.otherPIN(t, testPIN, 0o640) }},
		{"a long PIN", providers.Locked, func(c *Config) { c.Token = h.otherPIN(t, strings.Repeat("1", maxPIN+1), 0o600) }},
		{"sessions", providers.Malformed, func(c *Config) { c.Sessions = -1 }},
		{"a key's URI", providers.Malformed, func(c *Config) { c.Keys = map[string][]string{"a": {"pkcs11:type=private"}} }},
	} {
		config := h.config()
		c.edit(&config)
		p, err := Open(t.Context(), config)
		if err == nil {
			p.Close()
		}
		if providers.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if other := texts[err.Error()]; other != "" {
			t.Errorf("%s is said as %s is", c.name, other)
		}
		texts[err.Error()] = c.name
	}
	h.open(t, h.config())
}

// otherPIN returns a token's URI with another PIN.
func (h *hsm) otherPIN(t *testing.T, pin string, mode os.FileMode) string {
	path := filepath.Join(h.dir, "other")
	write(t, path, pin)
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return "pkcs11:token=keys?pin-source=file:" + path
}

func (h *hsm) textFile(t *testing.T) (path, sum string) {
	path = filepath.Join(h.dir, "text")
	write(t, path, "text")
	return path, "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
}

// A wrong PIN is tried once, not again by a new process, and never when one more failure would lock the token.
func TestWrongPIN(t *testing.T) {
	h := newHSM(t)
	write(t, h.pin, "wrong-pin\n")
	_, err := Open(t.Context(), h.config())
	if !errors.Is(err, providers.Locked) || !errors.Is(err, p11.Error(p11.CKR_PIN_INCORRECT)) {
		t.Fatalf("a wrong PIN: %v", err)
	}
	if strings.Contains(err.Error(), "wrong-pin") {
		t.Error("the error tells the PIN")
	}
	write(t, h.pin, testPIN+"\n")
	if _, err = Open(t.Context(), h.config()); !errors.Is(err, providers.Locked) || !errors.Is(err, errPINCountLow) {
		t.Fatalf("after a wrong PIN: %v", err)
	}
	config := h.config()
	config.TryPINAgain = true
	p := h.open(t, config)
	for flag, want := range map[uint]error{p11.CKF_USER_PIN_FINAL_TRY: errPINFinalTry, p11.CKF_USER_PIN_LOCKED: errPINLocked, 0: nil} {
		if err := p.mayTry(p11.CKF_USER_PIN_INITIALIZED | flag); err != want {
			t.Errorf("flags %x: %v", flag, err)
		}
	}
}

// A PIN that is refused at a new log-in is not tried again.
func TestPINChanged(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	write(t, h.pin, "wrong-pin\n")
	if err := p.module.ctx.Logout(p.link.owner); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := p.Keys(t.Context()); !errors.Is(err, providers.Locked) {
			t.Fatalf("with a wrong PIN: %v", err)
		}
	}
	if n := p.Calls()["C_Login"]; n != 2 {
		t.Errorf("%d log-ins, not 2", n)
	}
}

// Two that have to log in at the same time with a wrong PIN try it once.
func TestWrongPINOfTwo(t *testing.T) {
	h := newHSM(t)
	ps := []*Provider{h.open(t, h.config()), h.open(t, h.config())} // each has its own copy of the module
	write(t, h.pin, "wrong-pin\n")
	var tried atomic.Int64
	for _, p := range ps {
		if err := p.module.ctx.Logout(p.link.owner); err != nil {
			t.Fatal(err)
		}
		p.fail(func(call string) error {
			if call == "C_Login" {
				tried.Add(1)
				time.Sleep(50 * time.Millisecond) // as long as the token takes
			}
			return nil
		})
	}
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			if _, err := p.Keys(t.Context()); !errors.Is(err, providers.Locked) {
				t.Errorf("with a wrong PIN: %v", err)
			}
		})
	}
	wg.Wait()
	if n := tried.Load(); n != 1 {
		t.Errorf("a wrong PIN was tried %d times", n)
	}
}

// TestProbed: what the token says that it cannot do is not offered, nor made a key for.
func TestProbed(t *testing.T) {
	h := newHSM(t)
	path := filepath.Join(h.dir, "softhsm2.conf")
	conf, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// SoftHSM 2.6.1 does not take away the first of the list.
	write(t, path, string(conf)+"slots.mechanisms = -CKM_DES_CBC,CKM_AES_GCM,CKM_AES_KEY_WRAP,CKM_ECDSA,CKM_ECDH1_DERIVE\n")
	p := h.open(t, h.config())
	enc := made[*cipherKey](t, p, "enc", providers.AES128)
	if got := enc.Mechanisms(); !slices.Equal(got, []providers.Mechanism{providers.AESCBC}) {
		t.Errorf("an AES key of a token without AES-GCM has %v", got)
	}
	for name, kt := range map[string]providers.KeyType{"key.wrap": providers.AES128, "pair": providers.ECP256} {
		if _, err := p.Generate(t.Context(), name, kt); !errors.Is(err, providers.NotSupported) {
			t.Errorf("%s, without its mechanism: %v", name, err)
		}
	}
}
