// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// TestPretendedKey: a key outside of the TPM whose public area says that it is inside. The TPM loads its public area, but gives
// nothing out for it, with or without a policy that anybody can fulfil. The proof rests on this.
func TestPretendedKey(t *testing.T) {
	c := newChip(t, nil)
	honest := newDevice(c, signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{honest: ""})})
	c.flush(honest.key.Handle)
	outside, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := outside.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private, err := outside.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string][]byte{"with an empty password": nil, "with a policy": policyAnybody(t, c)} {
		t.Run(name, func(t *testing.T) {
			area := signing()
			area.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
			area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
			loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(area), Hierarchy: tpm2.TPMRHNull}.Execute(c)
			if err != nil {
				t.Fatalf("the TPM does not even load it: %v", err)
			}
			d := &attacker{device: *honest, object: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)}}
			if policy != nil {
				d.object.Auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, tpm2.PolicyCallback(fulfilAnybody))
			}
			d.key.area = tpm2.Marshal(tpm2.New2B(area))
			d.sign = func(message []byte) ([]byte, error) {
				digest := sha256.Sum256(message)
				return ecdsa.SignASN1(rand.Reader, outside, digest[:])
			}
			err = s.enrol("device-1", d)
			if err == nil || s.has("device-1") != nil || !d.tried {
				t.Errorf("enrolled: %v", err)
			}
			if !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
				t.Errorf("it failed for another reason: %v", err)
			}
			c.flush(loaded.ObjectHandle)
			// With the private half, it cannot be said to be fixed to the TPM.
			sensitive := tpm2.New2B(tpm2.TPMTSensitive{SensitiveType: tpm2.TPMAlgECC,
				Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: private})})
			if _, err := (tpm2.LoadExternal{InPrivate: sensitive, InPublic: tpm2.New2B(area), Hierarchy: tpm2.TPMRHNull}).Execute(c); err == nil {
				t.Error("the TPM believes what a key says of itself")
			}
			// The same with a key that is inside.
			area.Unique = signing().Unique
			inside := newDevice(c, area)
			defer c.flush(inside.key.Handle)
			d.device, d.object.Handle, d.object.Name = *inside, inside.key.Handle, inside.key.Name
			if err := s.enrol("device-2"+name, d); err != nil {
				t.Error(err)
			}
		})
	}
}

// An attacker has its TPM open credentials for another object than its key.
type attacker struct {
	device
	object tpm2.AuthHandle
	tried  bool
}

// Activate implements enrol.Device.
func (d *attacker) Activate(_ context.Context, _ enrol.Endorsement, credential, encryptedSecret []byte) ([]byte, error) {
	d.tried = true
	return d.activate(tpm2.ECCEKTemplate, d.object, credential, encryptedSecret)
}

// fulfilAnybody fulfils a policy that lets anybody activate credentials.
func fulfilAnybody(tpm transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicyCommandCode{PolicySession: session, Code: tpm2.TPMCCActivateCredential}.Execute(tpm)
	return err
}

func policyAnybody(t *testing.T, c *chip) []byte {
	t.Helper()
	session, end, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		t.Fatal(err)
	}
	defer end() //nolint:errcheck // a trial
	if err := fulfilAnybody(c, session.Handle(), tpm2.TPM2BNonce{}); err != nil {
		t.Fatal(err)
	}
	digest, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return digest.PolicyDigest.Buffer
}

// TestUnfitKeys: keys that a TPM makes or takes, but that could leave it, have come from outside, or are for other things.
func TestUnfitKeys(t *testing.T) {
	c := newChip(t, nil)
	honest := newDevice(c, signing())
	defer c.flush(honest.key.Handle)
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{honest: ""})})
	for name, edit := range map[string]func(*tpm2.TPMTPublic){
		"that can be duplicated": func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false
		},
		"restricted": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = true },
		"for decryption, too": func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes.Decrypt = true
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		},
		"on P-384": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP384})
		},
		"for SHA-384": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
				Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA384})}})
		},
		"for RSAPSS": func(p *tpm2.TPMTPublic) {
			*p = signingRSA()
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
				Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSAPSS, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})}})
		},
		"named by SHA-384": func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 },
		"that only HMACs":  func(p *tpm2.TPMTPublic) { *p = hmacKey() },
	} {
		t.Run(name, func(t *testing.T) {
			template := signing()
			edit(&template)
			d := newDevice(c, template)
			defer c.flush(d.key.Handle)
			s.refuses("device-1", d, enrol.KeyUnfit)
		})
	}
	t.Run("imported", func(t *testing.T) {
		d := *honest
		d.key = importKey(t, c)
		defer c.flush(d.key.Handle)
		s.refuses("device-1", &d, enrol.KeyUnfit)
	})
	for _, bit := range []int{1, 4, 5, 16, 17, 18, 31} { // fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt, sign, none
		d := *honest
		d.key.area = slices.Clone(honest.key.area)
		d.key.area[6+3-bit/8] ^= 1 << (bit % 8) // after a size and two algorithms
		s.refuses("device-1", &d, enrol.KeyUnfit)
	}
	s.enrols("device-1", honest)
}

func hmacKey() tpm2.TPMTPublic {
	t := signing()
	t.Type = tpm2.TPMAlgKeyedHash
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgHMAC,
		Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256})}})
	return t
}

// importKey imports a key that was made outside.
func importKey(t *testing.T, c *chip) object {
	t.Helper()
	outside, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := outside.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private, err := outside.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	area := signing()
	area.ObjectAttributes.FixedTPM, area.ObjectAttributes.FixedParent, area.ObjectAttributes.SensitiveDataOrigin = false, false, false
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	sensitive := tpm2.Marshal(tpm2.TPMTSensitive{SensitiveType: tpm2.TPMAlgECC,
		Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: private})})
	root := c.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	defer c.flush(root.ObjectHandle)
	parent := tpm2.NamedHandle{Handle: root.ObjectHandle, Name: root.Name}
	// Without an inner or an outer wrapping, the duplicate is the sensitive area itself.
	imported, err := tpm2.Import{ParentHandle: parent, ObjectPublic: tpm2.New2B(area),
		Duplicate: tpm2.TPM2BPrivate{Buffer: tpm2.Marshal(tpm2.TPM2BData{Buffer: sensitive})}, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: imported.OutPrivate, InPublic: tpm2.New2B(area)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return object{tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}, tpm2.Marshal(tpm2.New2B(area))}
}

// TestUnfitEndorsements: keys that cannot be endorsement keys, though they are on the list.
func TestUnfitEndorsements(t *testing.T) {
	c := newChip(t, nil)
	d := newDevice(c, signing())
	for name, edit := range map[string]func(*tpm2.TPMTPublic){
		"for signing":            func(p *tpm2.TPMTPublic) { *p = signing() },
		"that can be duplicated": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false },
		"unrestricted": func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes.Restricted = false
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		},
		"on another curve": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCBNP256, Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}})
		},
		"an HMAC key": func(p *tpm2.TPMTPublic) { *p = hmacKey() },
	} {
		t.Run(name, func(t *testing.T) {
			template := tpm2.ECCEKTemplate
			edit(&template)
			d.shown = []enrol.Endorsement{d.endorsement(template)}
			path := t.TempDir() + "/list"
			f, err := enrol.FingerprintOf(d.shown[0].Public)
			if err == nil {
				write(t, path, f.String())
			} else {
				write(t, path, "")
			}
			newServer(t, enrol.Config{Endorsements: path}).refuses("device-1", d, enrol.EndorsementUnfit)
		})
	}
}
