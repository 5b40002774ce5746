// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/providers"
)

var errPoint = errors.New("not a point of the curve P-256")

// A pairKey is what all key pairs are.
type pairKey struct {
	*object
	mechanisms []providers.Mechanism
}

// Mechanisms lists what the key is made for.
func (k *pairKey) Mechanisms() []providers.Mechanism { return slices.Clone(k.mechanisms) }

// PublicKey returns the public half, as SubjectPublicKeyInfo in DER.
func (k *pairKey) PublicKey(ctx context.Context) ([]byte, error) {
	const op = "reading a public key"
	if err := k.there(ctx, op); err != nil {
		return nil, err
	}
	public, err := tpm2.Pub(*k.stored.area)
	if err != nil {
		return nil, failure(providers.Corrupt, op, errKeyPublic)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, failure(providers.Corrupt, op, errKeyPublic)
	}
	return der, nil
}

type (
	// The pairs, by what they can do beside having a public half.
	signer struct {
		*pairKey
		scheme tpm2.TPMTSigScheme
	}
	rsaDecrypter struct{ *pairKey }
	ecAgreer     struct{ *pairKey }
	rsaBoth      struct {
		signer
		decrypter rsaDecrypter
	}
	ecBoth struct {
		signer
		agreer ecAgreer
	}
)

// pair returns what a key pair can do, or nil.
func pair(o *object) providers.Key {
	k := &pairKey{object: o}
	ec := o.stored.area.Type == tpm2.TPMAlgECC
	mine, scheme, decrypts := tpm2.TPMAlgRSASSA, tpm2.TPMAlgNull, tpm2.TPMAlgOAEP
	signs := providers.RSAPKCS1
	if ec {
		mine, signs, decrypts = tpm2.TPMAlgECDSA, providers.ECDSAP256, tpm2.TPMAlgECDH
		if p, err := o.stored.area.Parameters.ECCDetail(); err == nil {
			scheme = p.Scheme.Scheme
		}
	} else if p, err := o.stored.area.Parameters.RSADetail(); err == nil {
		scheme = p.Scheme.Scheme
	}
	a := o.stored.area.ObjectAttributes
	maySign := a.SignEncrypt && (scheme == mine || scheme == tpm2.TPMAlgNull)
	mayDecrypt := a.Decrypt && (scheme == decrypts && ec || scheme == tpm2.TPMAlgNull)
	if mayDecrypt && !ec {
		k.mechanisms = append(k.mechanisms, providers.RSAOAEP, providers.RSAOAEP256)
	}
	s := signer{pairKey: k}
	if maySign {
		k.mechanisms = append(k.mechanisms, signs)
		s.scheme = tpm2.TPMTSigScheme{Scheme: mine, Details: tpm2.NewTPMUSigScheme(mine, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})}
	}
	switch {
	case maySign && mayDecrypt && ec:
		return &ecBoth{s, ecAgreer{k}}
	case maySign && mayDecrypt:
		return &rsaBoth{s, rsaDecrypter{k}}
	case maySign:
		return &s
	case mayDecrypt && ec:
		return &ecAgreer{k}
	case mayDecrypt:
		return &rsaDecrypter{k}
	}
	return nil
}

// DecryptRSA decrypts.
func (k *rsaBoth) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	return k.decrypter.DecryptRSA(ctx, m, ciphertext)
}

// Agree computes the ECDH shared secret.
func (k *ecBoth) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	return k.agreer.Agree(ctx, peer)
}

// Sign signs with RSASSA-PKCS1-v1_5 or ECDSA, and SHA-256, which is computed here.
func (k *signer) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m == providers.RSAOAEP || m == providers.RSAOAEP256 || !slices.Contains(k.mechanisms, m) {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	digest := sha256.Sum256(message)
	return used(ctx, k.object, op, func(c *chip) (out []byte, err error) {
		err = c.use(k.stored, encryptNone, func(h tpm2.AuthHandle) error {
			response, err := tpm2.Sign{KeyHandle: h, Digest: tpm2.TPM2BDigest{Buffer: digest[:]}, InScheme: k.scheme,
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(c)
			if err == nil {
				out, err = encodeSignature(&response.Signature)
			}
			return err
		})
		return out, err
	})
}

func encodeSignature(s *tpm2.TPMTSignature) ([]byte, error) {
	if s.SigAlg == tpm2.TPMAlgRSASSA {
		sig, err := s.Signature.RSASSA()
		if err != nil {
			return nil, lostError{errResponse}
		}
		return sig.Sig.Buffer, nil
	}
	sig, err := s.Signature.ECDSA()
	if err != nil {
		return nil, lostError{errResponse}
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.SignatureS.Buffer))
	})
	return b.Bytes()
}

// DecryptRSA decrypts with OAEP. All that can be wrong with a ciphertext has the same code, with no cause.
func (k *rsaDecrypter) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	const op = "decrypting"
	hash := tpm2.TPMAlgSHA1
	switch m {
	case providers.RSAOAEP:
	case providers.RSAOAEP256:
		hash = tpm2.TPMAlgSHA256
	default:
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	if len(ciphertext)*8 != rsaBits[k.stored.info.Type] {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	ciphertext = bytes.Clone(ciphertext)
	return used(ctx, k.object, op, func(c *chip) (out []byte, err error) {
		err = c.use(k.stored, encryptBoth, func(h tpm2.AuthHandle) error {
			response, err := tpm2.RSADecrypt{KeyHandle: h, CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
				InScheme: tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: hash})},
			}.Execute(c)
			// A ciphertext not below the modulus is TPM_RC_VALUE or SIZE, and bad padding VALUE (part 3 §14.3), but libtpms says
			// FAILURE, as a chip does that has failed: such a one says it of every other command, too.
			if is(err, tpm2.TPMRCValue, tpm2.TPMRCSize) || is(err, tpm2.TPMRCFailure) && c.alive() {
				return peerError{}
			}
			if err == nil {
				out = response.Message.Buffer
			}
			return err
		})
		return out, err
	})
}

// alive reports whether the chip still does something.
func (c *chip) alive() bool {
	_, err := tpm2.GetRandom{BytesRequested: 1}.Execute(c)
	return err == nil
}

// Agree computes the ECDH shared secret (TPM2_ECDH_ZGen). A peer's point that is not on the curve is Malformed, and not
// shown to the chip.
func (k *ecAgreer) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	const op = "agreeing on a secret"
	public, err := ecdh.P256().NewPublicKey(peer)
	if err != nil {
		return nil, failure(providers.Malformed, op, errPoint)
	}
	point := public.Bytes()
	return used(ctx, k.object, op, func(c *chip) (out []byte, err error) {
		err = c.use(k.stored, encryptBoth, func(h tpm2.AuthHandle) error {
			response, err := tpm2.ECDHZGen{KeyHandle: h, InPoint: tpm2.New2B(tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})}.Execute(c)
			if err != nil {
				return err
			}
			z, err := response.OutPoint.Contents()
			if err != nil || len(z.X.Buffer) > 32 {
				return lostError{errResponse}
			}
			out = make([]byte, 32)
			copy(out[32-len(z.X.Buffer):], z.X.Buffer) // some chips cut leading zeros off
			return nil
		})
		return out, err
	})
}
