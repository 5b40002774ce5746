// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// When the log-in is lost while all sessions are busy, one of them logs in again, and none fails.
func TestOneLogin(t *testing.T) { onTokens(t, testOneLogin) }

func testOneLogin(t *testing.T, p *Provider) {
	mac := made[*macKey](t, p, t.Name()+" mac", providers.HMACSHA256)
	for range 5 {
		var waiting sync.WaitGroup
		var lost atomic.Bool
		waiting.Add(defaultSessions)
		gate := make(chan struct{})
		var first [defaultSessions]sync.Once
		var n atomic.Int64
		p.fail(func(call string) error {
			if call != "C_SignInit" || lost.Load() {
				return nil
			}
			if i := n.Add(1) - 1; i < defaultSessions {
				first[i].Do(waiting.Done)
				<-gate
				return p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
			}
			return nil
		})
		before := p.Calls()["C_Login"]
		var wg sync.WaitGroup
		for range defaultSessions {
			wg.Go(func() {
				if _, err := mac.MAC(t.Context(), nil); err != nil {
					t.Errorf("after the log-in was lost: %v", err)
				}
			})
		}
		waiting.Wait() // all sessions are in a call
		if err := p.module.ctx.Logout(p.link.owner); err != nil {
			t.Fatal(err)
		}
		lost.Store(true)
		close(gate)
		wg.Wait()
		if n := p.Calls()["C_Login"] - before; n != 1 {
			t.Errorf("%d log-ins, not 1", n)
		}
	}
}

// Something else in the process logs out and closes sessions in the middle of operations. Each still has the right
// result, or fails as one that may be tried again: above all nothing good is called bad.
func TestLoggedOutInTheMiddle(t *testing.T) { onTokens(t, testLoggedOutInTheMiddle) }

func testLoggedOutInTheMiddle(t *testing.T, p *Provider) {
	ctx := t.Context()
	mac := made[*macKey](t, p, t.Name()+" mac", providers.HMACSHA256)
	enc := made[*cipherKey](t, p, t.Name()+" enc", providers.AES128)
	wrap := wrapping(t, p, t.Name()+".wrap")
	iv, plain := make([]byte, 16), []byte("sixteen bytes ok")
	c, err1 := enc.Encrypt(ctx, providers.AESCBC, iv, plain, nil)
	m, err2 := mac.MAC(ctx, plain)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	uses := []func() ([]byte, error){
		func() ([]byte, error) { return enc.Decrypt(ctx, providers.AESCBC, iv, c, nil) },
		func() ([]byte, error) { return plain, mac.VerifyMAC(ctx, plain, m) },
	}
	if wrap != nil {
		w, err := wrap.Wrap(ctx, plain)
		if err != nil {
			t.Fatal(err)
		}
		uses = append(uses, func() ([]byte, error) { return wrap.Unwrap(ctx, w) })
	}
	// Between which calls it happens: the module itself is not asked to do two things to a session at once.
	var countdown atomic.Int64
	var lose atomic.Pointer[func() error]
	p.fail(func(call string) error {
		switch call {
		case "C_Decrypt", "C_UnwrapKey", "C_GetAttributeValue", "C_Verify", "C_DestroyObject", "C_GetSessionInfo", "C_FindObjects":
			if f := lose.Load(); f != nil && countdown.Add(-1) == 0 {
				(*f)()
			}
		}
		return nil
	})
	logout := func() error { return p.module.ctx.Logout(p.link.owner) }
	closeAll := func() error { return p.module.ctx.CloseAllSessions(p.link.slot) }
	for name, f := range map[string]func() error{"log-in": logout, "sessions": closeAll} {
		for what, use := range uses {
			for at := int64(1); at < 8; at++ {
				if _, err := use(); err != nil {
					t.Fatal(err)
				}
				countdown.Store(at)
				lose.Store(&f)
				got, err := use()
				lose.Store(nil)
				if err == nil && !bytes.Equal(got, plain) || err != nil && !errors.Is(err, providers.Transient) && !errors.Is(err, providers.Device) {
					t.Errorf("use %d, losing the %s before call %d: %x, %v", what, name, at, got, err)
				}
			}
		}
	}
}

// When the module says nothing but that something has failed, that is the peer's fault as long as the log-in is there,
// and the device's when it has gone: then what is good is opened after all.
func TestBlame(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	ctx := t.Context()
	enc := made[*cipherKey](t, p, "enc", providers.AES128)
	wrap := wrapping(t, p, "key.wrap")
	iv, plain := make([]byte, 16), []byte("sixteen bytes ok")
	c, err1 := enc.Encrypt(ctx, providers.AESCBC, iv, plain, nil)
	w, err2 := wrap.Wrap(ctx, plain)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for _, code := range []p11.Error{p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED} {
		for name, use := range map[string]func() ([]byte, error){
			"C_Decrypt":   func() ([]byte, error) { return enc.Decrypt(ctx, providers.AESCBC, iv, c, nil) },
			"C_UnwrapKey": func() ([]byte, error) { return wrap.Unwrap(ctx, w) },
		} {
			for _, away := range []bool{false, true} {
				var calls atomic.Int32
				p.fail(func(call string) error {
					if call != name || calls.Add(1) > 1 {
						return nil
					}
					if away {
						p.module.ctx.Logout(p.link.owner)
					}
					return code
				})
				got, err := use()
				p.fail(nil)
				if away && (err != nil || !bytes.Equal(got, plain)) {
					t.Errorf("%s fails with %v because the log-in has gone: %x, %v", name, code, got, err)
				} else if !away && !errors.Is(err, providers.VerificationFailed) {
					t.Errorf("%s fails with %v: %x, %v", name, code, got, err)
				}
			}
		}
	}
}

// A token that is made anew is not the one whose keys were here.
func TestInitialisedAgain(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	serial := p.link.info.SerialNumber
	out, err := exec.Command("softhsm2-util", "--init-token", "--serial", serial, "--label", "keys", "--pin", testPIN, "--so-pin", "87654321").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	eventually(t, "a token that was made anew", func() error {
		for _, err := range []error{use1(mac.MAC(t.Context(), nil)), use1(p.Open(t.Context(), "mac", 0))} {
			if !errors.Is(err, providers.NoSuchKey) {
				return fmt.Errorf("not refused: %w", err)
			}
		}
		return nil
	})
}
