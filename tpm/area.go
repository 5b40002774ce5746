// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"errors"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

var (
	errType   = errors.New("the TPM cannot have keys of that type")
	errUnused = errors.New("a key of a type or scheme that is of no use here, or one that is restricted to what the TPM makes")
)

func rsaPublic(a tpm2.TPMAObject, bits int, modulus []byte, s tpm2.TPMTRSAScheme) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: s, KeyBits: tpm2.TPMKeyBits(bits)}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus})}
}

func ecPublic(a tpm2.TPMAObject, x, y []byte, s tpm2.TPMTECCScheme) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: s, CurveID: tpm2.TPMECCNistP256,
			KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}})}
}

func hashedPublic(a tpm2.TPMAObject, s tpm2.TPMTKeyedHashScheme) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: s}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{})}
}

func aesPublic(a tpm2.TPMAObject, bits int, mode tpm2.TPMAlgID) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{Type: tpm2.TPMAlgSymCipher, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgSymCipher, &tpm2.TPMSSymCipherParms{Sym: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(bits)),
			Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, mode)}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgSymCipher, &tpm2.TPM2BDigest{})}
}

// A purpose is what a key is made to be used for. Nothing else can be done with it.
type purpose uint8

const (
	forSigning    purpose = iota // key pairs
	forDecrypting                // key pairs: RSA-OAEP, ECDH
	forMAC
	forCipher
	forWrapping
	forSealing // AES that is done here
)

// aesBits and pairBits are the sizes of keys.
var (
	aesBits = map[providers.KeyType]int{providers.AES128: 128, providers.AES256: 256}
	rsaBits = map[providers.KeyType]int{providers.RSA2048: 2048, providers.RSA3072: 3072, providers.RSA4096: 4096}
)

// purposeOf tells what a key of that name and type is made for.
func (c *chip) purposeOf(name string, t providers.KeyType) (purpose, error) {
	switch t {
	case providers.HMACSHA256:
		return forMAC, nil
	case providers.AES128, providers.AES256:
		p := forCipher
		if matches(c.config.Wrapping, name) {
			p = forWrapping
		}
		able, err := c.hasCipher(template(t, p, tpm2.TPMAObject{}))
		if !able || matches(c.config.Sealed, name) {
			p = forSealing
		}
		return p, err
	case providers.RSA2048, providers.RSA3072, providers.RSA4096, providers.ECP256:
		if matches(c.config.Decrypting, name) {
			return forDecrypting, nil
		}
		return forSigning, nil
	}
	return 0, failure(providers.NotSupported, "making a key", errType)
}

// template is the public area of a new key. The attributes say by whom it may be used, and where it comes from.
func template(t providers.KeyType, p purpose, a tpm2.TPMAObject) *tpm2.TPMTPublic {
	a.SignEncrypt = p != forDecrypting && p != forSealing
	a.Decrypt = p == forDecrypting || p == forCipher || p == forWrapping
	sha256 := tpm2.TPMAlgSHA256
	switch p {
	case forMAC:
		return hashedPublic(a, tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgHMAC,
			Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: sha256})})
	case forSealing:
		return hashedPublic(a, tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull})
	case forCipher:
		return aesPublic(a, aesBits[t], tpm2.TPMAlgCBC)
	case forWrapping:
		return aesPublic(a, aesBits[t], tpm2.TPMAlgECB)
	}
	if t == providers.ECP256 {
		s := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}
		if p == forSigning {
			s = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: sha256})}
		}
		return ecPublic(a, nil, nil, s)
	}
	s := tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull} // for decryption: OAEP with either hash
	if p == forSigning {
		s = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: sha256})}
	}
	return rsaPublic(a, rsaBits[t], nil, s)
}

// typeOf tells the type of a key in a file.
func typeOf(f *keyFile, area *tpm2.TPMTPublic) (providers.KeyType, error) {
	if area.ObjectAttributes.Restricted {
		return "", errUnused
	}
	switch area.Type {
	case tpm2.TPMAlgRSA:
		if p, err := area.Parameters.RSADetail(); err == nil && (p.Exponent == 0 || p.Exponent == 65537) {
			for t, bits := range rsaBits {
				if int(p.KeyBits) == bits {
					return t, nil
				}
			}
		}
	case tpm2.TPMAlgECC:
		if p, err := area.Parameters.ECCDetail(); err == nil && p.CurveID == tpm2.TPMECCNistP256 {
			return providers.ECP256, nil
		}
	case tpm2.TPMAlgSymCipher:
		if p, err := area.Parameters.SymDetail(); err == nil && p.Sym.Algorithm == tpm2.TPMAlgAES {
			if bits, err := p.Sym.KeyBits.AES(); err == nil {
				for t, n := range aesBits {
					if int(*bits) == n {
						return t, nil
					}
				}
			}
		}
	case tpm2.TPMAlgKeyedHash:
		p, err := area.Parameters.KeyedHashDetail()
		switch {
		case err != nil:
		case f.sealed && p.Scheme.Scheme == tpm2.TPMAlgNull:
			if t := providers.KeyType(strings.TrimSuffix(f.kind, wrapKind)); aesBits[t] != 0 {
				return t, nil
			}
		case !f.sealed && p.Scheme.Scheme == tpm2.TPMAlgHMAC:
			if s, err := p.Scheme.Details.HMAC(); err == nil && s.HashAlg == tpm2.TPMAlgSHA256 {
				return providers.HMACSHA256, nil
			}
		}
	}
	return "", errUnused
}
