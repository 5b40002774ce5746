// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// newWrapped is a world whose provider keeps wrapped keys in a folder.
func newWrapped(t *testing.T, hold time.Duration) *world {
	t.Helper()
	w := newWorld(t, vaulttest.Options{Storage: t.TempDir()}, "")
	w.config.Wrapped = &Wrapped{Folder: t.TempDir(), Key: "entities", Names: []string{"token-keys.*"}, Hold: Duration(hold)}
	w.provider = open(t, w.config)
	return w
}

func (w *world) file(name string) string { return filepath.Join(w.config.Wrapped.Folder, name) }

func (w *world) generate(t *testing.T, name string, kt providers.KeyType) {
	t.Helper()
	if _, err := w.provider.Generate(t.Context(), name, kt); err != nil {
		t.Fatal(err)
	}
}

// mac computes a MAC with the newest version of token-keys.mac.
func (w *world) mac(t *testing.T, p *Provider) ([]byte, error) {
	t.Helper()
	k, err := p.Open(t.Context(), "token-keys.mac", 0)
	if err != nil {
		return nil, err
	}
	return k.(providers.MACer).MAC(t.Context(), []byte("message"))
}

// TestTokenKeys: they are unwrapped at start, and used without Vault from then on.
func TestTokenKeys(t *testing.T) {
	w := newWrapped(t, 0)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	w.generate(t, "token-keys.enc", providers.AES128)
	want, err := w.mac(t, w.provider)
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, w.config)
	before := w.proxy.requests.Load()
	for range 100 {
		got, err := w.mac(t, again)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("another MAC after a restart, %v", err)
		}
	}
	if n := w.proxy.requests.Load() - before; n > 0 {
		t.Errorf("%d requests to use keys that are held", n)
	}
	w.Seal()
	if _, err := w.mac(t, again); err != nil {
		t.Errorf("while Vault is sealed: %v", err)
	}
	refused(t, "starting while Vault is sealed", w.config, providers.Transient)
	w.Unseal()
	infos, err := again.Keys(t.Context())
	if err != nil || len(infos) != 4 {
		t.Errorf("keys %v, %v", infos, err)
	}
	// A rotation by one process is seen by the other.
	if _, err := w.provider.Rotate(t.Context(), "token-keys.mac"); err != nil {
		t.Fatal(err)
	}
	if got, err := w.mac(t, again); err != nil || bytes.Equal(got, want) {
		t.Errorf("the same MAC after a rotation: %v", err)
	}
}

