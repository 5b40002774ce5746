// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// TestLeftByOthers: what others have left in the chip is told and not touched.
func TestLeftByOthers(t *testing.T) {
	config := newTPM(t).config(t)
	config.PersistRoot = true
	p := open(t, config)
	key := generate[providers.Signer](t, p, "sign", providers.ECP256)
	var foreign []tpm2.TPMHandle
	raw(t, p, func(c *chip) error {
		c.unload(0)
		for range 2 {
			r, err := c.primary(&tpm2.ECCSRKTemplate)
			if err != nil {
				return err
			}
			foreign = append(foreign, r.handle)
		}
		return nil
	})
	_, err := key.Sign(t.Context(), providers.ECDSAP256, nil)
	code(t, "a full chip", err, providers.Transient)
	raw(t, p, func(c *chip) error {
		if objects, _, err := c.others(); objects != 2 || err != nil {
			t.Errorf("%d objects of others, %v", objects, err)
		}
		c.flush(foreign[0])
		return nil
	})
	if _, err := key.Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
		t.Errorf("with room: %v", err)
	}
	for _, name := range []string{"a", "b", "c"} { // there is room for one of them at a time
		generate[providers.Signer](t, p, name, providers.ECP256)
	}
	for range 2 {
		for _, name := range []string{"a", "b", "c"} {
			if _, err := opened[providers.Signer](t, p, name).Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
				t.Errorf("with little room, key %s: %v", name, err)
			}
		}
	}
}

// TestSessionsLeftByOthers: a chip that others have filled with sessions is told of, once, and used as soon as there is room.
func TestSessionsLeftByOthers(t *testing.T) {
	config := newTPM(t).config(t)
	config.PersistRoot = true
	var foreign []*session
	other := open(t, Config{Device: config.Device, Folder: t.TempDir(), PersistRoot: true})
	raw(t, other, func(c *chip) error {
		for range 2 {
			s, err := c.start(tpm2.TPMSEHMAC)
			if err != nil {
				return err
			}
			foreign = append(foreign, s)
		}
		c.device.Close() // as a process that is killed
		c.device = nil
		return nil
	})
	other.Close()
	_, err := Open(t.Context(), config)
	code(t, "a chip that is full of sessions", err, providers.Transient)
	if n := strings.Count(fmt.Sprint(err), "3 sessions"); n != 1 {
		t.Errorf("told %d times: %v", n, err)
	}
	d, err := openDevice(config.Device)
	if err != nil {
		t.Fatal(err)
	}
	c := &chip{config: &config, ctx: t.Context(), device: d, counts: make(map[tpm2.TPMCC]uint64)}
	c.flush(foreign[0].handle)
	d.Close()
	p := open(t, config)
	makeAll(t, p)
	if err := useAll(t.Context(), p); err != nil {
		t.Errorf("with room for one session: %v", err)
	}
}

// TestFlushedByOthers: what others have flushed is loaded and begun again.
func TestFlushedByOthers(t *testing.T) {
	for _, persist := range []bool{false, true} {
		config := newTPM(t).config(t)
		config.PersistRoot = persist
		p := open(t, config)
		makeAll(t, p)
		if err := useAll(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		raw(t, p, func(c *chip) error {
			for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTLoadedSession} {
				list, err := c.handles(kind)
				if err != nil {
					return err
				}
				for _, h := range list {
					c.flush(h)
				}
			}
			return nil
		})
		if err := useAll(t.Context(), p); err != nil {
			t.Errorf("persistent %v: %v", persist, err)
		}
		raw(t, p, func(c *chip) error { return noneLeft(t, c) })
	}
}

// take flushes our sessions, and begins others that have their handles.
func take(t *testing.T, p *Provider) (theirs int) {
	t.Helper()
	raw(t, p, func(c *chip) error {
		for _, s := range []*session{c.plain, c.policy} {
			if s == nil {
				continue
			}
			if _, err := (tpm2.FlushContext{FlushHandle: s.handle}).Execute(c); err != nil {
				return err
			}
			r, err := tpm2.StartAuthSession{TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, SessionType: tpm2.TPMSEHMAC, AuthHash: tpm2.TPMAlgSHA256,
				NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)}, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgAES,
					KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}}.Execute(c)
			if err != nil {
				return err
			}
			if h := tpm2.TPMHandle(r.SessionHandle.HandleValue()); h != s.handle {
				return fmt.Errorf("the other session has handle %x, not %x", h, s.handle)
			}
			theirs++
		}
		return nil
	})
	return theirs
}

