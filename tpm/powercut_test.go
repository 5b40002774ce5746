// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// TestPowerCut cuts the power before each command in turn, and after it: of uses of keys, of a start that makes the storage root key, and
// of making keys, one of them under a policy.
func TestPowerCut(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*Config)
		fresh bool // the folder, and what is in the chip
		do    func(*testing.T, *Provider) error
	}{
		{"use", func(*Config) {}, false, func(t *testing.T, p *Provider) error { return useAll(t.Context(), p) }},
		{"policy", func(c *Config) { c.PersistRoot, c.PCRs, c.AuthIsRandom = true, []uint{testPCR}, true }, false,
			func(t *testing.T, p *Provider) error { return useAll(t.Context(), p) }},
		{"make", func(c *Config) { c.PersistRoot, c.PCRs, c.AuthIsRandom = true, []uint{testPCR}, true }, true, func(t *testing.T, p *Provider) error {
			if _, err := p.Generate(t.Context(), "sign", providers.ECP256); err != nil && !errors.Is(err, providers.Exists) {
				return err
			}
			_, err := opened[providers.Signer](t, p, "sign").Sign(t.Context(), providers.ECDSAP256, nil)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTPM(t)
			bus := newBus(t, s)
			config := bus.config(t)
			if c.edit(&config); config.AuthIsRandom {
				config = withAuth(t, config)
			}
			if !c.fresh {
				setup := open(t, config)
				makeAll(t, setup)
				setup.Close()
			}
			for _, after := range []bool{false, true} {
				for n := 0; ; n++ {
					if c.fresh {
						config.Folder = t.TempDir()
						evict(t, s)
					}
					cut := cutAt(t, s, bus, n, after)
					p, err := Open(t.Context(), config)
					if err != nil {
						t.Fatalf("after a power cut at command %d: %v", n, err)
					}
					err = c.do(t, p)
					if errors.Is(err, providers.Transient) && config.AuthSource != "" && cut() {
						err = c.do(t, p) // a value that may be wrong is not tried twice by one operation
					}
					if err != nil {
						t.Errorf("after a power cut at command %d (%v): %v", n, after, err)
					}
					raw(t, p, func(c *chip) error { return noneLeft(t, c) })
					p.Close()
					if !cut() {
						if n < 20 {
							t.Errorf("only %d commands", n)
						}
						break
					}
				}
			}
		})
	}
}

// cutAt cuts the power before the command of a number, or after it, and tells whether it has.
func cutAt(t *testing.T, s *swtpm, bus *bus, n int, after bool) func() bool {
	var mu sync.Mutex
	count, cut := 0, false
	here := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if count++; count != n+1 {
			return false
		}
		cut = true
		s.kill()
		s.start(t)
		return true
	}
	bus.set(func(tpm2.TPMCC, []byte) ([]byte, bool) { return nil, after || !here() })
	bus.setAnswer(func(_ tpm2.TPMCC, b []byte) []byte {
		if after && here() {
			return nil // the chip has done it, but its answer is lost
		}
		return b
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return cut
	}
}

// evict removes the storage root key from the chip, if it is there.
func evict(t *testing.T, s *swtpm) {
	t.Helper()
	p := open(t, s.config(t))
	defer p.Close()
	raw(t, p, func(c *chip) error {
		if c.root.transient {
			return nil
		}
		_, err := tpm2.EvictControl{Auth: owner(), ObjectHandle: tpm2.NamedHandle{Handle: c.root.handle, Name: c.root.name}, PersistentHandle: rootHandle}.Execute(c)
		return err
	})
}

// noneLeft fails the test if there is something in the chip that is not ours.
func noneLeft(t *testing.T, c *chip) error {
	t.Helper()
	objects, sessions, err := c.others()
	if objects+sessions > 0 {
		t.Errorf("%d objects and %d sessions are left in the chip", objects, sessions)
	}
	return err
}

// TestGone: while the chip is away, operations fail at once, and work when it is back.
func TestGone(t *testing.T) {
	s := newTPM(t)
	p := open(t, s.config(t))
	makeAll(t, p)
	for range 3 {
		s.kill()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for range 3 {
			code(t, "without a chip", useAll(ctx, p), providers.Transient)
		}
		code(t, "health without a chip", p.Health(ctx), providers.Transient)
		if ctx.Err() != nil {
			t.Error("it took too long")
		}
		cancel()
		s.start(t)
		if err := useAll(t.Context(), p); err != nil {
			t.Errorf("after a reset: %v", err)
		}
		if err := p.Health(t.Context()); err != nil {
			t.Errorf("health after a reset: %v", err)
		}
	}
}
