// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// providerSettings are those of the provider that this test binary can be.
type providerSettings struct {
	Dir string
}

// providerMain is a provider: the software one, in a process of its own.
func providerMain() error {
	plugin.Harden(false)
	var s providerSettings
	if err := providers.ReadSettings(&s); err != nil {
		return err
	}
	unlock := software.Unlock{KeySource: "file:" + filepath.Join(s.Dir, "unlock")}
	file := filepath.Join(s.Dir, "keys")
	if missing(file) {
		if err := software.NewUnlockKey(filepath.Join(s.Dir, "unlock")); err != nil {
			return err
		}
		if _, err := software.Create(file, unlock, software.Options{}); err != nil {
			return err
		}
	}
	p, err := software.Open(file, unlock, software.Options{})
	if err != nil {
		return err
	}
	return providers.Serve(p)
}

// section is the configuration of that provider.
func section(t *testing.T, dir string) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"provider", "hash", path}, &out); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(out.String(), `name = ""`, `name = "other"`, 1) + fmt.Sprintf("[providers.settings]\nDir = %q\n", dir)
}

// TestProviderOfTokenKeys: token keys in a provider seal and open tokens, and are rotated there.
func TestProviderOfTokenKeys(t *testing.T) {
	dir := t.TempDir()
	path := configured(t, "psk-prefix = \"other:psk/\"\n"+section(t, dir))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`token-keys = "`), []byte(`token-keys = "other:`), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"init", "--config", path}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "made other:token-keys.mac version 1") {
		t.Errorf("init says %s", &out)
	}
	cfg, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.manage = true
	o, err := open(t.Context(), cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if infos, err := o.keys.Keys(t.Context()); err != nil || len(infos) != 4 { // storage, and three of a service
		t.Errorf("the key file has %v: %v", infos, err)
	}
	peer := o.NewPeer()
	defer peer.Close()
	reply, err := peer.Handle(t.Context(), &wire.RotateKeyRequest{Name: "other:token-keys"})
	if err != nil {
		t.Fatal(err)
	}
	if k := reply.(*wire.ChangedKeysReply).Keys[0]; k.Name != "other:token-keys.enc" || k.Version != 2 {
		t.Errorf("rotated to %+v", k)
	}
	reply, err = peer.Handle(t.Context(), &wire.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reply.(*wire.HealthReply).Findings {
		if !f.OK {
			t.Errorf("health: %+v", f)
		}
	}
	out.Reset()
	if err := run(t.Context(), []string{"provider", "check", "--config", path}, &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if n := strings.Count(out.String(), ": good\n"); n != 7 {
		t.Errorf("check found %d good keys, the generator included:\n%s", n, &out)
	}
}

// TestProcesses: several processes of a provider are one provider. When it cannot list its keys, those of the others are
// listed.
func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	path := initialized(t, strings.Replace(section(t, dir), "[providers.settings]", "processes = 3\n[providers.settings]", 1))
	cfg, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.manage = true
	o, err := open(t.Context(), cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if pids := o.running["other"].PIDs(); len(pids) != 3 {
		t.Errorf("processes %v", pids)
	}
	peer := o.NewPeer()
	defer peer.Close()
	if _, err := peer.Handle(t.Context(), &wire.GenerateKeyRequest{Name: "other:x", Type: "keyset"}); err != nil {
		t.Fatal(err)
	}
	list := func() *wire.KeysReply {
		reply, err := peer.Handle(t.Context(), &wire.KeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return reply.(*wire.KeysReply)
	}
	before := list()
	if err := os.Rename(filepath.Join(dir, "keys"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	r := list()
	if len(r.Failed) != 1 || r.Failed[0].Name != "other" || len(before.Failed) != 0 || len(r.Keys) != len(before.Keys)-3 || len(r.Keys) == 0 {
		t.Errorf("%d keys without those of %+v, and %d before", len(r.Keys), r.Failed, len(before.Keys))
	}
}

func TestProviderFails(t *testing.T) {
	dir := t.TempDir()
	good := section(t, dir)
	for name, bad := range map[string]string{
		"hash":     strings.Replace(good, `sha256 = "`, `sha256 = "0`, 1),
		"binary":   strings.Replace(good, `binary = "`, `binary = "/none`, 1),
		"settings": good + "Pin = 1\n",
	} {
		path := configured(t, bad)
		var out bytes.Buffer
		err := run(t.Context(), []string{"provider", "check", "--config", path}, &out)
		if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitProvider {
			t.Errorf("%s: check says %v", name, err)
		}
		err = run(t.Context(), []string{"init", "--config", path}, &out)
		if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitProvider || e.hint == "" {
			t.Errorf("%s: init says %v", name, err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"provider", "list", "--config", configured(t, good)}, &out); err != nil || !strings.HasPrefix(out.String(), "other\t/") {
		t.Errorf("list says %q, %v", &out, err)
	}
	for _, args := range [][]string{{"provider"}, {"provider", "hash"}, {"provider", "list"}, {"provider", "none", "--config", "x"}} {
		err := run(t.Context(), args, &out)
		if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitUsage {
			t.Errorf("%q: %v", args, err)
		}
	}
}
