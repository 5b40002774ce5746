// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package softhsmtest tests the whole system on real back ends. SoftHSM is set up in a folder of each test, by
// the user who runs it.
package softhsmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

const testPIN = "canary-pin-4711"

// binaries is the folder of what tests build.
var binaries string

// provider is the command under test, built once.
var provider = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "mslkeep-provider-pkcs11")
	out, err := exec.Command("go", "build", "-o", path, "github.com/mslkeep/mslkeep/cmd/mslkeep-provider-pkcs11").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "softhsm-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := msltest.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// A hsm is SoftHSM in a folder of the test, with the provider's settings for it.
type hsm struct {
	dir      string
	settings map[string]any
	env      []string
}

func newHSM(t testing.TB) *hsm {
	t.Helper()
	module := "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Skip("SoftHSM is not installed (apt-get install softhsm2)")
	}
	h := &hsm{dir: t.TempDir()}
	conf, pin, tokens := filepath.Join(h.dir, "softhsm2.conf"), filepath.Join(h.dir, "pin"), filepath.Join(h.dir, "tokens")
	write(t, conf, "directories.tokendir = "+tokens+"\nlog.level = ERROR\n")
	write(t, pin, testPIN+"\n")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	h.env = []string{"SOFTHSM2_CONF=" + conf}
	init := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "keys", "--pin", testPIN, "--so-pin", "87654321")
	init.Env = append(os.Environ(), h.env...)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	h.settings = map[string]any{"module": module, "sha256": sum(t, module), "token": "pkcs11:token=keys?pin-source=file:" + pin}
	return h
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sum(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// connect starts the provider. What it writes goes to log.
func (h *hsm) connect(t *testing.T) (*providers.Connection, error) {
	t.Helper()
	path, err := provider()
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(h.settings)
	if err != nil {
		t.Fatal(err)
	}
	return providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum(t, path), Env: h.env, Settings: settings})
}

func (h *hsm) open(t *testing.T) *providers.Connection {
	t.Helper()
	c, err := h.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The provider passes the conformance suite in a process of its own.
func TestConformance(t *testing.T) {
	for _, wrapping := range []string{"*.wrap", "conformance/*"} {
		t.Run(strings.ReplaceAll(wrapping, "*", "any"), func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providers.Provider {
				h := newHSM(t)
				h.settings["wrapping"] = []string{wrapping}
				return h.open(t).Provider()
			}, providertest.Options{TooLarge: 1<<20 + 1, NoPKCS1Decryption: true})
		})
	}
}

// What is wrong at the start is told by the provider's last words, and the PIN is not among them.
func TestStart(t *testing.T) {
	for what, edit := range map[string]func(*hsm){
		"its SHA-256": func(h *hsm) { h.settings["sha256"] = strings.Repeat("0", 64) },
		"no token in": func(h *hsm) {
			h.settings["token"] = strings.Replace(h.settings["token"].(string), "token=keys", "token=none", 1)
		},
		"PIN_INCORRECT":  func(h *hsm) { write(t, filepath.Join(h.dir, "pin"), "wrong-"+testPIN) },
		"use pin-source": func(h *hsm) { h.settings["token"] = "pkcs11:token=keys?pin-value=" + testPIN },
	} {
		h := newHSM(t)
		edit(h)
		c, err := h.connect(t)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), testPIN) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The provider is killed, stopped, and its token taken away, while keys are used. Nothing wrong comes out, and
// soon all is well again. How soon, TestHSMComesAndGoes tells.
func TestLost(t *testing.T) {
	h := newHSM(t)
	c := h.open(t)
	ctx, p := t.Context(), c.Provider()
	if _, err := p.(providers.Generator).Generate(ctx, "mac", providers.HMACSHA256); err != nil {
		t.Fatal(err)
	}
	mac := func() ([]byte, error) {
		k, err := p.Open(ctx, "mac", 1)
		if err != nil {
			return nil, err
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return k.(providers.MACer).MAC(limited, []byte("message"))
	}
	want, err := mac()
	if err != nil {
		t.Fatal(err)
	}
	var good, bad atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := mac()
				switch {
				case err == nil && bytes.Equal(got, want):
					good.Add(1)
				case err == nil:
					t.Error("another MAC")
				case errors.Is(err, providers.Transient), errors.Is(err, providers.Device):
					bad.Add(1)
				default:
					t.Errorf("while things get lost: %v", err)
					return
				}
			}
		})
	}
	tokens := filepath.Join(h.dir, "tokens")
	for what, lose := range map[string]func(pid int) error{
		"killed": func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) },
		"token away": func(int) error {
			if err := os.Rename(tokens, tokens+".away"); err != nil {
				return err
			}
			time.Sleep(time.Second) // the outage
			return os.Rename(tokens+".away", tokens)
		},
		"stopped": func(pid int) error {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				return err
			}
			time.Sleep(time.Second) // the outage
			return syscall.Kill(pid, syscall.SIGCONT)
		},
	} {
		if err := lose(c.PID()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for {
			got, err := mac()
			if err == nil && bytes.Equal(got, want) {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: not back: %v", what, err)
			}
		}
		enough := good.Load() + 500
		for began := time.Now(); good.Load() < enough; time.Sleep(time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: hardly any use succeeds afterwards", what)
			}
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d uses succeeded, %d failed", good.Load(), bad.Load())
}
