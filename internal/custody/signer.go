// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// An rsaSigner signs, and does not encrypt (§2.8, SIGN_VERIFY).
type rsaSigner struct {
	key    usedKey
	signer providers.Signer // nil: none
	public *rsa.PublicKey   // nil: none
}

func newRSASigner(ctx context.Context, key usedKey) (*rsaSigner, error) {
	signer, public, err := openPair[*rsa.PublicKey](ctx, key)
	if err != nil {
		return nil, err
	}
	return &rsaSigner{key, signer, public}, nil
}

// openPair returns the private half of a key pair of one type, to be used, and the public half.
func openPair[P *rsa.PublicKey | *ecdsa.PublicKey](ctx context.Context, key usedKey) (signer providers.Signer, public P, err error) {
	signer, ok1 := key.Key.(providers.Signer)
	half, ok2 := key.Key.(providers.PublicKeyer)
	if !ok1 || !ok2 {
		return nil, nil, unsupported(mslSignNotSupported, "signing with a key that cannot")
	}
	spki, err := half.PublicKey(ctx)
	if err != nil {
		return nil, nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	public, ok := pub.(P)
	if err != nil || !ok {
		return nil, nil, unsupported(mslSignNotSupported, "signing with a key of another type")
	}
	return signer, public, nil
}

func (s *rsaSigner) seal(ctx context.Context, plain []byte) (wire.Part, error) {
	if s.signer == nil {
		return wire.Part{}, unsupported(mslSignNotSupported, "signing without a private key")
	}
	s.key.used()
	signature, err := s.signer.Sign(ctx, providers.RSAPKCS1, plain)
	return wire.Part{Data: bytes.Clone(plain), Signature: signature}, err
}

func (s *rsaSigner) open(_ context.Context, part wire.Part) ([]byte, error) {
	if s.public == nil {
		return nil, unsupported(mslVerifyNotSupported, "verifying without a public key")
	}
	signature := rawSignature(part.Signature)
	if len(signature) != s.public.Size() {
		return nil, unverified(mslSignatureError, "verifying a signature")
	}
	sum := sha256.Sum256(part.Data)
	if err := rsa.VerifyPKCS1v15(s.public, crypto.SHA256, sum[:], signature); err != nil {
		return nil, unverified(noNumber, "verifying a signature")
	}
	return bytes.Clone(part.Data), nil
}

// eccEntity is the local entity of §5.4 with a key on an elliptic curve.
func eccEntity(ctx context.Context, a *Agent, r *wire.EntityContextRequest) (*entity, error) {
	name, err := KeyName(a.cfg.ECPrefix, r.KeyID)
	if err != nil {
		return nil, err
	}
	key, err := a.openKey(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	signer, public, err := openPair[*ecdsa.PublicKey](ctx, key)
	if err != nil {
		return nil, err
	}
	return &entity{protector: &ecSigner{key, signer, public}, identity: strings.Clone(r.Identity)}, nil
}

// An ecSigner signs by ECDSA with SHA-256, in DER, and does not encrypt (§2.8, SIGN_VERIFY).
type ecSigner struct {
	key    usedKey
	signer providers.Signer // nil: none
	public *ecdsa.PublicKey // nil: none
}

func (s *ecSigner) seal(ctx context.Context, plain []byte) (wire.Part, error) {
	if s.signer == nil {
		return wire.Part{}, unsupported(mslSignNotSupported, "signing without a private key")
	}
	s.key.used()
	signature, err := s.signer.Sign(ctx, providers.ECDSAP256, plain)
	return wire.Part{Data: bytes.Clone(plain), Signature: signature}, err
}

func (s *ecSigner) open(_ context.Context, part wire.Part) ([]byte, error) {
	if s.public == nil {
		return nil, unsupported(mslVerifyNotSupported, "verifying without a public key")
	}
	if !isECSignature(part.Signature) {
		return nil, unverified(mslSignatureError, "verifying a signature")
	}
	sum := sha256.Sum256(part.Data)
	if !ecdsa.VerifyASN1(s.public, sum[:], part.Signature) {
		return nil, unverified(noNumber, "verifying a signature")
	}
	return bytes.Clone(part.Data), nil
}

// isECSignature reports whether b is a pair of integers in DER, and nothing else.
func isECSignature(b []byte) bool {
	var pair cryptobyte.String
	var r, s []byte
	input := cryptobyte.String(b)
	return input.ReadASN1(&pair, asn1.SEQUENCE) && input.Empty() &&
		pair.ReadASN1Integer(&r) && pair.ReadASN1Integer(&s) && pair.Empty()
}
