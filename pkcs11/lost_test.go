// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// made makes a key and opens it.
func made[K providers.Key](t testing.TB, p *Provider, name string, kt providers.KeyType) (key K) {
	t.Helper()
	info, err := p.Generate(t.Context(), name, kt)
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Open(t.Context(), name, info.Version)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := k.(K)
	if !ok {
		t.Fatalf("%s is a %T", name, k)
	}
	return key
}

// onTokens runs a test on SoftHSM, and on opencryptoki's token where softhsm-test/opencryptoki_test.go has made one.
func onTokens(t *testing.T, test func(*testing.T, *Provider)) {
	t.Run("SoftHSM", func(t *testing.T) {
		h := newHSM(t)
		test(t, h.open(t, h.config()))
	})
	if module := os.Getenv("MSLKEEP_TEST_OPENCRYPTOKI"); module != "" {
		t.Run("Opencryptoki", func(t *testing.T) {
			b, err := os.ReadFile(module)
			if err != nil {
				t.Fatal(err)
			}
			h := &hsm{module: module, sum: fmt.Sprintf("%x", sha256.Sum256(b)), pin: os.Getenv("MSLKEEP_TEST_PIN")}
			config := h.config()
			config.AnyMechanism = true
			test(t, h.open(t, config))
		})
	}
}

// wrapping makes a wrapping key, or returns nil if the token has no AES key wrap.
func wrapping(t *testing.T, p *Provider, name string) *wrapKey {
	if _, ok := p.link.mechanisms[p11.CKM_AES_KEY_WRAP]; !ok {
		return nil
	}
	return made[*wrapKey](t, p, name, providers.AES128)
}

// eventually tries for two seconds at most.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// What is lost is renewed, and the operation that noticed does not fail.
func TestRenewed(t *testing.T) { onTokens(t, testRenewed) }

func testRenewed(t *testing.T, p *Provider) {
	mac := made[*macKey](t, p, t.Name()+" mac", providers.HMACSHA256)
	enc := made[*cipherKey](t, p, t.Name()+" enc", providers.AES128)
	wrap := wrapping(t, p, t.Name()+".wrap")
	want, err := mac.MAC(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func() error{
		"log-in":   func() error { return p.module.ctx.Logout(p.link.owner) },
		"sessions": func() error { return p.module.ctx.CloseAllSessions(p.link.slot) },
		"module":   func() error { return p.module.ctx.Finalize() },
	} {
		uses := map[string]func() error{
			"MAC": func() error {
				got, err := mac.MAC(t.Context(), []byte("message"))
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("another MAC after losing the %s", name)
				}
				return err
			},
			"verify":  func() error { return mac.VerifyMAC(t.Context(), []byte("message"), want) },
			"encrypt": func() error { return use1(enc.Encrypt(t.Context(), providers.AESCBC, make([]byte, 16), nil, nil)) },
			"list":    func() error { return use1(p.Keys(t.Context())) },
			"health":  func() error { return p.Health(t.Context()) },
			"generate": func() error {
				return use1(p.Generate(t.Context(), t.Name()+" after losing the "+name, providers.AES256))
			},
		}
		if wrap != nil {
			uses["wrap"] = func() error { return use1(wrap.Wrap(t.Context(), make([]byte, 16))) }
		}
		for what, try := range uses {
			if err := use1(mac.MAC(t.Context(), nil)); err != nil {
				t.Fatal(err)
			}
			if err := lose(); err != nil {
				t.Fatalf("losing the %s: %v", name, err)
			}
			if err := try(); err != nil {
				t.Errorf("%s after losing the %s: %v", what, name, err)
			}
		}
	}
}

func use1[T any](_ T, err error) error { return err }