// TestHold: keys are wiped when their time is over, and unwrapped again when they are used.
func TestHold(t *testing.T) {
	w := newWrapped(t, 400*time.Millisecond)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	if _, err := w.mac(t, w.provider); err != nil {
		t.Fatal(err)
	}
	k := w.provider.wrapped.find("token-keys.mac", 1)
	k.mu.RLock()
	raw := secret.Reveal(k.bytes)
	k.mu.RUnlock()
	w.Eventually("it is wiped", func() bool {
		k.mu.RLock()
		defer k.mu.RUnlock()
		return k.bytes.Len() == 0
	})
	if !bytes.Equal(raw, make([]byte, 32)) {
		t.Error("its bytes are still there")
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); { // in use, it is renewed in the background
		if _, err := w.mac(t, w.provider); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.proxy.count("decrypt"); n < 5 || n > 20 {
		t.Errorf("unwrapped %d times in 2 s, and half of 400 ms should pass in between", n)
	}
	w.Seal()
	if _, err := w.mac(t, w.provider); err != nil {
		t.Errorf("as long as it is held: %v", err)
	}
	w.Eventually("its time is over", func() bool { _, err := w.mac(t, w.provider); return errors.Is(err, providers.Transient) })
	w.Unseal()
	w.Eventually("it is back", func() bool { _, err := w.mac(t, w.provider); return err == nil })
	w.provider.Close()
	if _, err := w.mac(t, w.provider); err == nil {
		t.Error("used after Close")
	}
}

// TestWrappingKeyRotated: blobs are encrypted again with the newest version, so that old ones can be withdrawn.
func TestWrappingKeyRotated(t *testing.T) {
	w := newWrapped(t, 0)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	want, err := w.mac(t, w.provider)
	if err != nil {
		t.Fatal(err)
	}
	w.Do("POST", "transit/keys/entities/rotate", "{}", nil)
	open(t, w.config)
	b, err := os.ReadFile(w.file("token-keys.mac.1.key"))
	if err != nil || !bytes.Contains(b, []byte("vault:v2:")) {
		t.Fatalf("not encrypted again: %v", err)
	}
	w.Do("POST", "transit/keys/entities/config", `{"min_decryption_version":2,"min_encryption_version":2}`, nil)
	if got, err := w.mac(t, open(t, w.config)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another key: %v", err)
	}
}

// TestDamagedBlobs: whatever is changed in a file, the key does not open, and a file is bound to its name and version.
func TestDamagedBlobs(t *testing.T) {
	w := newWrapped(t, 0)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	w.generate(t, "token-keys.mac2", providers.HMACSHA256)
	if _, err := w.provider.Rotate(t.Context(), "token-keys.mac"); err != nil {
		t.Fatal(err)
	}
	path := w.file("token-keys.mac.1.key")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b blob
	if err := json.Unmarshal(good, &b); err != nil {
		t.Fatal(err)
	}
	otherWrapped := func(file string) string {
		raw, err := os.ReadFile(w.file(file))
		var o blob
		if err == nil {
			err = json.Unmarshal(raw, &o)
		}
		if err != nil {
			t.Fatal(err)
		}
		return o.Wrapped
	}
	bad := map[string][]byte{"empty": {}, "cut": good[:len(good)/2], "too long": bytes.Repeat([]byte(" "), maxBlob+1)}
	for what, wrapped := range map[string]string{"another version's": otherWrapped("token-keys.mac.2.key"), "another key's": otherWrapped("token-keys.mac2.1.key"),
		"a byte changed": strings.Replace(b.Wrapped, b.Wrapped[20:21], string(b.Wrapped[20]^1), 1), "a version that is not there": strings.Replace(b.Wrapped, "v1", "v7", 1)} {
		c := b
		c.Wrapped = wrapped
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		bad[what] = raw
	}
	for _, change := range []func(*blob){func(b *blob) { b.Type = providers.AES256 }, func(b *blob) { b.Version = 3 }, func(b *blob) { b.Name = "token-keys.mac2" },
		func(b *blob) { b.Type = "rsa-2048" }, func(b *blob) { b.Wrapped = "x" }} {
		c := b
		change(&c)
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		bad[fmt.Sprintf("%+v", c)] = raw
	}
	for what, raw := range bad {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		w.tells(t, refused(t, what, w.config, providers.Corrupt))
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, w.config).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestManyRotate: versions are made once only, by however many processes.
func TestManyRotate(t *testing.T) {
	w := newWrapped(t, 0)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	ps := []*Provider{w.provider, open(t, w.config), open(t, w.config)}
	var mu sync.Mutex
	made := make(map[uint32]int)
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for range 5 {
				info, err := p.Rotate(t.Context(), "token-keys.mac")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made[info.Version]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for v := uint32(2); v <= 16; v++ {
		if made[v] != 1 {
			t.Errorf("version %d was made %d times", v, made[v])
		}
	}
	// The number of a version that was destroyed is not used again.
	if err := w.provider.Destroy(t.Context(), "token-keys.mac", 16); err != nil {
		t.Fatal(err)
	}
	if info, err := ps[1].Rotate(t.Context(), "token-keys.mac"); err != nil || info.Version != 17 {
		t.Errorf("after version 16 was destroyed: %v, %v", info.Version, err)
	}
	left, err := filepath.Glob(w.file(".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

// TestDamagedLater: a file that is damaged while the provider runs is told by Health, and the keys go on.
func TestDamagedLater(t *testing.T) {
	w := newWrapped(t, 0)
	w.generate(t, "token-keys.mac", providers.HMACSHA256)
	if err := os.WriteFile(w.file("token-keys.mac.2.key"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.mac(t, w.provider); err != nil {
		t.Error(err)
	}
	wantCode(t, "health", w.provider.Health(t.Context()), providers.Corrupt)
	if err := os.Rename(w.config.Wrapped.Folder, w.config.Wrapped.Folder+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.mac(t, w.provider); err != nil {
		t.Error(err)
	}
	wantCode(t, "health", w.provider.Health(t.Context()), providers.Device)
}
