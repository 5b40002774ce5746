// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var errImport = errors.New("not a key of that type")

const maxPKCS8 = 8192 // bytes; RSA with 4096 bits needs 2400

// Import puts a key into the token: raw bytes, or PKCS #8 in DER. Unlike a key that the token has made, it was
// seen outside, which the token remembers (CKA_LOCAL, CKA_NEVER_EXTRACTABLE).
func (p *Provider) Import(ctx context.Context, name string, t providers.KeyType, key []byte) (providers.KeyInfo, error) {
	const op = "importing a key"
	u, ok := p.purpose(name, t)
	if !ok {
		return providers.KeyInfo{}, failure(providers.NotSupported, op, errType)
	}
	private, public, err := u.numbers(key)
	if err != nil {
		return providers.KeyInfo{}, failure(providers.Malformed, op, err)
	}
	info, err := p.create(ctx, op, name, func(s *session, last uint32, _ providers.KeyType) (*material, error) {
		if u.allowed(s.link) == nil {
			return nil, failure(providers.NotSupported, op, errNoUse)
		}
		m := &material{info: providers.KeyInfo{Name: name, Version: last + 1, Type: t}}
		m.private, m.public = u.templates(s.link, name, last+1, p.config.AnyMechanism)
		m.private, m.public = append(m.private, private...), append(m.public, public...)
		return m, nil
	}, false)
	if err == nil || ctx.Err() == nil { // else the numbers may be in use yet
		for _, a := range private {
			secret.Wipe(a.Value)
		}
	}
	return info, err
}

// numbers makes the attributes that are the key itself.
func (u *purpose) numbers(key []byte) (private, public []*p11.Attribute, err error) {
	if u.class == p11.CKO_SECRET_KEY {
		if len(key) != u.size {
			return nil, nil, errImport
		}
		return []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, bytes.Clone(key))}, nil, nil
	}
	if len(key) > maxPKCS8 {
		return nil, nil, errImport
	}
	pair, err := x509.ParsePKCS8PrivateKey(key)
	input, whole := cryptobyte.String(key), cryptobyte.String(nil)
	if err != nil || !input.ReadASN1(&whole, asn1.SEQUENCE) || !input.Empty() { // x509 ignores what follows
		return nil, nil, errImport // the cause may tell of the key
	}
	switch k := pair.(type) {
	case *rsa.PrivateKey:
		if u.keyType != p11.CKK_RSA || k.N.BitLen() != u.size || len(k.Primes) != 2 || k.Validate() != nil {
			return nil, nil, errImport
		}
		private, public = rsaNumbers(k)
		return private, public, nil
	case *ecdsa.PrivateKey:
		if u.keyType != p11.CKK_EC || k.Curve != elliptic.P256() {
			return nil, nil, errImport
		}
		return ecNumbers(k)
	}
	return nil, nil, errImport
}

func rsaNumbers(k *rsa.PrivateKey) (private, public []*p11.Attribute) {
	k.Precompute()
	e := big.NewInt(int64(k.E))
	add := func(t uint, n *big.Int) { private = append(private, p11.NewAttribute(t, n.Bytes())) }
	add(p11.CKA_MODULUS, k.N)
	add(p11.CKA_PUBLIC_EXPONENT, e)
	add(p11.CKA_PRIVATE_EXPONENT, k.D)
	add(p11.CKA_PRIME_1, k.Primes[0])
	add(p11.CKA_PRIME_2, k.Primes[1])
	add(p11.CKA_EXPONENT_1, k.Precomputed.Dp)
	add(p11.CKA_EXPONENT_2, k.Precomputed.Dq)
	add(p11.CKA_COEFFICIENT, k.Precomputed.Qinv)
	public = []*p11.Attribute{p11.NewAttribute(p11.CKA_MODULUS, k.N.Bytes()), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, e.Bytes())}
	return private, public
}

func ecNumbers(k *ecdsa.PrivateKey) (private, public []*p11.Attribute, err error) {
	scalar, err := k.Bytes()
	if err != nil {
		return nil, nil, errImport
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		return nil, nil, errImport
	}
	var b cryptobyte.Builder
	b.AddASN1OctetString(point)
	private = []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, bytes.Clone(p256Params)), p11.NewAttribute(p11.CKA_VALUE, scalar)}
	public = []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, p256Params), p11.NewAttribute(p11.CKA_EC_POINT, b.BytesOrPanic())}
	return private, public, nil
}
