// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// TestRekey: keys survive, the old secret opens nothing, who has the file open with it keeps its keys but changes nothing, and a
// file that cannot be written stays as it was.
func TestRekey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	from := software.Unlock{KeySource: "file:" + filepath.Join(dir, "old")}
	if err := software.NewUnlockKey(filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("a passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := software.Unlock{PassphraseSource: "file:" + filepath.Join(dir, "new")}
	p, err := software.Create(path, from, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	mac := func(p *software.Provider) ([]byte, error) {
		k, err := p.Open(t.Context(), "mac", 1)
		if err != nil {
			return nil, err
		}
		return k.(providers.MACer).MAC(t.Context(), []byte("message"))
	}
	if _, err := p.Generate(t.Context(), "mac", providers.HMACSHA256); err != nil {
		t.Fatal(err)
	}
	want, err := mac(p)
	if err != nil {
		t.Fatal(err)
	}
	other, err := software.Open(path, from, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	obstacle := filepath.Join(path+".new", "obstacle")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if p.RekeyCheap(t.Context(), to) == nil {
		t.Fatal("the file was written all the same")
	}
	for _, p := range []*software.Provider{p, other} {
		if got, err := mac(p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("after a failure: %v", err)
		}
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Generate(t.Context(), "after a failure", providers.AES128); err != nil {
		t.Errorf("after a failure: %v", err)
	}

	if err := p.RekeyCheap(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if got, err := mac(p); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the one that did it: %v", err)
	}
	if _, err := p.Rotate(t.Context(), "mac"); err != nil {
		t.Errorf("the one that did it: %v", err)
	}
	if got, err := mac(other); err != nil || !bytes.Equal(got, want) {
		t.Errorf("one that has the old key: %v", err)
	}
	if _, err := other.Rotate(t.Context(), "mac"); !errors.Is(err, providers.Locked) {
		t.Errorf("a change with the old key: %v", err)
	}
	if _, err := software.Open(path, from, software.Options{}); !errors.Is(err, providers.Locked) {
		t.Errorf("the old key: %v", err)
	}
	again, err := software.Open(path, to, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := mac(again); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the new passphrase: %v", err)
	}
}
