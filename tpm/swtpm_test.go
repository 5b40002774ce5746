// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

// A swtpm is a simulated chip, whose state is in a folder of the test.
type swtpm struct {
	dir, socket string
	mu          sync.Mutex
	process     *exec.Cmd
}

// newTPM starts a chip. The test is skipped if there is no swtpm.
func newTPM(t testing.TB) *swtpm {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (apt-get install swtpm)")
	}
	dir, err := os.MkdirTemp("", "tpm") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &swtpm{dir: dir, socket: filepath.Join(dir, "server")}
	t.Cleanup(func() {
		s.kill()
		os.RemoveAll(dir)
	})
	s.start(t)
	return s
}

// start powers the chip on.
func (s *swtpm) start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	os.Remove(s.socket)
	s.process = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.dir, "--ctrl", "type=unixio,path="+s.socket+".ctrl",
		"--server", "type=unixio,path="+s.socket, "--flags", "not-need-init,startup-clear")
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		// swtpm takes one connection at a time, so this one must be closed before the provider's.
		if conn, err := net.Dial("unix", s.socket); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("swtpm does not start")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// kill cuts the power.
func (s *swtpm) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Process.Kill()
		s.process.Wait()
		s.process = nil
	}
}

func (s *swtpm) config(t testing.TB) Config {
	return Config{Device: "swtpm:unix:" + s.socket, Folder: t.TempDir()}
}

// open opens the chip until the test ends.
func open(t testing.TB, c Config) *Provider {
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

var someTypes = []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048, providers.ECP256}

func options() providertest.Options {
	return providertest.Options{Generates: someTypes, Imports: someTypes, Size: maxData / 2, NoPKCS1Decryption: true}
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Config)
	}{
		{"Signing", func(*Config) {}},
		{"Decrypting", func(c *Config) { c.Decrypting, c.Wrapping, c.PersistRoot = []string{"*"}, []string{"*"}, true }},
		{"Sealed", func(c *Config) { c.Sealed = []string{"*"} }},
		{"SealedWrapping", func(c *Config) { c.Sealed, c.Wrapping = []string{"*"}, []string{"*"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options()
			if c.name == "Signing" {
				o.TooLarge = maxData + 1
			}
			providertest.Run(t, func(t *testing.T) providers.Provider {
				config := newTPM(t).config(t)
				c.edit(&config)
				return open(t, config)
			}, o)
		})
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
