// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/providers"
)

// p256Params is CKA_EC_PARAMS of P-256: the object identifier 1.2.840.10045.3.1.7 in DER.
var p256Params = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

var (
	errPoint    = errors.New("not a point of the curve P-256")
	errNoPublic = errors.New("the token does not have the public half")
)

// A pairKey is what all key pairs are.
type pairKey struct {
	*object
	mechanisms []providers.Mechanism // to sign and to decrypt with
	signing    uint                  // CKM_…; 0: none
}

// Mechanisms lists what the token can do with the key.
func (k *pairKey) Mechanisms() []providers.Mechanism { return slices.Clone(k.mechanisms) }

// PublicKey returns the public half, as SubjectPublicKeyInfo in DER.
func (k *pairKey) PublicKey(context.Context) ([]byte, error) {
	if k.public == nil {
		return nil, failure(providers.NotSupported, "reading a public key", errNoPublic)
	}
	return bytes.Clone(k.public), nil
}

type (
	// The pairs, by what they can do beside having a public half.
	rsaSigner    struct{ *pairKey }
	rsaDecrypter struct {
		*pairKey
		decrypts []providers.Mechanism
	}
	rsaBoth struct {
		rsaSigner
		decrypter rsaDecrypter
	}
	ecSigner struct{ *pairKey }
	ecAgreer struct{ *pairKey }
	ecBoth   struct {
		ecSigner
		agreer ecAgreer
	}
)

// pair returns what a private key can do, or nil.
func (o *object) pair(l *link) providers.Key {
	if o.keyType == p11.CKK_EC {
		return o.ecPair(l)
	}
	k := &pairKey{object: o}
	for _, m := range []uint{p11.CKM_SHA256_RSA_PKCS, p11.CKM_RSA_PKCS} {
		if k.signing == 0 && o.may(l, p11.CKA_SIGN, m, p11.CKF_SIGN) {
			k.signing = m
		}
	}
	var decrypts []providers.Mechanism
	if o.may(l, p11.CKA_DECRYPT, p11.CKM_RSA_PKCS_OAEP, p11.CKF_DECRYPT) {
		decrypts = append(decrypts, providers.RSAOAEP)
	}
	if o.p.config.AllowRSAPKCS1 && o.may(l, p11.CKA_DECRYPT, p11.CKM_RSA_PKCS, p11.CKF_DECRYPT) {
		decrypts = append(decrypts, providers.RSAPKCS1)
	}
	k.mechanisms = slices.Clone(decrypts)
	if k.signing != 0 && !slices.Contains(decrypts, providers.RSAPKCS1) {
		k.mechanisms = append(k.mechanisms, providers.RSAPKCS1)
	}
	switch {
	case k.signing != 0 && decrypts != nil:
		return &rsaBoth{rsaSigner{k}, rsaDecrypter{k, decrypts}}
	case k.signing != 0:
		return &rsaSigner{k}
	case decrypts != nil:
		return &rsaDecrypter{k, decrypts}
	}
	return nil
}

func (o *object) ecPair(l *link) providers.Key {
	k := &pairKey{object: o}
	signs := o.may(l, p11.CKA_SIGN, p11.CKM_ECDSA, p11.CKF_SIGN)
	agrees := o.may(l, p11.CKA_DERIVE, p11.CKM_ECDH1_DERIVE, p11.CKF_DERIVE)
	if signs {
		k.mechanisms = []providers.Mechanism{providers.ECDSAP256}
	}
	switch {
	case signs && agrees:
		return &ecBoth{ecSigner{k}, ecAgreer{k}}
	case signs:
		return &ecSigner{k}
	case agrees:
		return &ecAgreer{k}
	}
	return nil
}

// digestInfo begins the DigestInfo of SHA-256 (RFC 8017 §9.2).
var digestInfo = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

// Sign signs with RSASSA-PKCS1-v1_5 and SHA-256.
func (k *rsaSigner) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m != providers.RSAPKCS1 {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	if len(message) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	if k.signing == p11.CKM_RSA_PKCS {
		digest := sha256.Sum256(message)
		message = append(bytes.Clone(digestInfo), digest[:]...)
	} else {
		message = own(ctx, message)
	}
	return do(ctx, k.p, op, useOther, k.object, func(s *session) ([]byte, error) {
		return s.sign(k.object, []*p11.Mechanism{p11.NewMechanism(k.signing, nil)}, message)
	})
}

