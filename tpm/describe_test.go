// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// TestFacts: what an operator wants to know of a chip is told, and nothing of a good one is warned of.
func TestFacts(t *testing.T) {
	config := newTPM(t).config(t)
	config.PersistRoot = true
	p := open(t, config)
	makeAll(t, p)
	count(t, p, "storage", true)
	d, err := p.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range d.Facts {
		name, _, _ := strings.Cut(f, ": ")
		names = append(names, name)
	}
	if want := []string{"device", "storage root key", "lockout", "passwords", "room", "algorithms", "clock", "counter"}; !slices.Equal(names, want) {
		t.Errorf("told of %q", d.Facts)
	}
	if len(d.Warnings) > 0 {
		t.Errorf("warned of %q", d.Warnings)
	}
}

// TestWarnings: each thing that is not as it should be is warned of, and nothing else.
func TestWarnings(t *testing.T) {
	guess := func(t *testing.T, p *Provider, times int) {
		key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
		if _, err := key.MAC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		raw(t, p, func(c *chip) error {
			k := key.(*macKey).stored
			h, err := c.load(k)
			for range times {
				tpm2.Hmac{Handle: tpm2.AuthHandle{Handle: h, Name: k.name, Auth: c.plain.with(secret.Take([]byte("guess")), encryptNone)}, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
			}
			return err
		})
	}
	for what, x := range map[string]struct {
		edit func(*Config)
		spy  func(tpm2.TPMCC, []byte) []byte // changes responses
		do   func(*testing.T, *Provider)
		says string
	}{
		"a guess": {do: func(t *testing.T, p *Provider) { guess(t, p, 1) }, says: "counts 1 wrong"},
		"locked":  {do: func(t *testing.T, p *Provider) { guess(t, p, 3) }, says: "is locked"},
		"others": {do: func(t *testing.T, p *Provider) {
			raw(t, p, func(c *chip) error {
				_, err := c.primary(&tpm2.ECCSRKTemplate)
				return err
			})
		}, says: "others have left 1 objects"},
		"no persistent root": {edit: func(c *Config) { c.PersistRoot = false }, says: "persist-srk"},
		"owner's password": {do: func(t *testing.T, p *Provider) {
			if _, err := p.Generate(t.Context(), "storage", providers.AES256); err != nil {
				t.Fatal(err)
			}
			raw(t, p, func(c *chip) error {
				_, err := tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner")}}.Execute(c)
				return err
			})
		}, says: "tpm2_nvdefine 0x01"},
		"no OAEP": {spy: func(cc tpm2.TPMCC, b []byte) []byte {
			if cc == tpm2.TPMCCGetCapability && len(b) > 100 && binary.BigEndian.Uint32(b[11:]) == uint32(tpm2.TPMCapAlgs) {
				for i := 19; i < len(b); i += 6 { // each: 2 bytes of the algorithm, 4 of what it is
					if binary.BigEndian.Uint16(b[i:]) == uint16(tpm2.TPMAlgOAEP) {
						b[i+1]-- // there is RSAPSS and RSAES before
					}
				}
			}
			return b
		}, says: "no OAEP: no key exchange"},
	} {
		bus := newBus(t, newTPM(t))
		bus.setAnswer(x.spy)
		config := withAuth(t, bus.config(t))
		config.PersistRoot = true
		if x.edit != nil {
			x.edit(&config)
		}
		p := open(t, config)
		if x.do != nil {
			x.do(t, p)
		}
		d, err := p.Describe(t.Context())
		if err != nil || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], x.says) {
			t.Errorf("%s: %q, %v", what, d.Warnings, err)
		}
		p.Close()
	}
}
