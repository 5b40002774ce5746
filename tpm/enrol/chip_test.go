// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"iter"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// A maker makes TPMs: it gives endorsement keys their certificates, by way of an intermediate.
type maker struct{ dir string }

const makerFiles = `statedir = %[1]s
signingkey = %[1]s/signkey.pem
issuercert = %[1]s/issuercert.pem
certserial = %[1]s/certserial
`

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{t.TempDir()}
	write(t, filepath.Join(m.dir, "ca.conf"), fmt.Sprintf(makerFiles, m.dir))
	write(t, filepath.Join(m.dir, "ca.options"), "--platform-manufacturer mslkeep\n--platform-version 1\n--platform-model test\n")
	write(t, filepath.Join(m.dir, "setup.conf"), fmt.Sprintf("create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %[1]s/ca.conf\ncreate_certs_tool_options = %[1]s/ca.options\n", m.dir))
	return m
}

// pool returns some of the maker's certificates, which it has when it has made a TPM.
func (m *maker) pool(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A chip is a simulated TPM, whom the tests command as nobody should: it does what an attacker would try.
type chip struct {
	transport.TPM
	t testing.TB
}

// newChip starts a TPM. Without a maker its endorsement keys have no certificates.
func newChip(t testing.TB, m *maker) *chip {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if m != nil {
		setup := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", filepath.Join(m.dir, "setup.conf"), "--create-ek-cert")
		if out, err := setup.CombinedOutput(); err != nil {
			t.Fatalf("swtpm_setup: %v: %s", err, out)
		}
	}
	socket := filepath.Join(dir, "server")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"),
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("swtpm does not start")
		}
	}
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	return &chip{tpm, t}
}

func (c *chip) flush(h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(c) }

// primary makes a key of a hierarchy. The caller flushes it.
func (c *chip) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *tpm2.CreatePrimaryResponse {
	c.t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// An object is a loaded key.
type object struct {
	tpm2.NamedHandle
	area []byte // TPM2B_PUBLIC
}

// create makes a key under a storage root key, and loads it.
func (c *chip) create(template tpm2.TPMTPublic) object {
	c.t.Helper()
	root := c.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	defer c.flush(root.ObjectHandle)
	parent := tpm2.NamedHandle{Handle: root.ObjectHandle, Name: root.Name}
	made, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: made.OutPrivate, InPublic: made.OutPublic}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return object{tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}, tpm2.Marshal(made.OutPublic)}
}

// signing is the template of an identity key on P-256.
func signing() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})}
}

// signingRSA is that of one with RSA.
func signingRSA() tpm2.TPMTPublic {
	t := signing()
	t.Type = tpm2.TPMAlgRSA
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
		Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}})
	return t
}

// A device is a chip with an identity key. It implements enrol.Device. Each of its parts can be that of another.
type device struct {
	*chip
	key          object
	endorsements []tpm2.TPMTPublic        // templates
	certificates map[tpm2.TPMAlgID][]byte // by type of the endorsement key
	shown        []enrol.Endorsement      // if set, what it says it has, though it uses its own
	sign         func(message []byte) ([]byte, error)
}

// newDevice makes an identity key.
func newDevice(c *chip, template tpm2.TPMTPublic) *device {
	d := &device{chip: c, key: c.create(template), endorsements: []tpm2.TPMTPublic{tpm2.ECCEKTemplate}}
	d.sign = d.signInside
	return d
}

// certified makes a device show its RSA endorsement key, with the certificate that its maker has put in it.
func (d *device) certified() *device {
	d.endorsements = []tpm2.TPMTPublic{tpm2.RSAEKTemplate}
	d.certificates = map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgRSA: d.certificate()}
	return d
}

// certificate reads the RSA endorsement key's.
func (d *device) certificate() (der []byte) {
	d.t.Helper()
	const index = 0x01C00002
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(d)
	if err != nil {
		d.t.Fatal(err)
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		d.t.Fatal(err)
	}
	h := tpm2.NamedHandle{Handle: index, Name: public.NVName}
	for n := int(area.DataSize); len(der) < n; {
		r, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)}, NVIndex: h,
			Size: uint16(min(512, n-len(der))), Offset: uint16(len(der))}.Execute(d)
		if err != nil {
			d.t.Fatal(err)
		}
		der = append(der, r.Data.Buffer...)
	}
	var element cryptobyte.String
	if in := cryptobyte.String(der); !in.ReadASN1Element(&element, asn1.SEQUENCE) {
		d.t.Fatal("no certificate")
	}
	return element
}

// Endorsements implements enrol.Device.
func (d *device) Endorsements(context.Context) iter.Seq2[enrol.Endorsement, error] {
	return func(yield func(enrol.Endorsement, error) bool) {
		list := d.shown
		for _, template := range d.endorsements {
			if d.shown == nil {
				list = append(list, d.endorsement(template))
			}
		}
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (d *device) endorsement(template tpm2.TPMTPublic) enrol.Endorsement {
	d.t.Helper()
	r := d.primary(tpm2.TPMRHEndorsement, template)
	d.flush(r.ObjectHandle)
	return enrol.Endorsement{Public: tpm2.Marshal(r.OutPublic), Certificate: d.certificates[template.Type]}
}

// Key implements enrol.Device.
func (d *device) Key() []byte { return d.key.area }

// Activate implements enrol.Device: it uses the endorsement key of the type that was shown.
func (d *device) Activate(_ context.Context, e enrol.Endorsement, credential, encryptedSecret []byte) ([]byte, error) {
	template := tpm2.ECCEKTemplate
	if e.Public[3] == byte(tpm2.TPMAlgRSA) {
		template = tpm2.RSAEKTemplate
	}
	return d.activate(template, tpm2.AuthHandle{Handle: d.key.Handle, Name: d.key.Name, Auth: tpm2.PasswordAuth(nil)}, credential, encryptedSecret)
}

func (d *device) activate(template tpm2.TPMTPublic, object tpm2.AuthHandle, credential, encryptedSecret []byte) ([]byte, error) {
	d.t.Helper()
	ek := d.primary(tpm2.TPMRHEndorsement, template)
	defer d.flush(ek.ObjectHandle)
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, tpm2.PolicyCallback(func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
		return err
	}))
	r, err := tpm2.ActivateCredential{ActivateHandle: object, KeyHandle: tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: policy},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: encryptedSecret}}.Execute(d)
	if err != nil {
		return nil, err
	}
	return r.CertInfo.Buffer, nil
}

// Sign implements enrol.Device.
func (d *device) Sign(_ context.Context, message []byte) ([]byte, error) { return d.sign(message) }

func (d *device) signInside(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	r, err := tpm2.Sign{KeyHandle: d.key.NamedHandle, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(d)
	if err != nil {
		return nil, err
	}
	if s, err := r.Signature.Signature.RSASSA(); err == nil {
		return s.Sig.Buffer, nil
	}
	s, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(s.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(s.SignatureS.Buffer))
	})
	return b.Bytes()
}

// publicKey is the device's identity key.
func (d *device) publicKey() crypto.PublicKey {
	d.t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](d.key.area[2:])
	if err != nil {
		d.t.Fatal(err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		d.t.Fatal(err)
	}
	return key
}
