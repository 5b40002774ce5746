// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// TestWrongAuth: a wrong authorisation value is tried once, and none when one more would lock the chip.
func TestWrongAuth(t *testing.T) {
	ctx, s := t.Context(), newTPM(t)
	config := withAuth(t, s.config(t))
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	path := config.AuthSource[len("file:"):]
	if _, err := key.MAC(ctx, nil); err != nil { // which the chip wants again, the first time after a reset
		t.Fatal(err)
	}
	for i, wrong := range []string{"wrong", "wrong too", "and wrong", "again wrong"} {
		write(t, path, wrong)
		var last map[tpm2.TPMCC]uint64
		commands(p, &last)
		for try := range 3 {
			_, err := key.MAC(ctx, nil)
			code(t, wrong, err, providers.Locked)
			want := uint64(0)
			if try == 0 && i < 2 { // swtpm is locked after three
				want = 1
			}
			if got := commands(p, &last)[tpm2.TPMCCHMAC]; got != want {
				t.Errorf("value %d, use %d: %d commands tried it", i, try, got)
			}
		}
		if i != 1 {
			continue
		}
		p.Close() // and another process with the same file does not either
		p = open(t, config)
		key = opened[providers.MACer](t, p, "mac")
		_, err := key.MAC(ctx, nil)
		code(t, "in another process", err, providers.Locked)
		if got := p.Commands()[tpm2.TPMCCHMAC]; got != 0 {
			t.Error("another process has tried it again")
		}
	}
	raw(t, p, func(c *chip) error {
		values, err := c.properties(tpm2.TPMPTLockoutCounter, 1)
		if values[tpm2.TPMPTLockoutCounter] != 2 {
			t.Errorf("the chip counts %d failures", values[tpm2.TPMPTLockoutCounter])
		}
		return err
	})
}

// TestLostTry: when the answer to a value that is not known to be right is lost, the operation does not try it again. The next one does,
// once.
func TestLostTry(t *testing.T) {
	s := newTPM(t)
	bus := newBus(t, s)
	config := withAuth(t, bus.config(t))
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	if _, err := key.MAC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	write(t, config.AuthSource[len("file:"):], "wrong")
	bus.setAnswer(func(cc tpm2.TPMCC, b []byte) []byte {
		if cc == tpm2.TPMCCHMAC {
			return nil
		}
		return b
	})
	var last map[tpm2.TPMCC]uint64
	commands(p, &last)
	for i, want := range []struct {
		code  providers.Code
		tries uint64
	}{{providers.Transient, 1}, {providers.Locked, 1}, {providers.Locked, 0}, {providers.Locked, 0}} {
		_, err := key.MAC(t.Context(), nil)
		code(t, "a wrong value", err, want.code)
		if got := commands(p, &last)[tpm2.TPMCCHMAC]; got != want.tries {
			t.Errorf("use %d: %d commands tried it, not %d", i, got, want.tries)
		}
		bus.setAnswer(nil)
	}
}

// TestTwoValues: a wrong value of one key does not keep others from being used.
func TestTwoValues(t *testing.T) {
	config := withAuth(t, newTPM(t).config(t))
	p := open(t, config)
	old := generate[providers.MACer](t, p, "old", providers.HMACSHA256)
	write(t, config.AuthSource[len("file:"):], "another value")
	key := generate[providers.MACer](t, p, "new", providers.HMACSHA256)
	for range 2 {
		_, err := old.MAC(t.Context(), nil)
		code(t, "the key with the old value", err, providers.Locked)
		if _, err := key.MAC(t.Context(), nil); err != nil {
			t.Errorf("the key with the new value: %v", err)
		}
	}
}

// TestFileWithoutAuth: a file that says that its key has no authorisation value, and is wrong, is found out once.
func TestFileWithoutAuth(t *testing.T) {
	config := withAuth(t, newTPM(t).config(t))
	p := open(t, config)
	k := generate[providers.MACer](t, p, "mac", providers.HMACSHA256).(*macKey).stored
	file := *k.file
	file.hasAuth = false
	b, err := file.encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, k.path, string(b))
	for range 2 {
		for range 3 {
			_, err = opened[providers.MACer](t, p, "mac").MAC(t.Context(), nil)
			code(t, "a file that says that there is no value", err, providers.Locked)
		}
		p.Close()
		p = open(t, config)
	}
	raw(t, p, func(c *chip) error {
		values, err := c.properties(tpm2.TPMPTLockoutCounter, 1)
		if values[tpm2.TPMPTLockoutCounter] != 1 {
			t.Errorf("the chip counts %d failures", values[tpm2.TPMPTLockoutCounter])
		}
		return err
	})
}

// TestRightAgain: when the right value is back in the file, it works.
func TestRightAgain(t *testing.T) {
	config := withAuth(t, newTPM(t).config(t))
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	path := config.AuthSource[len("file:"):]
	write(t, path, "wrong")
	_, err := key.MAC(t.Context(), nil)
	code(t, "wrong", err, providers.Locked)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = key.MAC(t.Context(), nil)
	code(t, "no file", err, providers.Locked)
	write(t, path, testAuth)
	if _, err := key.MAC(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestLockout: keys with protection from guessing fail while others have locked the chip, and those without do not.
func TestLockout(t *testing.T) {
	ctx, s := t.Context(), newTPM(t)
	config := withAuth(t, s.config(t))
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	if _, err := key.MAC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		raw(t, p, func(c *chip) error {
			k := key.(*macKey).stored
			h, err := c.load(k)
			if err != nil {
				return err
			}
			wrong := secret.Take([]byte("guess"))
			_, err = tpm2.Hmac{Handle: tpm2.AuthHandle{Handle: h, Name: k.name, Auth: c.plain.with(wrong, encryptNone)}, HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
			if !isAuth(err) {
				t.Errorf("a wrong value: %v", err)
			}
			return nil
		})
	}
	_, err := key.MAC(ctx, nil)
	code(t, "use while locked", err, providers.Transient)
	code(t, "health while locked", p.Health(ctx), providers.Transient)
	raw(t, p, func(c *chip) error { // TPM2_DictionaryAttackLockReset, which the library does not have
		response, err := c.Send([]byte{0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39, 0x40, 0, 0, 0x0a, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0})
		if err == nil && !bytes.Equal(response[6:10], make([]byte, 4)) {
			t.Errorf("resetting the lockout: %x", response)
		}
		return err
	})
	if _, err := key.MAC(ctx, nil); err != nil {
		t.Errorf("when it is not locked any more: %v", err)
	}
	if err := p.Health(ctx); err != nil {
		t.Errorf("health when it is not locked any more: %v", err)
	}
	p.Close()

	config.AuthIsRandom = true
	p = open(t, config)
	if _, err := generate[providers.MACer](t, p, "free", providers.HMACSHA256).MAC(ctx, nil); err != nil {
		t.Errorf("a key without protection from guessing: %v", err)
	}
	p.Close()
	config.AuthSource, config.AuthIsRandom = "", false
	p = open(t, config)
	if _, err := generate[providers.MACer](t, p, "open", providers.HMACSHA256).MAC(ctx, nil); err != nil {
		t.Errorf("a key with nothing to guess: %v", err)
	}
}