// DecryptRSA decrypts. With PKCS #1 v1.5 that it failed at all tells much (RFC 8017 §7.2.2), so callers must go
// on to fail later, in the same way as for a plaintext that makes no sense.
func (k *rsaDecrypter) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	const op = "decrypting"
	if !slices.Contains(k.decrypts, m) {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	if len(ciphertext) != modulusSize(k.info.Type) {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	ciphertext = own(ctx, ciphertext)
	list := []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS, nil)}
	if m == providers.RSAOAEP {
		list[0] = p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP, p11.NewOAEPParams(p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, p11.CKZ_DATA_SPECIFIED, nil))
	}
	return do(ctx, k.p, op, useOpen, k.object, func(s *session) (out []byte, err error) {
		h, err := k.at(s)
		if err != nil {
			return nil, device(err)
		}
		if err := s.call("C_DecryptInit", func(c *p11.Ctx) error { return c.DecryptInit(s.handle, list, h) }); err != nil {
			return nil, device(err)
		}
		err = s.call("C_Decrypt", func(c *p11.Ctx) error { out, err = c.Decrypt(s.handle, ciphertext); return err })
		return out, s.blame(err)
	})
}

// DecryptRSA is that of an RSA key which also signs.
func (k *rsaBoth) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	return k.decrypter.DecryptRSA(ctx, m, ciphertext)
}

// Sign signs with ECDSA and SHA-256; the signature is in DER.
func (k *ecSigner) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m != providers.ECDSAP256 {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	if len(message) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	digest := sha256.Sum256(message)
	return do(ctx, k.p, op, useOther, k.object, func(s *session) ([]byte, error) {
		raw, err := s.sign(k.object, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, digest[:])
		if err != nil {
			return nil, err
		}
		return signatureDER(raw)
	})
}

// signatureDER encodes r and s of 32 bytes each as Ecdsa-Sig-Value (RFC 3279 §2.2.3).
func signatureDER(raw []byte) ([]byte, error) {
	if len(raw) != 64 {
		return nil, failure(providers.Device, "signing", errResult)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:32]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[32:]))
	})
	return b.Bytes()
}

// Agree computes the x coordinate that is the ECDH shared secret. The token makes an object of it, which is read and
// destroyed.
func (k *ecAgreer) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	const op = "agreeing on a secret"
	if _, err := ecdh.P256().NewPublicKey(peer); err != nil || len(peer) != 65 {
		return nil, failure(providers.Malformed, op, errPoint)
	}
	peer = own(ctx, peer)
	list := []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDH1_DERIVE, p11.NewECDH1DeriveParams(p11.CKD_NULL, nil, peer))}
	return do(ctx, k.p, op, useOther, k.object, func(s *session) ([]byte, error) {
		h, err := k.at(s)
		if err != nil {
			return nil, err
		}
		template := append(s.temporary(), p11.NewAttribute(p11.CKA_VALUE_LEN, 32))
		object, err := s.make(func(c *p11.Ctx) (p11.ObjectHandle, error) { return c.DeriveKey(s.handle, list, h, template) }, "C_DeriveKey")
		if err != nil {
			return nil, err
		}
		return s.value(object, 32)
	})
}

// Agree is that of an EC key which also signs.
func (k *ecBoth) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	return k.agreer.Agree(ctx, peer)
}

// rsaPublic makes type and public half of modulus and exponent. The type is empty if it is none that is known here.
func rsaPublic(modulus, exponent []byte) (providers.KeyType, []byte) {
	e := new(big.Int).SetBytes(exponent)
	if !e.IsInt64() || e.Int64() > 1<<31-1 || e.Int64() < 3 {
		return "", nil
	}
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e.Int64())}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", nil
	}
	for t, size := range moduli {
		if pub.N.BitLen() == size {
			return t, der
		}
	}
	return "", nil
}

var moduli = map[providers.KeyType]int{providers.RSA2048: 2048, providers.RSA3072: 3072, providers.RSA4096: 4096}

func modulusSize(t providers.KeyType) int { return moduli[t] / 8 }

// ecPublic makes the public half of CKA_EC_POINT: an OCTET STRING in DER, or from some modules the bare point.
func ecPublic(point []byte) []byte {
	inner := cryptobyte.String(point)
	var bare cryptobyte.String
	if inner.ReadASN1(&bare, asn1.OCTET_STRING) && inner.Empty() {
		point = bare
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil
	}
	return der
}
