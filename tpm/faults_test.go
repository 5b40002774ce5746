// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// code fails the test unless err has the code.
func code(t *testing.T, what string, err error, want providers.Code) {
	t.Helper()
	if _, ok := errors.AsType[*providers.Error](err); !ok || !errors.Is(err, want) {
		t.Errorf("%s: %v; want code %q", what, err, want)
	}
}

// raw runs f with the chip, as somebody else might.
func raw(t *testing.T, p *Provider, f func(*chip) error) {
	t.Helper()
	if _, err := do(t.Context(), p, "test", useKeys, func(c *chip) (none struct{}, err error) { return none, f(c) }); err != nil {
		t.Fatal(err)
	}
}

// commands returns how many commands were sent since the last call.
func commands(p *Provider, last *map[tpm2.TPMCC]uint64) map[tpm2.TPMCC]uint64 {
	now := p.Commands()
	out := make(map[tpm2.TPMCC]uint64)
	for cc, n := range now {
		if n > (*last)[cc] {
			out[cc] = n - (*last)[cc]
		}
	}
	*last = now
	return out
}

// useAll uses keys of several kinds.
func useAll(ctx context.Context, p *Provider) error {
	ops := []providers.Operation{
		{Key: "sign", Op: providers.OpSign, Mechanism: providers.ECDSAP256, Input: []byte("message")},
		{Key: "mac", Op: providers.OpMAC, Input: make([]byte, 2000)},
		{Key: "storage", Op: providers.OpEncrypt, Mechanism: providers.AESGCM, IV: make([]byte, 12), Input: []byte("plain")},
		{Key: "cipher", Op: providers.OpEncrypt, Mechanism: providers.AESCBC, IV: make([]byte, 16), Input: []byte("plain")},
	}
	for _, r := range providers.Do(ctx, p, ops, false) {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

func makeAll(t *testing.T, p *Provider) {
	t.Helper()
	for name, kt := range map[string]providers.KeyType{"sign": providers.ECP256, "mac": providers.HMACSHA256, "storage": providers.AES256, "cipher": providers.AES128} {
		if _, err := p.Generate(t.Context(), name, kt); err != nil {
			t.Fatal(err)
		}
	}
}

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

// TestFailureMode: a chip that has failed says of a ciphertext what a simulated one says of bad padding.
func TestFailureMode(t *testing.T) {
	bus := newBus(t, newTPM(t))
	p := open(t, bus.config(t))
	key := generate[providers.RSADecrypter](t, p, "rsa.decrypt", providers.RSA2048)
	_, err := key.DecryptRSA(t.Context(), providers.RSAOAEP, make([]byte, 256))
	code(t, "a bad ciphertext", err, providers.VerificationFailed)
	bus.set(func(tpm2.TPMCC, []byte) ([]byte, bool) { return refusal(tpm2.TPMRCFailure), true })
	_, err = key.DecryptRSA(t.Context(), providers.RSAOAEP, make([]byte, 256))
	code(t, "a chip that has failed", err, providers.Device)
}

// TestBusy: codes that ask for it are followed by the same command, and no others.
func TestBusy(t *testing.T) {
	bus := newBus(t, newTPM(t))
	p := open(t, bus.config(t))
	key := generate[providers.Signer](t, p, "sign", providers.ECP256)
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		left := 3
		bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) {
			if left--; left >= 0 {
				return refusal(rc), true
			}
			return nil, true
		})
		if _, err := key.Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
			t.Errorf("%v: %v", rc, err)
		}
	}
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCNVUnavailable, tpm2.TPMRCLockout} {
		n := 0
		bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) { n++; return refusal(rc), true })
		_, err := key.Sign(t.Context(), providers.ECDSAP256, nil)
		code(t, rc.Error(), err, providers.Transient)
		if n != 1 {
			t.Errorf("%v: sent %d times", rc, n)
		}
	}
	n := 0
	bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) { n++; return refusal(tpm2.TPMRCRetry), true })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := key.Sign(ctx, providers.ECDSAP256, nil)
	code(t, "a context that ends while the chip is busy", err, providers.Transient)
	_, err = key.Sign(t.Context(), providers.ECDSAP256, nil)
	code(t, "busy for ever", err, providers.Transient)
	if !errors.Is(err, tpm2.TPMRCRetry) {
		t.Errorf("busy for ever: %v", err)
	}
	bus.set(nil)
	if _, err := key.Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
		t.Error(err)
	}
}

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
		"health": func(p *Provider) error { return p.Health(t.Context()) },
	} {
		for _, pcrs := range [][]uint{nil, {testPCR}} {
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

// TestCleared: when the owner's hierarchy is cleared, the keys are lost, which is said, and none is made under another
// storage root key.
func TestCleared(t *testing.T) {
	for _, persist := range []bool{false, true} {
		config := newTPM(t).config(t)
		config.PersistRoot = persist
		p := open(t, config)
		makeAll(t, p)
		raw(t, p, func(c *chip) error {
			_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(c)
			return err
		})
		code(t, "use after a clear", useAll(t.Context(), p), providers.Corrupt)
		code(t, "health after a clear", p.Health(t.Context()), providers.Corrupt)
		_, err := p.Generate(t.Context(), "new", providers.ECP256)
		code(t, "a new key after a clear", err, providers.Corrupt)
		p.Close()
		_, err = Open(t.Context(), config)
		code(t, "opening after a clear", err, providers.Corrupt)
	}
}

// TestAnotherChip: the folder of one chip is of no use with another.
func TestAnotherChip(t *testing.T) {
	config := newTPM(t).config(t)
	p := open(t, config)
	makeAll(t, p)
	name := p.RootName()
	p.Close()
	config.Device = "swtpm:unix:" + newTPM(t).socket
	_, err := Open(t.Context(), config)
	code(t, "another chip", err, providers.Corrupt)
	if err := os.Remove(filepath.Join(config.Folder, rootFile)); err != nil {
		t.Fatal(err)
	}
	p = open(t, config)
	code(t, "a key of another chip", useAll(t.Context(), p), providers.Corrupt)
	if bytes.Equal(name, p.RootName()) {
		t.Error("two chips have the same storage root key")
	}
}

// TestTamperedResponses changes each response in turn. Nothing of it is believed, and no wrong authorisation value comes of it.
func TestTamperedResponses(t *testing.T) {
	s := newTPM(t)
	bus := newBus(t, s)
	config := withAuth(t, bus.config(t))
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	want, err := key.MAC(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for _, how := range []func(b []byte, n int) []byte{
		func(b []byte, n int) []byte { // not in the size, which makes it wait for more
			b[headerSize-1+n%(len(b)-headerSize+1)] ^= 0x40
			return b
		},
		func(b []byte, n int) []byte { sum := sha256.Sum256(b); return sum[:] },
		func(b []byte, n int) []byte { return refusal(tpm2.TPMRCSuccess) },
	} {
		for n := range 48 {
			count := 0
			bus.setAnswer(func(_ tpm2.TPMCC, b []byte) []byte {
				if count++; count%12 != n%12 {
					return b
				}
				return how(b, n)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if p, err := Open(ctx, config); err == nil {
				if k, err := p.Open(ctx, "mac", 0); err == nil {
					if got, err := k.(providers.MACer).MAC(ctx, []byte("message")); err == nil && !bytes.Equal(got, want) {
						t.Error("a changed response was believed")
					}
				}
				p.Close()
			}
			cancel()
		}
	}
	bus.setAnswer(nil)
	s.kill() // with the sessions whose handles nobody knows, because a response was lost
	s.start(t)
	p = open(t, config)
	if _, err := opened[providers.MACer](t, p, "mac").MAC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	raw(t, p, func(c *chip) error {
		values, err := c.properties(tpm2.TPMPTLockoutCounter, 1)
		if values[tpm2.TPMPTLockoutCounter] != 0 {
			t.Errorf("the chip counts %d failures", values[tpm2.TPMPTLockoutCounter])
		}
		return err
	})
}

// TestHang: operations end in time when the chip does not answer, and the next ones wait for it.
func TestHang(t *testing.T) {
	bus := newBus(t, newTPM(t))
	p := open(t, bus.config(t))
	key := generate[providers.Signer](t, p, "sign", providers.ECP256)
	release := make(chan struct{})
	bus.set(func(tpm2.TPMCC, []byte) ([]byte, bool) { <-release; return nil, true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range maxWaiting + 10 { // more than can wait
		wg.Go(func() {
			_, err := key.Sign(ctx, providers.ECDSAP256, nil)
			code(t, "a chip that hangs", err, providers.Transient)
		})
	}
	wg.Wait()
	close(release)
	bus.set(nil)
	if _, err := key.Sign(t.Context(), providers.ECDSAP256, nil); err != nil {
		t.Error(err)
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
