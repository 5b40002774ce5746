// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

var (
	_ providers.Provider      = (*software.Provider)(nil)
	_ providers.Generator     = (*software.Provider)(nil)
	_ providers.Importer      = (*software.Provider)(nil)
	_ providers.Rotator       = (*software.Provider)(nil)
	_ providers.Destroyer     = (*software.Provider)(nil)
	_ providers.HealthChecker = (*software.Provider)(nil)
)

// keyUnlock makes a key file to unlock with.
func keyUnlock(t testing.TB) software.Unlock {
	t.Helper()
	raw := make([]byte, 32)
	rand.Read(raw)
	return software.Unlock{KeySource: "file:" + write(t, "unlock", raw)}
}

// passUnlock makes a file with a passphrase.
func passUnlock(t testing.TB, pass string) software.Unlock {
	t.Helper()
	return software.Unlock{PassphraseSource: "file:" + write(t, "pass", []byte(pass))}
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fresh makes an empty key file.
func fresh(t testing.TB) (*software.Provider, string, software.Unlock) {
	t.Helper()
	path, u := filepath.Join(t.TempDir(), "keys"), keyUnlock(t)
	p, err := software.Create(path, u, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, path, u
}

func reopen(t testing.TB, path string, u software.Unlock) *software.Provider {
	t.Helper()
	p, err := software.Open(path, u, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func wantCode(t testing.TB, what string, err error, c providers.Code) {
	t.Helper()
	if !errors.Is(err, c) {
		t.Errorf("%s: got %v, want %v", what, err, c)
	}
}

func generate(t testing.TB, p *software.Provider, name string, kt providers.KeyType) providers.KeyInfo {
	t.Helper()
	info, err := p.Generate(t.Context(), name, kt)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func openKey[T any](t testing.TB, p *software.Provider, name string, version uint32) T {
	t.Helper()
	k, err := p.Open(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := k.(T)
	if !ok {
		t.Fatalf("%s cannot do that: %T", name, k)
	}
	return c
}

func mac(t testing.TB, p *software.Provider, name string, version uint32) string {
	t.Helper()
	b, err := openKey[providers.MACer](t, p, name, version).MAC(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func TestLifecycle(t *testing.T) {
	p, path, u := fresh(t)
	ctx := t.Context()
	generate(t, p, "b/key", providers.HMACSHA256)
	generate(t, p, "a/key", providers.AES128)
	_, err := p.Generate(ctx, "a/key", providers.AES256)
	wantCode(t, "generating again", err, providers.Exists)
	first := mac(t, p, "b/key", 0)
	if info, err := p.Rotate(ctx, "b/key"); err != nil || info.Version != 2 || info.Type != providers.HMACSHA256 || info.Created == 0 {
		t.Fatalf("rotate: %+v, %v", info, err)
	}
	second := mac(t, p, "b/key", 0)
	if first == second || mac(t, p, "b/key", 1) != first || mac(t, p, "b/key", 2) != second {
		t.Error("versions are mixed up")
	}
	_, err = p.Open(ctx, "b/key", 3)
	wantCode(t, "version 3", err, providers.NoSuchKey)
	_, err = p.Open(ctx, "c", 0)
	wantCode(t, "no such key", err, providers.NoSuchKey)
	_, err = p.Rotate(ctx, "c")
	wantCode(t, "rotating nothing", err, providers.NoSuchKey)
	_, err = p.Generate(ctx, "d", "aes-129")
	wantCode(t, "unknown type", err, providers.NotSupported)
	for _, name := range []string{"", "a\nb", "\xff", strings.Repeat("x", 513)} {
		_, err = p.Generate(ctx, name, providers.AES128)
		wantCode(t, "bad name", err, providers.Malformed)
	}

	held := openKey[providers.MACer](t, p, "b/key", 2)
	if err := p.Destroy(ctx, "b/key", 2); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "destroying again", p.Destroy(ctx, "b/key", 2), providers.NoSuchKey)
	_, err = held.MAC(ctx, nil)
	wantCode(t, "a destroyed key", err, providers.NoSuchKey)
	if mac(t, p, "b/key", 0) != first {
		t.Error("version 1 is not the newest any more")
	}
	q := reopen(t, path, u)
	if mac(t, q, "b/key", 0) != first {
		t.Error("the file has other keys")
	}
	if info, err := q.Rotate(ctx, "b/key"); err != nil || info.Version != 3 {
		t.Errorf("a destroyed version came back: %+v, %v", info, err)
	}
	infos, err := p.Keys(ctx)
	if err != nil || len(infos) != 3 {
		t.Errorf("keys: %+v, %v", infos, err)
	}
	if err := p.Health(ctx); err != nil {
		t.Error(err)
	}
	p.Close()
	_, err = p.Open(ctx, "b/key", 1)
	wantCode(t, "closed", err, providers.Locked)
	wantCode(t, "closed", p.Health(ctx), providers.Locked)
}

// TestOtherProcess: a reader sees what another process wrote, and keeps the objects it has.
func TestOtherProcess(t *testing.T) {
	p, path, u := fresh(t)
	generate(t, p, "k", providers.HMACSHA256)
	q := reopen(t, path, u)
	before := openKey[providers.MACer](t, q, "k", 1)
	if _, err := p.Rotate(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	generate(t, p, "new", providers.AES256)
	if mac(t, q, "k", 0) != mac(t, p, "k", 2) {
		t.Error("the rotation was not noticed")
	}
	if openKey[providers.MACer](t, q, "k", 1) != before {
		t.Error("an unchanged key has a new object")
	}
	openKey[providers.Encrypter](t, q, "new", 1)
	if err := p.Destroy(t.Context(), "k", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Keys(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := before.MAC(t.Context(), nil)
	wantCode(t, "destroyed by another process", err, providers.NoSuchKey)

	// What was read stays usable when the file goes bad; new things fail, and Health says so.
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	openKey[providers.MACer](t, q, "k", 0)
	wantCode(t, "health", q.Health(t.Context()), providers.Corrupt)
	_, err = q.Generate(t.Context(), "more", providers.AES128)
	wantCode(t, "writing", err, providers.Corrupt)
	_, err = q.Open(t.Context(), "unknown", 0)
	wantCode(t, "a miss", err, providers.Corrupt)
}

func TestConcurrentUse(t *testing.T) {
	p, path, u := fresh(t)
	q := reopen(t, path, u)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 4 {
		p := []*software.Provider{p, q}[i%2]
		wg.Go(func() {
			for j := range 10 {
				if _, err := p.Generate(ctx, fmt.Sprintf("k%d/%d", i, j), providers.HMACSHA256); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 20 {
				infos, err := p.Keys(ctx)
				if err != nil {
					t.Error(err)
				}
				for _, info := range infos {
					k, err := p.Open(ctx, info.Name, info.Version)
					if err != nil {
						t.Error(err)
						continue
					}
					if _, err := k.(providers.MACer).MAC(ctx, nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, p := range []*software.Provider{p, q} {
		if infos, err := p.Keys(ctx); err != nil || len(infos) != 40 {
			t.Errorf("%d keys of 40, %v", len(infos), err)
		}
	}
}

func TestUnlock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	pass := passUnlock(t, "correct horse\n")
	p, err := software.CreateCheap(path, pass, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, err = software.CreateCheap(path, pass, software.Options{})
	wantCode(t, "making it again", err, providers.Exists)
	for _, same := range []string{"correct horse", "correct horse\r\n"} {
		reopen(t, path, passUnlock(t, same))
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(strings.TrimPrefix(pass.PassphraseSource, "file:")))
	reopen(t, path, software.Unlock{PassphraseSource: "credential:pass"})

	open := func(what string, u software.Unlock, c providers.Code) {
		t.Helper()
		_, err := software.Open(path, u, software.Options{})
		wantCode(t, what, err, c)
	}
	open("wrong passphrase", passUnlock(t, "correct horsf"), providers.Locked)
	open("trailing blank", passUnlock(t, "correct horse "), providers.Locked)
	open("empty passphrase", passUnlock(t, "\n"), providers.Locked)
	open("long passphrase", passUnlock(t, strings.Repeat("x", 5000)), providers.Locked)
	open("no source", software.Unlock{}, providers.Malformed)
	open("two sources", software.Unlock{PassphraseSource: "tty", KeySource: "fd:3"}, providers.Malformed)
	open("key for passphrase", keyUnlock(t), providers.Locked)
	for _, source := range []string{"", "correct horse", "file:/nonexistent", "credential:../pass", "credential:", "credential:none",
		"fd:2", "fd:x", "fd:9999", "env:PASS", "file:" + dir} {
		if _, err := software.Open(path, software.Unlock{PassphraseSource: source}, software.Options{}); err == nil {
			t.Errorf("source %q was taken", source)
		} else if strings.Contains(err.Error(), "horse") {
			t.Errorf("the error tells the passphrase: %v", err)
		}
	}

	open("unreadable source", software.Unlock{PassphraseSource: "file:" + filepath.Join(dir, "none")}, providers.Locked)
	lax := strings.TrimPrefix(pass.PassphraseSource, "file:")
	if err := os.Chmod(lax, 0o640); err != nil {
		t.Fatal(err)
	}
	open("readable by others", pass, providers.Denied)
}

func TestKeySources(t *testing.T) {
	p, path, u := fresh(t)
	raw, err := os.ReadFile(strings.TrimPrefix(u.KeySource, "file:"))
	if err != nil {
		t.Fatal(err)
	}
	generate(t, p, "k", providers.HMACSHA256)
	text := []byte(hex.EncodeToString(raw))
	for _, form := range [][]byte{raw, text, append(bytes.ToUpper(text), '\n')} {
		q := reopen(t, path, software.Unlock{KeySource: "file:" + write(t, "k", form)})
		if mac(t, q, "k", 1) != mac(t, p, "k", 1) {
			t.Error("other keys")
		}
	}
	for _, form := range [][]byte{nil, raw[:31], text[:63], append(bytes.Clone(raw), 'x'), bytes.Repeat([]byte{'x'}, 64)} {
		_, err := software.Open(path, software.Unlock{KeySource: "file:" + write(t, "k", form)}, software.Options{})
		wantCode(t, fmt.Sprintf("%d bytes", len(form)), err, providers.Locked)
	}
	_, err = software.Open(path, keyUnlock(t), software.Options{})
	wantCode(t, "another key", err, providers.Locked)
	_, err = software.Open(path, software.Unlock{KeySource: "tty"}, software.Options{})
	wantCode(t, "a key from a terminal", err, providers.Locked)

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	reopen(t, path, software.Unlock{KeySource: fmt.Sprintf("fd:%d", r.Fd())})
	if _, err := r.Stat(); err == nil {
		t.Error("the descriptor was left open")
	}
}

func TestNewUnlockKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := software.NewUnlockKey(path); err != nil {
		t.Fatal(err)
	}
	if err := software.NewUnlockKey(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	p, err := software.Create(path+".keys", software.Unlock{KeySource: "file:" + path}, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

func TestKeyLog(t *testing.T) {
	path, u, logPath := filepath.Join(t.TempDir(), "keys"), keyUnlock(t), filepath.Join(t.TempDir(), "log")
	l, err := secret.OpenLog(logPath)
	if err != nil {
		t.Fatal(err)
	}
	p, err := software.Create(path, u, software.Options{KeyLog: l})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	key := []byte("0123456789abcdef")
	if _, err := p.Import(t.Context(), "psk/a b", providers.AES128, key); err != nil {
		t.Fatal(err)
	}
	generate(t, p, "ec", providers.ECP256)
	generate(t, p, "rsa", providers.RSA2048)
	got, err := os.ReadFile(logPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"software:psk/a_b:1 " + hex.EncodeToString(key) + "\n", "software:ec:1:scalar ", "software:rsa:1:prime "} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, got)
		}
	}
}
