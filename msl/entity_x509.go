// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// X509 is an entity that signs with the RSA key of a certificate (§5.3). Its identity is the certificate's
// subject, as RFC 2253 writes it. keyID is the name of the key in custody; it does not travel. It
// fails with X509CertParseError if the subject cannot be an identity.
func X509(certificate *x509.Certificate, keyID string) (EntityAuthData, error) {
	d, err := certified(certificate)
	if err != nil {
		return EntityAuthData{}, err
	}
	var b mslenc.Builder
	b.Binary("x509certificate", certificate.Raw)
	d.Scheme, d.keyID, d.authData = schemeX509, mslenc.NFC(keyID), string(b.Bytes())
	return d, nil
}

func parseX509(authData *fields) EntityAuthData {
	text := authData.text("x509certificate")
	if authData.err != nil {
		return EntityAuthData{}
	}
	der, err := mslenc.DecodeBase64(text)
	if err != nil {
		authData.err = fail(X509CertInvalid, "certificate", nil)
		return EntityAuthData{}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		authData.err = fail(X509CertParseError, "certificate", nil)
		return EntityAuthData{}
	}
	d, err := certified(certificate)
	authData.err = err
	return d
}

// certified returns the data of the entity that a certificate names.
func certified(certificate *x509.Certificate) (EntityAuthData, error) {
	identity, err := distinguishedName(certificate.RawSubject)
	if err != nil {
		return EntityAuthData{}, fail(X509CertParseError, "subject of a certificate", err)
	}
	return EntityAuthData{identity: identity, certificate: certificate}, nil
}

func contextX509(ctx context.Context, cfg *Config, keys EntityKeys, d *EntityAuthData, own bool) (CryptoContext, error) {
	if own {
		return ownKey(ctx, keys, d, RSAPrivateKeyNotFound)
	}
	if err := cfg.verifyCertificate(d.certificate, cfg.now()); err != nil {
		return nil, err
	}
	key, ok := d.certificate.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits {
		return nil, fail(X509CertVerificationFailed, "key of a certificate", nil)
	}
	return rsaVerifier{key}, nil
}

// verifyCertificate checks that a certificate is for signatures and valid now, and that it leads to one of
// the roots (§5.3). The reference looks at the direct issuer only; here the whole chain is verified.
func (c *Config) verifyCertificate(certificate *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(certificate.NotBefore):
		return fail(X509CertNotYetValid, "certificate", nil)
	case now.After(certificate.NotAfter):
		return fail(X509CertExpired, "certificate", nil)
	case c.X509Roots == nil: // which Verify would take for the roots of this machine
		return fail(X509CertVerificationFailed, "certificate, without roots", nil)
	case certificate.KeyUsage != 0 && certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fail(X509CertVerificationFailed, "key usage of a certificate", nil)
	}
	_, err := certificate.Verify(x509.VerifyOptions{
		Roots: c.X509Roots, Intermediates: c.X509Intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fail(X509CertVerificationFailed, "certificate", nil)
	}
	return nil
}