// While the token is away, operations fail with Transient, and within two seconds of its return they succeed.
func TestTokenAway(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	tokens, away := filepath.Join(h.dir, "tokens"), filepath.Join(h.dir, "away")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		move(tokens, away)
		for range 20 {
			if _, err := mac.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
				t.Fatalf("while the token is away: %v", err)
			}
			if _, err := p.Open(t.Context(), "other", 0); !errors.Is(err, providers.Transient) {
				t.Fatalf("opening while the token is away: %v", err)
			}
		}
		if err := p.Health(t.Context()); !errors.Is(err, providers.Transient) {
			t.Errorf("health while the token is away: %v", err)
		}
		move(away, tokens)
		eventually(t, "after its return", func() error { return use1(mac.MAC(t.Context(), nil)) })
	}
}

// Another token in the place of the one that was there gets no PIN, whatever its name, and nothing is asked of it.
func TestAnotherToken(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	tokens, away := filepath.Join(h.dir, "tokens"), filepath.Join(h.dir, "away")
	if err := errors.Join(os.Rename(tokens, away), os.Mkdir(tokens, 0o700)); err != nil {
		t.Fatal(err)
	}
	h.initToken(t, "keys")
	before := p.Calls()["C_Login"]
	for range 3 {
		for what, err := range map[string]error{
			"MAC": use1(mac.MAC(t.Context(), nil)), "generate": use1(p.Generate(t.Context(), "new", providers.AES128)),
			"list": use1(p.Keys(t.Context())), "health": p.Health(t.Context()),
		} {
			if !errors.Is(err, providers.Transient) {
				t.Errorf("%s with another token: %v", what, err)
			}
		}
		time.Sleep(firstDelay) // so that the token is looked for again
	}
	if n := p.Calls()["C_Login"]; n != before {
		t.Errorf("%d log-ins to another token", n-before)
	}
	if err := errors.Join(os.RemoveAll(tokens), os.Rename(away, tokens)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old token", func() error { return use1(mac.MAC(t.Context(), nil)) })
}

// Every call into the module fails once, with every class of error. Nothing wrong comes out, the error has a code,
// and the next use works.
func TestEachCallFails(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	ctx := t.Context()
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	enc := made[*cipherKey](t, p, "enc", providers.AES128)
	wrap := made[*wrapKey](t, p, "key.wrap", providers.AES128)
	rsa := made[*rsaBoth](t, p, "rsa", providers.RSA2048)
	ec := made[*ecBoth](t, p, "ec", providers.ECP256)
	iv, plain := make([]byte, 16), []byte("sixteen bytes ok")
	c, err1 := enc.Encrypt(ctx, providers.AESCBC, iv, plain, nil)
	w, err2 := wrap.Wrap(ctx, plain)
	m, err3 := mac.MAC(ctx, plain)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	uses := map[string]func() ([]byte, error){ // each with the plaintext as its result
		"decrypt": func() ([]byte, error) { return enc.Decrypt(ctx, providers.AESCBC, iv, c, nil) },
		"unwrap":  func() ([]byte, error) { return wrap.Unwrap(ctx, w) },
		"wrap":    func() ([]byte, error) { return plain, use1(wrap.Wrap(ctx, plain)) },
		"verify":  func() ([]byte, error) { return plain, mac.VerifyMAC(ctx, plain, m) },
		"sign":    func() ([]byte, error) { return plain, use1(rsa.Sign(ctx, providers.RSAPKCS1, plain)) },
		"ecdsa":   func() ([]byte, error) { return plain, use1(ec.Sign(ctx, providers.ECDSAP256, plain)) },
		"list":    func() ([]byte, error) { return plain, use1(p.Keys(ctx)) },
	}
	codes := []uint{p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_ERROR, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID,
		p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_SESSION_COUNT, p11.CKR_HOST_MEMORY, p11.CKR_MECHANISM_INVALID, p11.CKR_TOKEN_NOT_PRESENT, 0x80000001}
	for name, use := range uses {
		for _, code := range codes {
			for n := int64(1); n < 30; n++ {
				var calls atomic.Int64
				p.fail(func(string) error {
					if calls.Add(1) == n {
						return p11.Error(code)
					}
					return nil
				})
				out, err := use()
				p.fail(nil)
				if _, coded := errors.AsType[*providers.Error](err); err != nil && !coded || err == nil && !bytes.Equal(out, plain) {
					t.Fatalf("%s, call %d fails with %x: %x, %v", name, n, code, out, err)
				}
				if errors.Is(err, providers.VerificationFailed) && !(code == p11.CKR_GENERAL_ERROR && (name == "decrypt" || name == "unwrap")) {
					t.Errorf("%s, call %d fails with %x, a fault of the device: %v", name, n, code, err)
				}
				eventually(t, name+" afterwards", func() error { return use1(use()) })
				if calls.Load() < n {
					break
				}
			}
		}
	}
}

// fail sets what calls fail with.
func (p *Provider) fail(f func(string) error) {
	p.module.mu.Lock()
	defer p.module.mu.Unlock()
	p.module.fault = f
}

// With fewer sessions than workers the others wait for those that there are.
func TestSessionLimit(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	var opened atomic.Int64
	p.fail(func(call string) error {
		if call == "C_OpenSession" && opened.Add(1) > 2 {
			return p11.Error(p11.CKR_SESSION_COUNT)
		}
		return nil
	})
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				if _, err := mac.MAC(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A module that does not answer holds nobody up whose context ends, and nothing of the caller's is read any more.
func TestHangs(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	release := make(chan struct{})
	p.fail(func(call string) error {
		if call == "C_Sign" {
			<-release
		}
		return nil
	})
	message := []byte("message")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 2 * defaultSessions {
		wg.Go(func() {
			if _, err := mac.MAC(ctx, message); !errors.Is(err, providers.Transient) {
				t.Errorf("a module that hangs: %v", err)
			}
		})
	}
	wg.Wait()
	clear(message)
	p.fail(nil)
	close(release)
	eventually(t, "afterwards", func() error { return use1(mac.MAC(t.Context(), nil)) })
}

// While keys are used from all sides, everything is lost again and again.
func TestLostUnderLoad(t *testing.T) { onTokens(t, testLostUnderLoad) }

func testLostUnderLoad(t *testing.T, p *Provider) {
	mac := made[*macKey](t, p, t.Name()+" mac", providers.HMACSHA256)
	wrap := wrapping(t, p, t.Name()+".wrap")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			for message := []byte{byte(i)}; ; message = append(message, 1) {
				select {
				case <-stop:
					return
				default:
				}
				sum, err := mac.MAC(t.Context(), message)
				if err == nil {
					err = mac.VerifyMAC(t.Context(), message, sum)
				}
				key := bytes.Repeat([]byte{byte(i)}, 16)
				var wrapped []byte
				if err == nil && wrap != nil {
					wrapped, err = wrap.Wrap(t.Context(), key)
				}
				if err == nil && wrap != nil {
					var got []byte
					if got, err = wrap.Unwrap(t.Context(), wrapped); err == nil && !bytes.Equal(got, key) {
						t.Errorf("a key unwrapped to %x", got)
					}
				}
				if err != nil && !errors.Is(err, providers.Transient) && !errors.Is(err, providers.Device) {
					t.Errorf("under load: %v", err)
				}
				if err == nil {
					done.Add(1)
				}
			}
		})
	}
	for i := range 30 {
		time.Sleep(20 * time.Millisecond) // let them work
		p.life.Lock()                     // as the token itself would, between two calls
		switch {
		case p.link == nil:
		case i%3 == 0:
			p.module.ctx.Logout(p.link.owner)
		case i%3 == 1:
			p.module.ctx.CloseAllSessions(p.link.slot)
		default:
			p.module.ctx.Finalize()
		}
		p.life.Unlock()
	}
	eventually(t, "after the last loss", func() error { return use1(mac.MAC(t.Context(), nil)) })
	close(stop)
	wg.Wait()
	t.Logf("%d rounds", done.Load())
}
