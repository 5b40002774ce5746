// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"maps"
	"os/exec"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// Keys that are made cannot leave the token, be changed, or be used for anything else.
func TestMadeKeys(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	kek := made[*wrapKey](t, p, "kek.wrap", providers.AES256)
	raw := p.module.ctx
	session1 := p.link.owner
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"aes-128", "hmac-sha256", "rsa-2048", "ec-p256", "imported", "imported.wrap", "imported-ec"} {
		var err error
		switch name {
		case "imported":
			_, err = p.Import(t.Context(), name, providers.AES128, make([]byte, 16))
		case "imported.wrap":
			_, err = p.Import(t.Context(), name, providers.AES256, make([]byte, 32))
		case "imported-ec":
			_, err = p.Import(t.Context(), name, providers.ECP256, pkcs8)
		default:
			_, err = p.Generate(t.Context(), name, providers.KeyType(name))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		k, err := p.Open(t.Context(), name, 1)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o := objectOf(t, k)
		o.handle.Store(nil)
		handle, err := o.at(&session{p: p, link: p.link, handle: session1})
		if err != nil {
			t.Fatal(err)
		}
		for attribute, want := range map[uint]bool{p11.CKA_SENSITIVE: true, p11.CKA_EXTRACTABLE: false, p11.CKA_PRIVATE: true,
			p11.CKA_MODIFIABLE: false, p11.CKA_TOKEN: true} {
			v, err := raw.GetAttributeValue(session1, handle, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
			if err != nil || truth(v[0].Value) != want {
				t.Errorf("%s: attribute %x is %v, %v", name, attribute, v, err)
			}
		}
		secretPart := uint(p11.CKA_VALUE)
		if o.keyType == p11.CKK_RSA {
			secretPart = p11.CKA_PRIVATE_EXPONENT
		}
		if _, err := raw.GetAttributeValue(session1, handle, []*p11.Attribute{p11.NewAttribute(secretPart, nil)}); err == nil {
			t.Errorf("%s can be read", name)
		}
		if _, err := raw.WrapKey(session1, keyWrap, kek.handle.Load().number, handle); err == nil {
			t.Errorf("%s can be wrapped", name)
		}
		for _, m := range []uint{p11.CKM_AES_ECB, p11.CKM_AES_CTR, p11.CKM_RSA_PKCS, p11.CKM_RSA_X_509} {
			if raw.EncryptInit(session1, []*p11.Mechanism{p11.NewMechanism(m, make([]byte, 16))}, handle) == nil ||
				raw.DecryptInit(session1, []*p11.Mechanism{p11.NewMechanism(m, nil)}, handle) == nil {
				t.Errorf("%s can be used with mechanism %x", name, m)
			}
		}
		if name == "imported.wrap" && raw.EncryptInit(session1, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_CBC_PAD, make([]byte, 16))}, handle) == nil {
			t.Error("a wrapping key encrypts")
		}
	}
}

func objectOf(t *testing.T, k providers.Key) *object {
	switch k := k.(type) {
	case *cipherKey:
		return k.object
	case *macKey:
		return k.object
	case *wrapKey:
		return k.object
	case *rsaBoth:
		return k.object
	case *ecBoth:
		return k.object
	}
	t.Fatalf("a %T", k)
	return nil
}

