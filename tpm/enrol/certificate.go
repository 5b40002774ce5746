// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptoasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers of certificates of endorsement keys.
var (
	oidEndorsement = asn1.ObjectIdentifier{2, 23, 133, 8, 1}           // tcg-kp-EKCertificate, an extended key usage
	oidNames       = asn1.ObjectIdentifier{2, 5, 29, 17}               // subjectAltName
	oidOAEP        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7} // id-RSAES-OAEP, as a key's algorithm (RFC 4055 §4.1)
)

// checkCertificate makes sure that a certificate is that of an endorsement key, and leads to a root (TCG EK Credential
// Profile, §3.2).
func checkCertificate(der []byte, key crypto.PublicKey, roots, intermediates *x509.CertPool, now time.Time) error {
	if len(der) == 0 {
		return refuse(CertificateRefused, "the endorsement key has no certificate, and this server wants one", nil)
	}
	if len(der) > maxCertificate {
		return refuse(CertificateRefused, "the certificate is too long", nil)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return refuse(CertificateRefused, "the certificate cannot be read", err)
	}
	public, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certified(c)) {
		return refuse(CertificateRefused, "the certificate is that of another key", nil)
	}
	if err := checkUsage(c); err != nil {
		return refuse(CertificateRefused, "the certificate is not that of an endorsement key", err)
	}
	// The maker, model and version of the TPM are names of the subject, which is critical where it has no other. The x509
	// package wants somebody to look at directory names. We believe whatever the maker says of its TPM.
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidNames.Equal)
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return refuse(CertificateRefused, "the certificate does not lead to one of the roots, or is not of this time", err)
	}
	return nil
}

// checkUsage refuses certificates for other uses. Some makers' have no extended key usage.
func checkUsage(c *x509.Certificate) error {
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature) != 0 {
		return errors.New("a certificate for signing")
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEndorsement.Equal) {
		return errors.New("no extended key usage tcg-kp-EKCertificate")
	}
	return nil
}

// certified returns the public key of a certificate. Some makers say of RSA keys that they are for OAEP only, which the
// x509 package does not know. It returns nil if the key cannot be read.
func certified(c *x509.Certificate) crypto.PublicKey {
	if c.PublicKey != nil {
		return c.PublicKey
	}
	info := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	var bits asn1.BitString
	ok := info.ReadASN1(&info, cryptoasn1.SEQUENCE) && info.ReadASN1(&algorithm, cryptoasn1.SEQUENCE) &&
		algorithm.ReadASN1ObjectIdentifier(&oid) && info.ReadASN1BitString(&bits)
	if !ok || !oid.Equal(oidOAEP) || bits.BitLength%8 != 0 {
		return nil
	}
	key, err := x509.ParsePKCS1PublicKey(bits.Bytes)
	if err != nil {
		return nil
	}
	return key
}
