// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

const makerFiles = `statedir = %[1]s
signingkey = %[1]s/signkey.pem
issuercert = %[1]s/issuercert.pem
certserial = %[1]s/certserial
`

// manufacture gives a chip endorsement keys with certificates, as swtpm's maker does.
func manufacture(t *testing.T, s *swtpm, rsaBits int) {
	t.Helper()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Skip("swtpm_setup is not installed (apt-get install swtpm-tools)")
	}
	s.kill()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.conf"), fmt.Sprintf(makerFiles, dir))
	write(t, filepath.Join(dir, "ca.options"), "--platform-manufacturer mslkeep\n--platform-version 1\n--platform-model test\n")
	write(t, filepath.Join(dir, "setup.conf"), fmt.Sprintf("create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %[1]s/ca.conf\ncreate_certs_tool_options = %[1]s/ca.options\n", dir))
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", s.dir, "--overwrite", "--config", filepath.Join(dir, "setup.conf"), "--create-ek-cert",
		"--rsa-keysize", fmt.Sprint(rsaBits)).CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	s.start(t)
}

// certify puts a certificate of an endorsement key where the profile has it.
func certify(t *testing.T, p *Provider, template endorsementTemplate) {
	t.Helper()
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e, err := do(t.Context(), p, "test", useKeys, func(c *chip) (Endorsement, error) { return c.readEndorsement(&template, nil) })
	if err != nil {
		t.Fatalf("%s: %v", template.name, err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, keyIn(t, e.Public), issuer)
	if err != nil {
		t.Fatal(err)
	}
	raw(t, p, func(c *chip) error {
		public := tpm2.TPMSNVPublic{NVIndex: template.certificate, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(der)) + 7, // and padding
			Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, OwnerRead: true, NoDA: true}}
		if _, err := (tpm2.NVDefineSpace{AuthHandle: owner(), PublicInfo: tpm2.New2B(public)}).Execute(c); err != nil {
			return err
		}
		for at := 0; at < int(public.DataSize); at += nvBlock {
			read, err := tpm2.NVReadPublic{NVIndex: template.certificate}.Execute(c) // whose name changes with the first
			if err != nil {
				return err
			}
			index := tpm2.NamedHandle{Handle: template.certificate, Name: read.NVName}
			block := append(bytes.Clone(der), make([]byte, 7)...)[at:min(at+nvBlock, int(public.DataSize))]
			_, err = tpm2.NVWrite{AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)}, NVIndex: index,
				Data: tpm2.TPM2BMaxNVBuffer{Buffer: block}, Offset: uint16(at)}.Execute(c)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func keyIn(t *testing.T, public []byte) crypto.PublicKey {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public[2:])
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestEndorsements: the endorsement keys that a maker has certified are found, and made by templates that are the maker's: the
// certificates are of the same keys. A credential for each can be activated. swtpm's maker has P-384 and RSA-3072 of the high range; the
// others of the high range are certified here.
func TestEndorsements(t *testing.T) {
	for _, x := range []struct {
		rsaBits       int
		certify       []string
		want, certain []string // all, and those with certificates
	}{
		{2048, nil, []string{"rsa-2048", "ec-p384-high", "ec-p256"}, []string{"rsa-2048", "ec-p384-high"}},
		{3072, []string{"ec-p256-high", "rsa-2048-high"}, []string{"ec-p256-high", "rsa-2048-high", "ec-p384-high", "rsa-3072-high", "ec-p256", "rsa-2048"},
			[]string{"ec-p256-high", "rsa-2048-high", "ec-p384-high", "rsa-3072-high"}},
	} {
		s := newTPM(t)
		manufacture(t, s, x.rsaBits)
		p := open(t, s.config(t))
		key := generate[*signer](t, p, "identity", providers.ECP256)
		for _, template := range endorsementTemplates() {
			if slices.Contains(x.certify, template.name) {
				certify(t, p, template)
			}
		}
		var got, certain []string
		for e, err := range p.Endorsements(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Name)
			if e.Certificate != nil {
				certain = append(certain, e.Name)
				cert, err := x509.ParseCertificate(e.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				if k, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(keyIn(t, e.Public)) {
					t.Errorf("%s: the certificate is of another key", e.Name)
				}
			}
			area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public[2:])
			if err != nil {
				t.Fatal(err)
			}
			to, err := tpm2.ImportEncapsulationKey(area)
			if err != nil {
				t.Fatal(err)
			}
			for name, good := range map[string]tpm2.TPM2BName{"its own": key.stored.name, "another": nameOf(nil)} {
				credential, encrypted, err := tpm2.CreateCredential(rand.Reader, to, good.Buffer, []byte("secret"))
				if err != nil {
					t.Fatal(err)
				}
				inside, err := p.Activate(t.Context(), e, "identity", 0, credential, encrypted)
				if name == "another" {
					code(t, e.Name+": a credential for another key", err, providers.VerificationFailed)
				} else if err != nil || string(inside) != "secret" {
					t.Errorf("%s: %q, %v", e.Name, inside, err)
				}
			}
		}
		if !slices.Equal(got, x.want) || !slices.Equal(certain, x.certain) {
			t.Errorf("endorsement keys %q, of which %q have certificates", got, certain)
		}
		raw(t, p, func(c *chip) error { return noneLeft(t, c) })
		p.Close()
	}
}

// TestEndorsementPolicies: the policies of the high range are those of the profile (annex B.6.5), as the chip computes them: the
// endorsement hierarchy's password, or what an NV index says.
func TestEndorsementPolicies(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	for _, x := range []struct {
		hash  tpm2.TPMAlgID
		index tpm2.TPMHandle // of policy C: its name is in the profile, too
		want  string
	}{{tpm2.TPMAlgSHA256, 0x01C07F01, policyB256}, {tpm2.TPMAlgSHA384, 0x01C07F02, policyB384}} {
		raw(t, p, func(c *chip) error {
			hash, err := x.hash.Hash()
			if err != nil {
				return err
			}
			// What the index's name is made of, once the maker has written it: a policy of PolicySecret, and its attributes.
			secret, err := tpm2.NewPolicyCalculator(x.hash)
			if err != nil {
				return err
			}
			if err := (tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement}).Update(secret); err != nil {
				return err
			}
			nv := tpm2.TPMSNVPublic{NVIndex: x.index, NameAlg: x.hash, DataSize: 2 + uint16(hash.Size()), AuthPolicy: tpm2.TPM2BDigest{Buffer: secret.Hash().Digest},
				Attributes: tpm2.TPMANV{PolicyWrite: true, WriteAll: true, PPRead: true, OwnerRead: true, AuthRead: true, PolicyRead: true, NoDA: true, Written: true}}
			h := hash.New()
			h.Write(tpm2.Marshal(nv))
			name := append([]byte{byte(x.hash >> 8), byte(x.hash)}, h.Sum(nil)...)
			authorized, err := tpm2.NewPolicyCalculator(x.hash)
			if err != nil {
				return err
			}
			if err := authorized.Update(tpm2.TPMCCPolicyAuthorizeNV, name); err != nil {
				return err
			}
			either, err := tpm2.NewPolicyCalculator(x.hash)
			if err != nil {
				return err
			}
			or := tpm2.PolicyOr{PHashList: tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: secret.Hash().Digest}, {Buffer: authorized.Hash().Digest}}}}
			if err := or.Update(either); err != nil {
				return err
			}
			if got := either.Hash().Digest; string(got) != x.want {
				t.Errorf("policy B is %x, not %x (policy C: %x)", got, x.want, authorized.Hash().Digest)
			}
			return nil
		})
	}
}