// The token is asked as often as is said here, and no more.
func TestCalls(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	mac := made[*macKey](t, p, "mac", providers.HMACSHA256)
	enc := made[*cipherKey](t, p, "enc", providers.AES128)
	wrap := made[*wrapKey](t, p, "key.wrap", providers.AES128)
	ctx := t.Context()
	sum, err1 := mac.MAC(ctx, nil)
	c, err2 := enc.Encrypt(ctx, providers.AESCBC, make([]byte, 16), nil, nil)
	w, err3 := wrap.Wrap(ctx, make([]byte, 16))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		try  func() error
		want map[string]uint64
	}{
		"verify": {func() error { return mac.VerifyMAC(ctx, nil, sum) }, map[string]uint64{"C_VerifyInit": 1, "C_Verify": 1}},
		"MAC":    {func() error { return use1(mac.MAC(ctx, nil)) }, map[string]uint64{"C_SignInit": 1, "C_Sign": 1}},
		"decrypt": {func() error { return use1(enc.Decrypt(ctx, providers.AESCBC, make([]byte, 16), c, nil)) },
			map[string]uint64{"C_DecryptInit": 1, "C_Decrypt": 1}},
		"unwrap": {func() error { return use1(wrap.Unwrap(ctx, w)) },
			map[string]uint64{"C_UnwrapKey": 1, "C_GetAttributeValue": 1, "C_DestroyObject": 1}},
		"open": {func() error { return use1(p.Open(ctx, "mac", 1)) }, map[string]uint64{}},
	} {
		before := p.Calls()
		if err := c.try(); err != nil {
			t.Fatal(err)
		}
		got := p.Calls()
		maps.DeleteFunc(got, func(name string, n uint64) bool { return n == before[name] || name == "C_OpenSession" })
		for name := range got {
			got[name] -= before[name]
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// Keys that others make are found by label and identifier, or by their URI, soon after.
func TestKeysOfOthers(t *testing.T) {
	tool, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		t.Skip("pkcs11-tool is not installed (apt-get install opensc)")
	}
	h := newHSM(t)
	keygen := func(args ...string) {
		t.Helper()
		args = append([]string{"--module", h.module, "--token-label", "keys", "--login", "--pin", testPIN}, args...)
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("pkcs11-tool: %v\n%s", err, out)
		}
	}
	config := h.config()
	config.Keys = map[string][]string{"old": {"pkcs11:object=vendor;id=%aa%bb%cc%dd%ee", "pkcs11:object=vendor;id=%01;type=secret-key"}}
	p := h.open(t, config)
	keygen("--keygen", "--key-type", "AES:16", "--label", "token.enc", "--id", "01", "--sensitive")
	eventually(t, "a new key", func() error { return use1(p.Open(t.Context(), "token.enc", 0)) })
	keygen("--keygen", "--key-type", "AES:32", "--label", "token.enc", "--id", "0102", "--sensitive")
	eventually(t, "its next version", func() error { return use1(p.Open(t.Context(), "token.enc", 258)) })
	if k, err := p.Open(t.Context(), "token.enc", 0); err != nil || k.Info().Version != 258 || k.Info().Type != providers.AES256 {
		t.Errorf("the newest version: %v, %v", k, err)
	}
	if k, err := p.Open(t.Context(), "pkcs11:object=token.enc;id=%01", 0); err != nil || k.Info().Type != providers.AES128 {
		t.Errorf("by its URI: %v, %v", k, err)
	}
	if _, err := p.Open(t.Context(), "pkcs11:token=other;object=token.enc;id=%01", 0); !errors.Is(err, providers.NoSuchKey) {
		t.Errorf("of another token: %v", err)
	}
	keygen("--keygen", "--key-type", "AES:16", "--label", "vendor", "--id", "aabbccddee", "--sensitive")
	keygen("--keygen", "--key-type", "AES:32", "--label", "vendor", "--id", "01", "--sensitive")
	for version, want := range []providers.KeyType{1: providers.AES128, 2: providers.AES256} {
		if version > 0 {
			eventually(t, "a named key", func() error {
				k, err := p.Open(t.Context(), "old", uint32(version))
				if err == nil && k.Info().Type != want {
					t.Errorf("version %d of a named key is %+v", version, k.Info())
				}
				return err
			})
		}
	}
	keygen("--keygen", "--key-type", "AES:16", "--label", "twice", "--id", "01", "--sensitive")
	keygen("--keygen", "--key-type", "AES:16", "--label", "twice", "--id", "0001", "--sensitive")
	if _, err := p.Open(t.Context(), "twice", 0); !errors.Is(err, providers.Corrupt) {
		t.Errorf("two keys of one version: %v", err)
	}
	keygen("--keygen", "--key-type", "AES:16", "--label", "open", "--id", "01", "--extractable")
	if _, err := p.Open(t.Context(), "open", 0); !errors.Is(err, providers.Denied) {
		t.Errorf("an extractable key: %v", err)
	}
}

// The number of a destroyed version is not used again.
func TestNumbers(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	ctx := t.Context()
	made[*macKey](t, p, "mac", providers.HMACSHA256)
	for want := uint32(2); want < 5; want++ {
		info, err := p.Rotate(ctx, "mac")
		if err != nil || info.Version != want {
			t.Fatalf("rotated to %+v, %v", info, err)
		}
		if err := p.Destroy(ctx, "mac", want); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Destroy(ctx, "mac", 1); err != nil {
		t.Fatal(err)
	}
	if info, err := p.Generate(ctx, "mac", providers.AES128); err != nil || info.Version != 5 {
		t.Errorf("generated again as %+v, %v", info, err)
	}
	for _, name := range []string{"", "a\nb", "pkcs11:object=a", strings.Repeat("a", 256), "\xff"} {
		if _, err := p.Generate(ctx, name, providers.AES128); !errors.Is(err, providers.Malformed) {
			t.Errorf("a key of the name %q: %v", name, err)
		}
	}
}

// A rotation is seen at once where it was made.
func TestRotationSeen(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	made[*macKey](t, p, "mac", providers.HMACSHA256)
	began := time.Now()
	for want := uint32(2); want < 20; want++ {
		if _, err := p.Rotate(t.Context(), "mac"); err != nil {
			t.Fatal(err)
		}
		if k, err := p.Open(t.Context(), "mac", 0); err != nil || k.Info().Version != want {
			t.Fatalf("after %v the newest is %v, %v", time.Since(began), k, err)
		}
	}
}
