// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// An authority signs what a test wants.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, cert: &x509.Certificate{Subject: pkix.Name{CommonName: "maker"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	if a.cert, err = x509.ParseCertificate(a.sign(a.cert, &key.PublicKey)); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign completes and signs a certificate.
func (a *authority) sign(c *x509.Certificate, key any) []byte {
	a.t.Helper()
	c.SerialNumber = big.NewInt(1)
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// saysOAEP makes a certificate of an RSA key say that the key is for OAEP only.
func (a *authority) saysOAEP(der []byte) []byte {
	a.t.Helper()
	var c struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		a.t.Fatal(err)
	}
	rsa := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}
	if bytes.Count(c.TBS.FullBytes, rsa) != 1 {
		a.t.Fatal("not a certificate of an RSA key")
	}
	c.TBS.FullBytes[bytes.Index(c.TBS.FullBytes, rsa)+len(rsa)-1] = 7
	digest := sha256.Sum256(c.TBS.FullBytes)
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, digest[:])
	if err != nil {
		a.t.Fatal(err)
	}
	c.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	if der, err = asn1.Marshal(c); err != nil {
		a.t.Fatal(err)
	}
	return der
}

var (
	oidEndorsement  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidPlatform     = asn1.ObjectIdentifier{2, 23, 133, 8, 2}
	directoryName   = []byte{0x30, 0x14, 0xa4, 0x12, 0x30, 0x10, 0x31, 0x0e, 0x30, 0x0c, 0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x01, 0x0c, 0x03, 'T', 'P', 'M'}
	alternativeName = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: directoryName}
)

// TestCertificates: which certificates of endorsement keys are good.
func TestCertificates(t *testing.T) {
	c := newChip(t, nil)
	d, maker, stranger := newDevice(c, signing()), newAuthority(t), newAuthority(t)
	curve, big := d.endorsement(tpm2.ECCEKTemplate), d.endorsement(tpm2.RSAEKTemplate)
	roots := x509.NewCertPool()
	roots.AddCert(maker.cert)
	s := newServer(t, enrol.Config{Roots: roots})
	keyOf := func(e enrol.Endorsement) any {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public[2:])
		if err != nil {
			t.Fatal(err)
		}
		key, err := tpm2.Pub(*area)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	good := func(edit func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{KeyUsage: x509.KeyUsageKeyAgreement, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEndorsement}, ExtraExtensions: []pkix.Extension{alternativeName}}
		if edit != nil {
			edit(c)
		}
		return c
	}
	web := func(c *x509.Certificate) {
		c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, k := range []struct {
		name        string
		endorsement enrol.Endorsement
		certificate []byte
		want        bool
	}{
		{"good", curve, maker.sign(good(nil), keyOf(curve)), true},
		{"good, RSA", big, maker.sign(good(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), keyOf(big)), true},
		{"for OAEP only", big, maker.saysOAEP(maker.sign(good(nil), keyOf(big))), true},
		{"for OAEP only, of a stranger", big, stranger.saysOAEP(stranger.sign(good(nil), keyOf(big))), false},
		{"no extended key usage", curve, maker.sign(good(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), keyOf(curve)), true},
		{"of a stranger", curve, stranger.sign(good(nil), keyOf(curve)), false},
		{"of another key", curve, maker.sign(good(nil), keyOf(big)), false},
		{"of another curve key", curve, maker.sign(good(nil), &stranger.key.PublicKey), false},
		{"expired", curve, maker.sign(good(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), keyOf(curve)), false},
		{"for a web server", curve, maker.sign(good(web), keyOf(curve)), false},
		{"of a platform", curve, maker.sign(good(func(c *x509.Certificate) { c.UnknownExtKeyUsage[0] = oidPlatform }), keyOf(curve)), false},
		{"for signatures", curve, maker.sign(good(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }), keyOf(curve)), false},
		{"of an authority", curve, maker.sign(good(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), keyOf(curve)), false},
		{"with another critical extension", curve, maker.sign(good(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), keyOf(curve)), false},
		{"none", curve, nil, false},
		{"not one", curve, []byte("certificate"), false},
		{"the maker's own", curve, maker.cert.Raw, false},
		{"too long", curve, make([]byte, 9<<10), false},
	} {
		t.Run(k.name, func(t *testing.T) {
			k.endorsement.Certificate = k.certificate
			d.shown = []enrol.Endorsement{k.endorsement}
			if k.want {
				s.enrols("device-1", d)
				return
			}
			s.refuses("device-2", d, enrol.CertificateRefused)
		})
	}
	later := newServer(t, enrol.Config{Roots: roots})
	later.Now(func() time.Time { return time.Now().Add(24 * time.Hour) })
	curve.Certificate = maker.sign(good(nil), keyOf(curve))
	d.shown = []enrol.Endorsement{curve}
	later.refuses("device-1", d, enrol.CertificateRefused)
}
