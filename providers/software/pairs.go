// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// An rsaKey signs and decrypts.
type rsaKey struct {
	*material
	once sync.Once
	pair *rsa.PrivateKey
}

// begin prepares the key at its first use. The caller calls done.
func (k *rsaKey) begin(ctx context.Context, op string) (done func(), err error) {
	done, err = k.use(ctx, op)
	if err != nil {
		return nil, err
	}
	k.once.Do(func() {
		pair, _ := parsePair(k.info.Type, secret.Reveal(k.bytes))
		k.pair, _ = pair.(*rsa.PrivateKey)
	})
	if k.pair == nil {
		done()
		return nil, failure(providers.Corrupt, op, errContents)
	}
	return done, nil
}

// Sign signs with RSASSA-PKCS1-v1_5 and SHA-256.
func (k *rsaKey) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m != providers.RSAPKCS1 {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	digest := sha256.Sum256(message)
	sig, err := rsa.SignPKCS1v15(nil, k.pair, crypto.SHA256, digest[:])
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	return sig, nil
}

// DecryptRSA decrypts. All that can be wrong with a ciphertext has the same code, with no cause; but
// with PKCS #1 v1.5 that it failed at all tells much (RFC 8017 §7.2.2), so callers must go on to fail
// later, in the same way as for a plaintext that makes no sense.
func (k *rsaKey) DecryptRSA(ctx context.Context, m providers.Mechanism, ciphertext []byte) ([]byte, error) {
	const op = "decrypting"
	if m != providers.RSAOAEP && m != providers.RSAPKCS1 {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	if len(ciphertext) != k.pair.Size() {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	var out []byte
	if m == providers.RSAOAEP {
		out, err = rsa.DecryptOAEP(sha1.New(), nil, k.pair, ciphertext, nil)
	} else {
		//lint:ignore SA1019 an MSL peer may need it; the agent's configuration must allow it first
		out, err = rsa.DecryptPKCS1v15(nil, k.pair, ciphertext)
	}
	if err != nil {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	return out, nil
}

// PublicKey returns the public half, as SubjectPublicKeyInfo in DER.
func (k *rsaKey) PublicKey(ctx context.Context) ([]byte, error) {
	const op = "reading a public key"
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	return marshalPublic(op, &k.pair.PublicKey)
}

// An ecKey signs and agrees, on P-256.
type ecKey struct {
	*material
	once sync.Once
	pair *ecdsa.PrivateKey
	dh   *ecdh.PrivateKey
}

// begin prepares the key at its first use. The caller calls done.
func (k *ecKey) begin(ctx context.Context, op string) (done func(), err error) {
	done, err = k.use(ctx, op)
	if err != nil {
		return nil, err
	}
	k.once.Do(func() {
		pair, _ := parsePair(k.info.Type, secret.Reveal(k.bytes))
		if k.pair, _ = pair.(*ecdsa.PrivateKey); k.pair != nil {
			k.dh, _ = k.pair.ECDH()
		}
	})
	if k.dh == nil {
		done()
		return nil, failure(providers.Corrupt, op, errContents)
	}
	return done, nil
}

// Sign signs with ECDSA and SHA-256; the signature is in DER.
func (k *ecKey) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m != providers.ECDSAP256 {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	digest := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, k.pair, digest[:])
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	return sig, nil
}

// Agree computes the ECDH shared secret. A peer's point that is not on the curve is Malformed.
func (k *ecKey) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	const op = "agreeing on a secret"
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	pub, err := ecdh.P256().NewPublicKey(peer)
	if err != nil {
		return nil, failure(providers.Malformed, op, errors.New("the peer's point is not one"))
	}
	out, err := k.dh.ECDH(pub)
	if err != nil {
		return nil, failure(providers.Malformed, op, errors.New("the peer's point is not one"))
	}
	return out, nil
}

// PublicKey returns the public half, as SubjectPublicKeyInfo in DER.
func (k *ecKey) PublicKey(ctx context.Context) ([]byte, error) {
	const op = "reading a public key"
	done, err := k.begin(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	return marshalPublic(op, &k.pair.PublicKey)
}

func marshalPublic(op string, pub any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	return der, nil
}
