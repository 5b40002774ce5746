// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// setOwner gives the owner a password.
func setOwner(t *testing.T, p *Provider) {
	t.Helper()
	raw(t, p, func(c *chip) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner")}}.Execute(c)
		return err
	})
}

// plant makes a key and puts it at the storage root key's handle.
func plant(t *testing.T, s *swtpm, template tpm2.TPMTPublic, password bool) {
	t.Helper()
	p := open(t, s.config(t))
	raw(t, p, func(c *chip) error {
		r, err := c.primary(&template)
		if err != nil {
			return err
		}
		defer c.flush(r.handle)
		_, err = tpm2.EvictControl{Auth: owner(), ObjectHandle: tpm2.NamedHandle{Handle: r.handle, Name: r.name}, PersistentHandle: rootHandle}.Execute(c)
		return err
	})
	if password {
		setOwner(t, p)
	}
	p.Close()
}

// TestRoots: only a key that is made by the standard template from the owner's seed is believed to be the storage root key.
func TestRoots(t *testing.T) {
	other := tpm2.ECCSRKTemplate
	other.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{1}, 32)},
		Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}})
	guarded := tpm2.ECCSRKTemplate
	guarded.ObjectAttributes.NoDA = false
	for _, c := range []struct {
		name     string
		template tpm2.TPMTPublic
		password bool // of the owner, without which the key cannot be made again
		good     bool
	}{
		{"ecc", tpm2.ECCSRKTemplate, false, true}, {"rsa", tpm2.RSASRKTemplate, false, true}, {"ecc, with a password", tpm2.ECCSRKTemplate, true, true},
		{"of another origin", other, false, false}, {"of another template", guarded, false, false}, {"of another template, with a password", guarded, true, false},
	} {
		s := newTPM(t)
		plant(t, s, c.template, c.password)
		config := s.config(t)
		p, err := Open(t.Context(), config)
		if c.good {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			makeAll(t, p)
			if err := useAll(t.Context(), p); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			p.Close()
			continue
		}
		code(t, c.name, err, providers.Denied)
		if _, err := os.Stat(filepath.Join(config.Folder, rootFile)); err == nil {
			t.Errorf("%s: its name was kept", c.name)
		}
		config.RootName = nameAt(t, s)
		p = open(t, config) // which the operator believes
		makeAll(t, p)
		if err := useAll(t.Context(), p); err != nil {
			t.Errorf("%s, configured: %v", c.name, err)
		}
	}
}

// nameAt returns the name of the key at the storage root key's handle.
func nameAt(t *testing.T, s *swtpm) (name string) {
	t.Helper()
	d, err := openDevice("swtpm:unix:" + s.socket)
	if err != nil {
		t.Fatal(err)
	}
	c := &chip{config: &Config{}, ctx: t.Context(), device: d, counts: make(map[tpm2.TPMCC]uint64)}
	defer d.Close()
	r, err := c.readRoot()
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(r.name.Buffer)
}

// TestRootStays: the key is the same whether it is kept in the chip or made at each start.
func TestRootStays(t *testing.T) {
	config := newTPM(t).config(t)
	var names [][]byte
	for _, persist := range []bool{false, false, true, true, false} {
		config.PersistRoot = persist
		p := open(t, config)
		names = append(names, p.RootName())
		if len(names) == 1 {
			makeAll(t, p)
		}
		if err := useAll(t.Context(), p); err != nil {
			t.Error(err)
		}
		raw(t, p, func(c *chip) error {
			if c.root.transient != (len(names) < 3) {
				t.Errorf("start %d: transient %v", len(names), c.root.transient)
			}
			return noneLeft(t, c)
		})
		p.Close()
	}
	for _, n := range names {
		if !bytes.Equal(n, names[0]) {
			t.Error("the name of the storage root key changes")
		}
	}
}

// TestOwnerPassword: with an owner's password nothing is tried that it guards.
func TestOwnerPassword(t *testing.T) {
	for _, persist := range []bool{true, false} {
		s := newTPM(t)
		config := s.config(t)
		config.PersistRoot = persist
		p := open(t, config)
		setOwner(t, p)
		p.Close()
		p, err := Open(t.Context(), s.config(t))
		if !persist {
			code(t, "without a storage root key", err, providers.Denied)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		makeAll(t, p)
		if n := p.Commands()[tpm2.TPMCCCreatePrimary]; n != 0 {
			t.Error("the owner's hierarchy was used")
		}
		p.Close()
	}
}

// TestConfig: what makes no sense is refused before the chip is asked.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	short, loose := filepath.Join(dir, "short"), filepath.Join(dir, "loose")
	write(t, short, "short")
	write(t, loose, testAuth)
	if err := os.Chmod(loose, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]Config{
		"no folder":              {},
		"a folder that is open":  {Folder: open},
		"a folder that is none":  {Folder: short},
		"PCRs that are none":     {Folder: dir, PCRs: []uint{24}},
		"no PCRs":                {Folder: dir, PolicyKey: short},
		"a policy key":           {Folder: dir, PCRs: []uint{0}, PolicyKey: short},
		"a value, not a source":  {Folder: dir, AuthSource: testAuth},
		"a short random value":   {Folder: dir, AuthSource: "file:" + short, AuthIsRandom: true},
		"a value that all read":  {Folder: dir, AuthSource: "file:" + loose},
		"a device that is none":  {Folder: dir, Device: "tpm0"},
		"a simulator that is no": {Folder: dir, Device: "swtpm:udp:x"},
		"a name of a root":       {Folder: dir, Device: "swtpm:unix:" + newTPM(t).socket, RootName: "000b00"},
	} {
		p, err := Open(t.Context(), c)
		code(t, what, err, providers.Malformed)
		cause := providers.CauseSettings
		if strings.Contains(what, "value") {
			cause = providers.CauseSecretSource
		}
		if got := providers.ExitCode(err); got != int(cause) {
			t.Errorf("%s: exit code %d, not %d", what, got, cause)
		}
		if p != nil {
			p.Close()
		}
	}
	for _, device := range []string{filepath.Join(dir, "tpmrm0"), "swtpm:unix:" + filepath.Join(dir, "none")} {
		_, err := Open(t.Context(), Config{Folder: dir, Device: device})
		code(t, "no device", err, providers.Transient)
		if got := providers.ExitCode(err); got != int(providers.CauseDevice) {
			t.Errorf("no device: exit code %d", got)
		}
	}
	if _, err := os.Stat(defaultDevice); err == nil {
		return // a device that no test should use
	}
	_, err := Open(t.Context(), Config{Folder: dir})
	if e, ok := errors.AsType[*os.PathError](err); !ok || e.Path != "/dev/tpmrm0" {
		t.Errorf("the usual device: %v", err)
	}
}
