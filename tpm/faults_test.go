// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
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
