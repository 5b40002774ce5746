// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

const canary = "canary-plaintext-4711"

// A world is a Vault, a proxy in front of it, and a provider with a role of its own and two keys.
type world struct {
	*vaulttest.Server
	proxy    *proxy
	config   Config
	provider *Provider
	secretID string
	policy   string
}

var entityKeys = map[string]providers.KeyType{"entities": providers.AES256, "mac": providers.HMACSHA256}

// newWorld logs in by AppRole, with exactly the policy that the configuration needs. parameters are more of the role.
func newWorld(t testing.TB, o vaulttest.Options, parameters string) *world {
	t.Helper()
	w := &world{Server: vaulttest.Start(t, o)}
	for name, kind := range entityKeys {
		body := fmt.Sprintf(`{"type":%q}`, transitTypes[kind])
		if kind == providers.HMACSHA256 {
			body = `{"type":"hmac","key_size":32}`
		}
		w.Do("POST", "transit/keys/"+name, body, nil)
	}
	w.proxy = newProxy(t, w.Server)
	w.config = Config{Address: w.proxy.URL, Keys: entityKeys, Timeout: Duration(time.Second),
		Auth: Auth{Method: "approle", RoleID: "?", SecretID: "file:/?"}}
	policy, err := Policy(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.policy = policy
	role, secretID := w.AppRole("mslkeep", policy, parameters)
	w.secretID = secretID("")
	w.config.Auth.RoleID, w.config.Auth.SecretID = role, "file:"+write(t, "secret-id", w.secretID)
	w.provider = open(t, w.config)
	return w
}

// key opens a key.
func (w *world) key(t testing.TB, name string, version uint32) providers.Key {
	t.Helper()
	k, err := w.provider.Open(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// seal encrypts the canary.
func (w *world) seal(t testing.TB) []byte {
	t.Helper()
	c, err := w.key(t, "entities", 0).(providers.Encrypter).Encrypt(t.Context(), providers.AEAD, nil, []byte(canary), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// decrypts uses the key once. Whatever comes of it must not tell secrets.
func (w *world) decrypts(t testing.TB, c []byte) error {
	t.Helper()
	k, err := w.provider.Open(t.Context(), "entities", 0)
	if err == nil {
		var got []byte
		got, err = k.(providers.Decrypter).Decrypt(t.Context(), providers.AEAD, nil, c, []byte("aad"))
		if err == nil && string(got) != canary {
			t.Fatal("decrypted to something else")
		}
	}
	w.tells(t, err)
	return err
}

// tells fails the test if an error has a secret in it.
func (w *world) tells(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	w.provider.session.mu.Lock()
	token := w.provider.session.grant.token
	w.provider.session.mu.Unlock()
	for _, s := range []string{canary, w.secretID, w.Token, token, "vault:v"} {
		if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("an error tells a secret: %v", err)
		}
	}
}

func wantCode(t testing.TB, what string, err error, want providers.Code) {
	t.Helper()
	if _, ok := errors.AsType[*providers.Error](err); !ok || !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

func TestSealed(t *testing.T) {
	w := newWorld(t, vaulttest.Options{Storage: t.TempDir()}, "")
	c := w.seal(t)
	w.Seal()
	began := time.Now()
	wantCode(t, "while it is sealed", w.decrypts(t, c), providers.Transient)
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("that took %v", took)
	}
	err := w.provider.Health(t.Context())
	wantCode(t, "health", err, providers.Transient)
	w.tells(t, err)
	if d, err := w.provider.Describe(t.Context()); err != nil || !strings.Contains(d.Name, "sealed") {
		t.Errorf("described as %q, %v", d.Name, err)
	}
	w.Unseal()
	w.Eventually("it decrypts again", func() bool { return w.decrypts(t, c) == nil })
}

func TestRestarted(t *testing.T) {
	w := newWorld(t, vaulttest.Options{Storage: t.TempDir()}, "")
	c := w.seal(t)
	w.Stop()
	wantCode(t, "while it is away", w.decrypts(t, c), providers.Transient)
	wantCode(t, "health", w.provider.Health(t.Context()), providers.Transient)
	w.Restart()
	wantCode(t, "sealed after a restart", w.decrypts(t, c), providers.Transient)
	w.Unseal()
	w.Eventually("it decrypts again", func() bool { return w.decrypts(t, c) == nil })
	if err := w.provider.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSlow(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	c := w.seal(t)
	w.proxy.delays(time.Minute, "")
	began := time.Now()
	wantCode(t, "while it is slow", w.decrypts(t, c), providers.Transient)
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("that took %v, and the timeout is 1 s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	_, err := w.key(t, "entities", 1).(providers.Decrypter).Decrypt(ctx, providers.AEAD, nil, c, []byte("aad"))
	wantCode(t, "with a deadline of its own", err, providers.Transient)
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("that took %v, and the deadline was 50 ms", took)
	}
	w.proxy.answers(0, 0, "")
	if err := w.decrypts(t, c); err != nil {
		t.Error(err)
	}
}

func TestBusy(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	c := w.seal(t)
	for _, status := range []int{429, 472, 473, 502, 503, 504} {
		w.proxy.answers(status, 3, "decrypt")
		if err := w.decrypts(t, c); err != nil {
			t.Errorf("three times %d: %v", status, err)
		}
		w.proxy.answers(status, -1, "decrypt")
		wantCode(t, fmt.Sprintf("always %d", status), w.decrypts(t, c), providers.Transient)
		if n := w.proxy.count("decrypt"); n < 3 || n > 30 {
			t.Errorf("%d requests in one second of %d", n, status)
		}
	}
	for status, want := range map[int]providers.Code{500: providers.Device, 501: providers.Device, 405: providers.Transient, 418: providers.Transient} {
		w.proxy.answers(status, -1, "decrypt")
		wantCode(t, fmt.Sprint(status), w.decrypts(t, c), want)
		if n := w.proxy.count("decrypt"); n != 1 {
			t.Errorf("%d was tried %d times", status, n)
		}
	}
	w.proxy.answers(0, 0, "")
	if err := w.decrypts(t, c); err != nil {
		t.Error(err)
	}
}

// TestChangesOnce: what makes keys is not sent a second time.
func TestChangesOnce(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	x := newProxy(t, v)
	c := configOf(t, v)
	c.Address = x.URL
	p := open(t, c)
	if _, err := p.Generate(t.Context(), "k", providers.AES256); err != nil {
		t.Fatal(err)
	}
	x.answers(503, -1, "rotate")
	_, err := p.Rotate(t.Context(), "k")
	wantCode(t, "rotating", err, providers.Transient)
	if n := x.count("rotate"); n != 1 {
		t.Errorf("rotated %d times", n)
	}
}

func TestRevoked(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	c := w.seal(t)
	w.provider.session.mu.Lock()
	w.provider.session.got = time.Now().Add(-time.Minute)
	token := w.provider.session.grant.token
	w.provider.session.mu.Unlock()
	w.Do("POST", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, token), nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := w.decrypts(t, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := w.proxy.count("approle/login"); n != 2 {
		t.Errorf("logged in %d times", n)
	}
}

// TestExpires: tokens that end for good after two seconds, renewed once a second.
func TestExpires(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, `,"token_ttl":"1s","token_max_ttl":"2s"`)
	c := w.seal(t)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err := w.decrypts(t, c); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
	if n := w.proxy.count("renew-self"); n < 2 {
		t.Errorf("renewed %d times", n)
	}
	if n := w.proxy.count("approle/login"); n < 3 || n > 12 {
		t.Errorf("logged in %d times in five seconds", n)
	}
}

// TestLoginRefused: a secret id that is withdrawn, and later replaced, in the same file.
func TestLoginRefused(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, `,"token_ttl":"1s","token_max_ttl":"1s"`)
	c := w.seal(t)
	w.Do("POST", "auth/approle/role/mslkeep/secret-id/destroy", fmt.Sprintf(`{"secret_id":%q}`, w.secretID), nil)
	w.Eventually("the token has ended", func() bool {
		err := w.decrypts(t, c)
		if err != nil {
			wantCode(t, "without a token", err, providers.Transient)
		}
		return err != nil
	})
	before := w.proxy.count("approle/login")
	for end := time.Now().Add(time.Second); time.Now().Before(end); { // as many as come want it, which must not lock the role
		wantCode(t, "without a token", w.decrypts(t, c), providers.Transient)
	}
	if n := w.proxy.count("approle/login") - before; n > 1 {
		t.Errorf("a secret id that was refused was tried %d times", n)
	}
	var out struct {
		Data struct {
			ID string `json:"secret_id"`
		}
	}
	w.Do("POST", "auth/approle/role/mslkeep/secret-id", "{}", &out)
	path := strings.TrimPrefix(w.config.Auth.SecretID, "file:")
	if err := os.WriteFile(path, []byte(out.Data.ID), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Eventually("it logs in with the new one", func() bool { return w.decrypts(t, c) == nil })
	_, err := Open(t.Context(), func() Config { c := w.config; c.Auth.SecretID = "file:" + write(t, "s", "wrong"); return c }())
	wantCode(t, "a wrong secret id", err, providers.Locked)
}

func TestDenied(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	c := w.seal(t)
	w.Policy("mslkeep", strings.ReplaceAll(w.policy, "transit/decrypt/entities", "transit/decrypt/others"))
	wantCode(t, "without permission", w.decrypts(t, c), providers.Denied)
	if n := w.proxy.count("approle/login"); n > 2 {
		t.Errorf("logged in %d times", n)
	}
	w.Policy("mslkeep", w.policy)
	if err := w.decrypts(t, c); err != nil {
		t.Error(err)
	}
	_, err := w.provider.Open(t.Context(), "others", 0)
	wantCode(t, "a key that is not in the settings", err, providers.NoSuchKey)
	_, err = w.provider.Rotate(t.Context(), "entities")
	wantCode(t, "rotating without create", err, providers.Denied)
}

func TestRotatedAndWithdrawn(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	old, k := w.seal(t), w.key(t, "entities", 1)
	w.Do("POST", "transit/keys/entities/rotate", "{}", nil)
	w.Eventually("the new version is seen", func() bool { return w.key(t, "entities", 0).Info().Version == 2 })
	if err := w.decrypts(t, old); err != nil {
		t.Errorf("the old version: %v", err)
	}
	fresh, err := k.(interface {
		Rewrap(context.Context, []byte, []byte) ([]byte, error)
	}).Rewrap(t.Context(), old, []byte("aad"))
	if err != nil || !bytes.HasPrefix(fresh, []byte("vault:v2:")) {
		t.Fatalf("rewrapping: %v", err)
	}
	w.Do("POST", "transit/keys/entities/config", `{"min_decryption_version":2,"min_encryption_version":2}`, nil)
	wantCode(t, "a version that is withdrawn", w.decrypts(t, old), providers.NoSuchKey)
	if err := w.decrypts(t, fresh); err != nil {
		t.Errorf("the new version: %v", err)
	}
	_, err = k.(providers.Encrypter).Encrypt(t.Context(), providers.AEAD, nil, []byte(canary), nil)
	wantCode(t, "encrypting with a version that is withdrawn", err, providers.NoSuchKey)
	w.Do("POST", "transit/keys/entities/config", `{"min_decryption_version":1}`, nil)
	w.Eventually("it is allowed again", func() bool { return w.decrypts(t, old) == nil })
}

// TestHalfABatch: of what goes in one request, only what is damaged fails.
func TestHalfABatch(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	good := w.seal(t)
	bad := bytes.Clone(good)
	bad[len(bad)-10] ^= 1
	w.proxy.delays(20*time.Millisecond, "decrypt") // so that they gather
	w.proxy.mu.Lock()
	w.proxy.seen = nil
	w.proxy.mu.Unlock()
	errs := make([]error, 100)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			c := good
			if i%2 == 1 {
				c = bad
			}
			errs[i] = w.decrypts(t, c)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if i%2 == 0 && err != nil {
			t.Errorf("a good one: %v", err)
		}
		if i%2 == 1 {
			wantCode(t, "a bad one", err, providers.VerificationFailed)
		}
	}
	if n := w.proxy.count("decrypt"); n > 10 {
		t.Errorf("%d requests for 100 operations at once", n)
	}
	// All of a batch bad, which Vault answers with 400.
	wantCode(t, "a bad one alone", w.decrypts(t, bad), providers.VerificationFailed)
}

func TestUnreachable(t *testing.T) {
	c := Config{Address: "http://127.0.0.1:1", Auth: Auth{Method: "token", Token: "file:" + write(t, "token", "hvs.canary")}, Timeout: Duration(100 * time.Millisecond)}
	_, err := Open(t.Context(), c)
	wantCode(t, "nobody there", err, providers.Transient)
	c.Auth.Token = "file:" + filepath.Join(t.TempDir(), "none")
	_, err = Open(t.Context(), c)
	wantCode(t, "no token", err, providers.Locked)
	if err != nil && strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}

// TestLoad: the token is revoked, Vault is sealed, slow and busy, while 16 at a time decrypt. All failures are
// transient, and when it is over, all is well.
func TestLoad(t *testing.T) {
	w := newWorld(t, vaulttest.Options{Storage: t.TempDir()}, "")
	c := w.seal(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := w.decrypts(t, c); err != nil {
					wantCode(t, "under load", err, providers.Transient)
				}
			}
		})
	}
	for _, disturb := range []func(){
		func() { w.Seal(); <-time.After(100 * time.Millisecond); w.Unseal() },
		func() { w.proxy.answers(http.StatusTooManyRequests, 100, "") },
		func() { w.proxy.delays(100*time.Millisecond, "") },
		func() { w.proxy.answers(http.StatusServiceUnavailable, 100, "") },
		func() { w.Stop(); w.Restart(); w.Unseal() },
	} {
		disturb()
		<-time.After(200 * time.Millisecond)
		w.proxy.answers(0, 0, "")
		w.Eventually("it decrypts again", func() bool { return w.decrypts(t, c) == nil })
	}
	cancel()
	wg.Wait()
}

// TestRotatedElsewhere: who asks for a version that is not known gets an answer of Vault, however fresh what is known is: that it
// is there, right after a rotation by somebody else; or that it is not. Who asks at the same time shares a request.
func TestRotatedElsewhere(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	old := w.seal(t)
	for version := uint32(2); version < 20; version++ {
		if got := w.key(t, "entities", 0).Info().Version; got != version-1 {
			t.Fatalf("version %d is the newest, not %d", got, version-1)
		}
		if _, err := w.provider.Open(t.Context(), "entities", version); !errors.Is(err, providers.NoSuchKey) {
			t.Fatalf("version %d before it is made: %v", version, err)
		}
		w.Do("POST", "transit/keys/entities/rotate", "{}", nil)
		if got := w.key(t, "entities", version).Info().Version; got != version {
			t.Fatalf("version %d right after it was made: %d", version, got)
		}
		if got := w.key(t, "entities", 0).Info().Version; got != version {
			t.Fatalf("version %d is the newest, not %d", got, version)
		}
	}
	w.proxy.delays(20*time.Millisecond, "keys/entities")
	w.proxy.mu.Lock()
	w.proxy.seen = nil
	w.proxy.mu.Unlock()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := w.provider.Open(t.Context(), "entities", 20); !errors.Is(err, providers.NoSuchKey) {
				t.Errorf("a version that there is not: %v", err)
			}
		})
	}
	wg.Wait()
	if n := w.proxy.count("keys/entities"); n > 10 {
		t.Errorf("%d requests for 100 who ask at once", n)
	}
	future := bytes.Replace(old, []byte("vault:v1:"), []byte("vault:v20:"), 1)
	wantCode(t, "a version that there is not", w.decrypts(t, future), providers.VerificationFailed)
	w.proxy.answers(503, -1, "keys/entities")
	wantCode(t, "a version of which nobody can tell", w.decrypts(t, future), providers.Transient)
	if err := w.decrypts(t, old); err != nil {
		t.Errorf("one that is known, meanwhile: %v", err)
	}
}
