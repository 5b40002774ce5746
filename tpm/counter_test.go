// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// count counts, and fails the test if it cannot.
func count(t *testing.T, p *Provider, key string, up bool) uint64 {
	t.Helper()
	n, err := providers.Count(t.Context(), p, key, up)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// indices lists the NV indices of the owner that we might have made.
func indices(t *testing.T, p *Provider) (list []tpm2.TPMHandle) {
	t.Helper()
	raw(t, p, func(c *chip) error {
		all, err := c.handles(tpm2.TPMHTNVIndex)
		for _, h := range all {
			if h >= counterRange && h <= counterRange+counterMask {
				list = append(list, h)
			}
		}
		return err
	})
	return list
}

// TestCounter: a counter goes up, whatever happens to the process, the chip's power, the key's versions, or the index itself.
func TestCounter(t *testing.T) {
	s := newTPM(t)
	config := s.config(t)
	p := open(t, config)
	makeAll(t, p)
	if _, err := p.Generate(t.Context(), "other.storage", providers.AES256); err != nil {
		t.Fatal(err)
	}
	last := count(t, p, "storage", false)
	up := func(what string) {
		t.Helper()
		if n := count(t, p, "storage", false); n != last {
			t.Errorf("%s: %d after %d", what, n, last)
		}
		n := count(t, p, "storage", true)
		if n <= last {
			t.Errorf("%s: counted up from %d to %d", what, last, n)
		}
		last = n
	}
	up("at first")
	before := count(t, p, "other.storage", true)
	up("beside another")
	if n := count(t, p, "other.storage", false); n != before {
		t.Errorf("the other counter went from %d to %d", before, n)
	}
	if _, err := p.Rotate(t.Context(), "storage"); err != nil {
		t.Fatal(err)
	}
	up("after a rotation")
	s.kill()
	s.start(t)
	up("after a power cut")
	p.Close()
	p = open(t, config)
	up("in another process")

	// Whoever removes the index makes us count on, from beyond what was counted.
	raw(t, p, func(c *chip) error {
		keys, _, err := p.store.list("storage")
		if err == nil {
			err = c.freeCounter(counterIndex(keys[0]))
		}
		return err
	})
	if n := count(t, p, "storage", false); n <= last {
		t.Errorf("a counter that was removed goes on from %d after %d", n, last)
	}
	for _, key := range []string{"sign", "none", "none.storage", ""} {
		_, err := providers.Count(t.Context(), p, key, true)
		code(t, "counting beside "+key, err, providers.NotSupported)
	}
	p.Close()
	config.CountersRequired = true // then a key for storing whose name nobody has thought of is not used uncounted
	p = open(t, config)
	for _, key := range []string{"sign", "none", "none.storage", ""} {
		_, err := providers.Count(t.Context(), p, key, true)
		code(t, "counting beside "+key+" where that is demanded", err, providers.Denied)
	}
	if n := len(indices(t, p)); n != 2 {
		t.Errorf("%d indices for 2 counters", n)
	}
	for version := range uint32(2) {
		if err := p.Destroy(t.Context(), "storage", version+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Destroy(t.Context(), "other.storage", 1); err != nil {
		t.Fatal(err)
	}
	if list := indices(t, p); len(list) != 0 {
		t.Errorf("indices %x are left", list)
	}
}

// TestCounterCommands: counting up takes two commands once the counter is known, and reading one.
func TestCounterCommands(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	makeAll(t, p)
	count(t, p, "storage", true)
	var last map[tpm2.TPMCC]uint64
	commands(p, &last)
	count(t, p, "storage", true)
	if got := commands(p, &last); len(got) != 2 || got[tpm2.TPMCCNVIncrement] != 1 || got[tpm2.TPMCCNVRead] != 1 {
		t.Errorf("counting up: %v", got)
	}
	count(t, p, "storage", false)
	if got := commands(p, &last); len(got) != 1 || got[tpm2.TPMCCNVRead] != 1 {
		t.Errorf("reading: %v", got)
	}
}

// TestCounterPowerCut cuts the power before and after each command of counting. What was counted is never less than what a caller
// has seen.
func TestCounterPowerCut(t *testing.T) {
	s := newTPM(t)
	bus := newBus(t, s)
	config := bus.config(t)
	p := open(t, config)
	makeAll(t, p)
	last := count(t, p, "storage", true)
	for _, after := range []bool{false, true} {
		for _, at := range []tpm2.TPMCC{tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVRead, tpm2.TPMCCStartAuthSession} {
			s.kill() // so that the chip is looked at anew
			s.start(t)
			cut := false
			here := func(cc tpm2.TPMCC) bool {
				if cut || cc != at {
					return false
				}
				cut = true
				s.kill()
				s.start(t)
				return true
			}
			bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) { return nil, after || !here(cc) })
			bus.setAnswer(func(cc tpm2.TPMCC, b []byte) []byte {
				if after && here(cc) {
					return nil
				}
				return b
			})
			n := count(t, p, "storage", true)
			bus.set(nil)
			bus.setAnswer(nil)
			if n <= last || !cut {
				t.Errorf("power cut (%v) at %v: counted up from %d to %d", cut, at, last, n)
			}
			last = n
			if n := count(t, p, "storage", false); n != last {
				t.Errorf("then it is %d, not %d", n, last)
			}
		}
	}
}

// TestNoCounter: a chip that cannot count is as good as it can be, or not good at all, as the configuration wants it.
func TestNoCounter(t *testing.T) {
	for what, prevent := range map[string]func(*chip, *Provider) error{
		"no room": func(c *chip, _ *Provider) error {
			index := counterRange
			for _, kind := range []tpm2.TPMNT{tpm2.TPMNTOrdinary, tpm2.TPMNTCounter} {
				for err := error(nil); err == nil; index++ {
					public := counterPublic(index)
					if public.Attributes.NT = kind; kind == tpm2.TPMNTOrdinary {
						public.DataSize = 2048
					}
					_, err = tpm2.NVDefineSpace{AuthHandle: c.ownerSession(), PublicInfo: tpm2.New2B(public)}.Execute(c)
					if err != nil && !is(err, tpm2.TPMRCNVSpace) {
						return err
					}
				}
			}
			return nil
		},
		"an index that is taken": func(c *chip, p *Provider) error {
			keys, _, err := p.store.list("storage")
			if err != nil {
				return err
			}
			public := counterPublic(counterIndex(keys[0]))
			public.Attributes.AuthRead, public.Attributes.OwnerRead = false, true
			_, err = tpm2.NVDefineSpace{AuthHandle: c.ownerSession(), PublicInfo: tpm2.New2B(public)}.Execute(c)
			return err
		},
		"an owner with a password": func(c *chip, _ *Provider) error {
			_, err := tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner")}}.Execute(c)
			return err
		},
	} {
		config := newTPM(t).config(t)
		config.PersistRoot = true
		p := open(t, config)
		makeAll(t, p)
		raw(t, p, func(c *chip) error { return prevent(c, p) })
		_, err := providers.Count(t.Context(), p, "storage", true)
		code(t, what, err, providers.NotSupported)
		if err := p.Health(t.Context()); err != nil {
			t.Errorf("%s: health: %v", what, err)
		}
		p.Close()
		config.CountersRequired = true
		p = open(t, config)
		_, err = providers.Count(t.Context(), p, "storage", false)
		code(t, what+", where one is demanded", err, providers.Denied)
		err = p.Health(t.Context())
		code(t, what+": health where one is demanded", err, providers.Denied)
		raw(t, p, func(c *chip) error {
			values, err := c.properties(tpm2.TPMPTLockoutCounter, 1)
			if values[tpm2.TPMPTLockoutCounter] != 0 {
				t.Errorf("%s: the chip counts %d failures", what, values[tpm2.TPMPTLockoutCounter])
			}
			return err
		})
		p.Close()
	}
}

// TestCounterOfOwner: a counter that the owner has made by hand, with the command that a warning tells, is used.
func TestCounterOfOwner(t *testing.T) {
	s := newTPM(t)
	config := s.config(t)
	config.PersistRoot, config.CountersRequired = true, true
	p := open(t, config)
	makeAll(t, p)
	setOwner(t, p)
	d, err := p.Describe(t.Context())
	if err != nil || len(d.Warnings) != 1 {
		t.Fatalf("%q, %v", d.Warnings, err)
	}
	p.Close()
	_, command, _ := strings.Cut(d.Warnings[0], "; ")
	command, _, _ = strings.Cut(command, " makes it")
	tool(t, s, config.Folder, nil, "sh", "-ec", "command -v tpm2_nvdefine; "+strings.Replace(command, "PASSWORD", "owner", 1))
	p = open(t, config)
	if a, b := count(t, p, "storage", true), count(t, p, "storage", true); b != a+1 {
		t.Errorf("%d, then %d", a, b)
	}
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Destroy(t.Context(), "storage", 1); err != nil {
		t.Errorf("destroying it: %v", err)
	}
}
