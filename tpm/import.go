// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var errImport = errors.New("not a key of that type")

// Import puts a key into the chip: raw bytes, or PKCS #8 in DER. Unlike a key that the chip has made, it was seen outside,
// which its attributes say.
func (p *Provider) Import(ctx context.Context, name string, t providers.KeyType, key []byte) (providers.KeyInfo, error) {
	const op = "importing a key"
	bits, symmetric := aesBits[t]
	if t == providers.HMACSHA256 {
		bits, symmetric = 256, true
	}
	if symmetric && len(key)*8 != bits {
		return providers.KeyInfo{}, failure(providers.Malformed, op, errImport)
	}
	if symmetric {
		own := secret.Take(bytes.Clone(key))
		return p.create(ctx, op, name, false, func(c *chip, _ providers.KeyType) (*keyFile, error) {
			purpose, err := c.purposeOf(name, t)
			if err != nil {
				return nil, err
			}
			return c.make(name, t, purpose, own)
		})
	}
	if t != providers.ECP256 && rsaBits[t] == 0 {
		return providers.KeyInfo{}, failure(providers.NotSupported, op, errType)
	}
	numbers, err := parsePair(t, key)
	if err != nil {
		return providers.KeyInfo{}, failure(providers.Malformed, op, err)
	}
	return p.create(ctx, op, name, false, func(c *chip, _ providers.KeyType) (*keyFile, error) { return c.importPair(name, t, numbers) })
}

// numbers are a key pair as a TPM has it.
type numbers struct {
	public  tpm2.TPMUPublicID
	private *secret.Bytes // a prime, or the scalar
}

func parsePair(t providers.KeyType, der []byte) (*numbers, error) {
	pair, err := x509.ParsePKCS8PrivateKey(der)
	input, whole := cryptobyte.String(der), cryptobyte.String(nil)
	if err != nil || !input.ReadASN1(&whole, asn1.SEQUENCE) || !input.Empty() { // x509 ignores what follows
		return nil, errImport // the cause may tell of the key
	}
	switch k := pair.(type) {
	case *rsa.PrivateKey:
		if bits := rsaBits[t]; k.N.BitLen() != bits || bits == 0 || len(k.Primes) != 2 || k.E != 65537 || k.Validate() != nil {
			return nil, errImport
		}
		return &numbers{tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}), secret.Take(k.Primes[0].Bytes())}, nil
	case *ecdsa.PrivateKey:
		if t != providers.ECP256 || k.Curve != elliptic.P256() {
			return nil, errImport
		}
		scalar, err := k.Bytes()
		if err != nil {
			return nil, errImport
		}
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil, errImport
		}
		return &numbers{tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}), secret.Take(scalar)}, nil
	}
	return nil, errImport
}

// importPair encrypts a key pair for the storage root key, and has the chip take it over (TPM2_Import).
func (c *chip) importPair(name string, t providers.KeyType, n *numbers) (*keyFile, error) {
	purpose, err := c.purposeOf(name, t)
	if err != nil {
		return nil, err
	}
	auth, err := c.newAuth()
	if err != nil {
		return nil, err
	}
	defer auth.Wipe()
	file, area, err := c.describe(name, t, purpose, auth.Len() > 0)
	if err != nil {
		return nil, err
	}
	area.Unique = n.public
	public := tpm2.Marshal(*area)
	duplicate, seed, err := c.wrapped(area.Type, nameOf(public), auth, n.private)
	if err != nil {
		return nil, err
	}
	c.unload(maxLoaded - 1)
	response, err := tpm2.Import{ParentHandle: c.parent(encryptNone), ObjectPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		Duplicate: tpm2.TPM2BPrivate{Buffer: duplicate}, InSymSeed: tpm2.TPM2BEncryptedSecret{Buffer: seed},
		Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}}.Execute(c)
	if err != nil {
		return nil, makeError(err)
	}
	file.public, file.private = public, response.OutPrivate.Buffer
	return file, nil
}

// wrapped encrypts the secret part of a key for the storage root key (TPM 2.0 part 1 §23.3).
func (c *chip) wrapped(kind tpm2.TPMAlgID, name tpm2.TPM2BName, auth, private *secret.Bytes) (duplicate, seed []byte, err error) {
	sensitive := tpm2.TPMTSensitive{SensitiveType: kind, AuthValue: tpm2.TPM2BAuth{Buffer: secret.Reveal(auth)}}
	if kind == tpm2.TPMAlgRSA {
		sensitive.Sensitive = tpm2.NewTPMUSensitiveComposite(kind, &tpm2.TPM2BPrivateKeyRSA{Buffer: secret.Reveal(private)})
	} else {
		sensitive.Sensitive = tpm2.NewTPMUSensitiveComposite(kind, &tpm2.TPM2BECCParameter{Buffer: secret.Reveal(private)})
	}
	encoded := tpm2.Marshal(sensitive)
	defer secret.Wipe(encoded)
	key, err := tpm2.ImportEncapsulationKey(c.root.public)
	if err != nil {
		return nil, nil, err
	}
	return tpm2.CreateDuplicate(rand.Reader, key, name.Buffer, encoded)
}