// activateOne activates a credential for a key and the first endorsement key.
func activateOne(t *testing.T, p *Provider, name string) error {
	t.Helper()
	for e, err := range p.Endorsements(t.Context()) {
		if err != nil {
			return err
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public[2:])
		if err != nil {
			return err
		}
		to, err := tpm2.ImportEncapsulationKey(area)
		if err != nil {
			return err
		}
		credential, encrypted, err := tpm2.CreateCredential(rand.Reader, to, opened[*signer](t, p, name).stored.name.Buffer, []byte("secret"))
		if err != nil {
			return err
		}
		_, err = p.Activate(t.Context(), e, name, 0, credential, encrypted)
		return err
	}
	return nil
}

// TestTakenByOthers: somebody has flushed our session, and begun one that has its handle. The chip then says that an authorisation
// value is wrong, which it is not.
func TestTakenByOthers(t *testing.T) {
	for what, first := range map[string]func(*Provider) error{
		"a key":              func(p *Provider) error { return useAll(t.Context(), p) },
		"a key to be loaded": func(p *Provider) error { return useAll(t.Context(), p) },
		"a new key": func(p *Provider) error {
			_, err := p.Generate(t.Context(), "new", providers.ECP256)
			return err
		},
		"health":       func(p *Provider) error { return p.Health(t.Context()) },
		"a credential": func(p *Provider) error { return activateOne(t, p, "sign") },
	} {
		for _, pcrs := range [][]uint{nil, {testPCR}} {
			if what == "a credential" && pcrs != nil {
				continue // which begins one session more than a chip has room for
			}
			config := withAuth(t, newTPM(t).config(t))
			config.PersistRoot, config.AuthIsRandom, config.PCRs = true, true, pcrs
			p := open(t, config)
			makeAll(t, p)
			for _, err := range []error{useAll(t.Context(), p), p.Health(t.Context())} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if what == "a key to be loaded" {
				raw(t, p, func(c *chip) error { c.unload(0); return nil })
			}
			if what == "a credential" { // so that the key is loaded
				if _, err := opened[providers.Signer](t, p, "sign").Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
					t.Fatal(err)
				}
			}
			theirs := take(t, p)
			if err := first(p); err != nil {
				t.Errorf("%s, PCRs %v: %v", what, pcrs, err)
			}
			if theirs == 2 {
				raw(t, p, func(c *chip) error { c.endPolicy(); return nil }) // for the chip has room for three
			}
			raw(t, p, func(c *chip) error {
				if _, sessions, err := c.others(); sessions == 0 || err != nil {
					t.Errorf("%s, PCRs %v: of %d sessions of others, %d are left, %v", what, pcrs, theirs, sessions, err)
				}
				return nil
			})
			if _, err := os.Stat(filepath.Join(config.Folder, refusedFile)); err == nil {
				t.Errorf("%s, PCRs %v: the right authorisation value is taken for a wrong one", what, pcrs)
			}
			p.Close()
		}
	}
}

// TestCrashes: what processes leave that are killed does not fill the chip.
func TestCrashes(t *testing.T) {
	for _, persist := range []bool{false, true} {
		config := newTPM(t).config(t)
		config.PersistRoot = persist
		for n := range 5 {
			p, err := Open(t.Context(), config)
			if err != nil {
				t.Fatalf("start %d: %v", n, err)
			}
			if n == 0 {
				makeAll(t, p)
			}
			if err := useAll(t.Context(), p); err != nil {
				t.Errorf("start %d: %v", n, err)
			}
			raw(t, p, func(c *chip) error {
				err := noneLeft(t, c)
				c.device.Close() // all that a killed process does
				c.device = nil
				return err
			})
			p.Close()
		}
	}
}
