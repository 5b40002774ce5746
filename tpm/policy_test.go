// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

const testPCR = 16 // which anybody may extend and reset

func extend(t *testing.T, p *Provider) {
	t.Helper()
	raw(t, p, func(c *chip) error {
		digest := sha256.Sum256([]byte("other firmware"))
		_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: testPCR, Auth: tpm2.PasswordAuth(nil)}, Digests: tpm2.TPMLDigestValues{
			Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}}}.Execute(c)
		return err
	})
}

func resetPCR(t *testing.T, p *Provider) {
	t.Helper()
	raw(t, p, func(c *chip) error {
		_, err := tpm2.PCRReset{PCRHandle: tpm2.AuthHandle{Handle: testPCR, Auth: tpm2.PasswordAuth(nil)}}.Execute(c)
		return err
	})
}

// TestPCRs: keys bound to PCRs work as long as these are what they were.
func TestPCRs(t *testing.T) {
	for _, auth := range []bool{false, true} {
		config := newTPM(t).config(t)
		config.PCRs = []uint{0, testPCR}
		if auth {
			config = withAuth(t, config)
		}
		p := open(t, config)
		makeAll(t, p)
		for range 2 {
			for range 2 {
				if err := useAll(t.Context(), p); err != nil {
					t.Fatalf("auth %v: %v", auth, err)
				}
			}
			extend(t, p)
			for range 2 {
				code(t, "other PCRs", useAll(t.Context(), p), providers.Denied)
			}
			resetPCR(t, p)
		}
		raw(t, p, func(c *chip) error { return noneLeft(t, c) })
		p.Close()

		config.PCRs = nil // what a key is bound to is in its file
		p = open(t, config)
		if err := useAll(t.Context(), p); err != nil {
			t.Error(err)
		}
		extend(t, p)
		code(t, "other PCRs", useAll(t.Context(), p), providers.Denied)
	}
}

// TestNoBank: no key is made whose policy is about PCRs that the chip does not have.
func TestNoBank(t *testing.T) {
	s := newTPM(t)
	s.kill()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Skip("swtpm_setup is not installed (apt-get install swtpm-tools)")
	}
	if out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", s.dir, "--overwrite", "--pcr-banks", "sha1").CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	s.start(t)
	config := s.config(t)
	config.PCRs = []uint{testPCR}
	p := open(t, config)
	_, err := p.Generate(t.Context(), "sign", providers.ECP256)
	code(t, "a PCR that is not there", err, providers.NotSupported)
}

// TestPolicyWithoutAuth: who fulfils the policy but has not the authorisation value cannot use the key.
func TestPolicyWithoutAuth(t *testing.T) {
	config := withAuth(t, newTPM(t).config(t))
	config.PCRs = []uint{testPCR}
	p := open(t, config)
	key := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	write(t, config.AuthSource[len("file:"):], "wrong")
	_, err := key.MAC(t.Context(), nil)
	code(t, "the wrong authorisation value", err, providers.Locked)
	_, err = key.MAC(t.Context(), nil)
	code(t, "the wrong authorisation value, again", err, providers.Locked)
}

// TestAuthority: keys work with all values of the PCRs that an authority has signed, before or after they were made.
func TestAuthority(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, authority := range []crypto.Signer{rsaKey, ecKey} {
		der, err := x509.MarshalPKIXPublicKey(authority.Public())
		if err != nil {
			t.Fatal(err)
		}
		config := withAuth(t, newTPM(t).config(t))
		config.PCRs, config.Approvals, config.PolicyKey = []uint{testPCR}, t.TempDir(), filepath.Join(t.TempDir(), "authority.pem")
		write(t, config.PolicyKey, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
		p := open(t, config)
		makeAll(t, p)
		code(t, "what is not approved", useAll(t.Context(), p), providers.Denied)
		approve := func(name string) {
			t.Helper()
			var policy []byte
			raw(t, p, func(c *chip) error {
				s, err := c.start(tpm2.TPMSETrial)
				if err != nil {
					return err
				}
				defer c.flush(s.handle)
				k, _ := p.store.find("sign", 0)
				if err := c.runPolicy(s.handle, k.file.policy[:1], true); err != nil {
					return err
				}
				digest, err := tpm2.PolicyGetDigest{PolicySession: s.handle}.Execute(c)
				if err == nil {
					policy = digest.PolicyDigest.Buffer
				}
				return err
			})
			digest := sha256.Sum256(policy)
			sig, err := authority.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(config.Approvals, name+".policy"), string(policy))
			write(t, filepath.Join(config.Approvals, name+".sig"), string(sig))
		}
		approve("first")
		for range 2 {
			if err := useAll(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
		extend(t, p)
		code(t, "another state", useAll(t.Context(), p), providers.Denied)
		approve("second")
		if err := useAll(t.Context(), p); err != nil {
			t.Errorf("after an update: %v", err)
		}
		raw(t, p, func(c *chip) error { return noneLeft(t, c) })
		resetPCR(t, p)
		if err := useAll(t.Context(), p); err != nil {
			t.Errorf("back again: %v", err)
		}
		extend(t, p)
		extend(t, p)
		approve("third")
		write(t, filepath.Join(config.Approvals, "third.sig"), "no signature")
		err = useAll(t.Context(), p)
		code(t, "an approval that is forged", err, providers.Denied)
		if errors.Is(err, errUnapproved) {
			t.Error("the forged approval was not looked at")
		}
		p.Close()
	}
}
