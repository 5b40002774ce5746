// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// Attributes of an object (TPMA_OBJECT; TPM 2.0 library, part 2, §8.3).
const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
	stClear             = 1 << 2
	encryptedDup        = 1 << 11

	knownAttributes = fixedTPM | stClear | fixedParent | sensitiveDataOrigin | userWithAuth | adminWithPolicy | noDA | encryptedDup | restricted | decrypt | sign
)

// A public is the public area of an RSA or ECC key (TPMT_PUBLIC, part 2, §12.2.4).
type public struct {
	encoding   []byte // TPMT_PUBLIC
	nameAlg    tpm2.TPMAlgID
	attributes uint32
	symmetric  struct{ algorithm, mode tpm2.TPMAlgID }
	symBits    uint16
	scheme     struct{ algorithm, hash tpm2.TPMAlgID }
	bits       int              // of a modulus or a coordinate
	key        crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey, which is on its curve
}

var errPublic = errors.New("not the public area of an RSA or elliptic-curve key for this use")

// parsePublic parses a TPM2B_PUBLIC. It is strict, and does without the reflection of package tpm2, since it is what
// anybody can reach.
func parsePublic(b []byte) (*public, error) {
	s, rest := cryptobyte.String(nil), cryptobyte.String(b)
	if len(b) > maxPublic || !rest.ReadUint16LengthPrefixed(&s) || !rest.Empty() {
		return nil, errPublic
	}
	p := &public{encoding: s}
	var kind tpm2.TPMAlgID
	var policy cryptobyte.String
	ok := readAlgorithm(&s, &kind) && readAlgorithm(&s, &p.nameAlg) && s.ReadUint32(&p.attributes) && s.ReadUint16LengthPrefixed(&policy) &&
		p.readSymmetric(&s) && p.readScheme(&s)
	if !ok || p.attributes&^knownAttributes != 0 {
		return nil, errPublic
	}
	switch kind {
	case tpm2.TPMAlgRSA:
		ok = p.readRSA(&s)
	case tpm2.TPMAlgECC:
		ok = p.readECC(&s)
	default:
		ok = false
	}
	if !ok || !s.Empty() || p.name() == nil {
		return nil, errPublic
	}
	return p, nil
}

func readAlgorithm(s *cryptobyte.String, to *tpm2.TPMAlgID) bool {
	return s.ReadUint16((*uint16)(to))
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT: none, or AES.
func (p *public) readSymmetric(s *cryptobyte.String) bool {
	if !readAlgorithm(s, &p.symmetric.algorithm) {
		return false
	}
	return p.symmetric.algorithm == tpm2.TPMAlgNull ||
		p.symmetric.algorithm == tpm2.TPMAlgAES && s.ReadUint16(&p.symBits) && readAlgorithm(s, &p.symmetric.mode)
}

// readScheme reads the scheme of a key: none, or one that is for signing as MSL does.
func (p *public) readScheme(s *cryptobyte.String) bool {
	if !readAlgorithm(s, &p.scheme.algorithm) {
		return false
	}
	return p.scheme.algorithm == tpm2.TPMAlgNull ||
		(p.scheme.algorithm == tpm2.TPMAlgRSASSA || p.scheme.algorithm == tpm2.TPMAlgECDSA) && readAlgorithm(s, &p.scheme.hash)
}

// readRSA reads the rest of the parameters, and the modulus.
func (p *public) readRSA(s *cryptobyte.String) bool {
	var bits uint16
	var exponent uint32
	var modulus cryptobyte.String
	if !s.ReadUint16(&bits) || !s.ReadUint32(&exponent) || !s.ReadUint16LengthPrefixed(&modulus) {
		return false
	}
	n := new(big.Int).SetBytes(modulus)
	if len(modulus)*8 != int(bits) || n.BitLen() != int(bits) || n.Bit(0) == 0 {
		return false
	}
	p.bits = int(bits)
	p.key = &rsa.PublicKey{N: n, E: 65537}
	return exponent == 0 || exponent == 65537 // zero means that (part 2, §12.2.3.5)
}

// readECC reads the rest of the parameters, and the point.
func (p *public) readECC(s *cryptobyte.String) bool {
	var curve uint16
	var kdf tpm2.TPMAlgID
	var x, y cryptobyte.String
	if !s.ReadUint16(&curve) || !readAlgorithm(s, &kdf) || kdf != tpm2.TPMAlgNull || !s.ReadUint16LengthPrefixed(&x) || !s.ReadUint16LengthPrefixed(&y) {
		return false
	}
	var c elliptic.Curve
	switch tpm2.TPMECCCurve(curve) {
	case tpm2.TPMECCNistP256:
		c = elliptic.P256()
	case tpm2.TPMECCNistP384:
		c = elliptic.P384()
	default:
		return false
	}
	p.bits = c.Params().BitSize
	size := p.bits / 8
	if len(x) > size || len(y) > size {
		return false
	}
	point := make([]byte, 1+2*size) // SEC 1, §2.3.3
	point[0] = 4
	copy(point[1+size-len(x):], x) // some chips leave out leading zeros
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(c, point)
	p.key = key
	return err == nil
}

// name is that by which the TPM knows the object (part 1, §16): its algorithm, and the hash of the public area. It is nil for
// an algorithm that we do not know.
func (p *public) name() []byte {
	name := []byte{byte(p.nameAlg >> 8), byte(p.nameAlg)}
	switch p.nameAlg {
	case tpm2.TPMAlgSHA256:
		h := sha256.Sum256(p.encoding)
		return append(name, h[:]...)
	case tpm2.TPMAlgSHA384:
		h := sha512.Sum384(p.encoding)
		return append(name, h[:]...)
	}
	return nil
}

// has tells whether all attributes of want are set, and none of not.
func (p *public) has(want, not uint32) bool {
	return p.attributes&(want|not) == want
}

// checkKey refuses the public area of a key that could be, or could have been, outside its TPM, and of one that is not for
// signing as MSL does (ECDSA on P-256, or RSASSA-PKCS1-v1_5 with 2,048 bits, each with SHA-256).
func (p *public) checkKey() error {
	if !p.has(fixedTPM|fixedParent|sensitiveDataOrigin, 0) {
		return refuse(KeyUnfit, "the identity key is not fixed to the TPM that made it", nil)
	}
	if !p.has(sign, restricted|decrypt) {
		return refuse(KeyUnfit, "the identity key must be for signing, and for nothing else", nil)
	}
	fits := p.nameAlg == tpm2.TPMAlgSHA256 && p.symmetric.algorithm == tpm2.TPMAlgNull
	want := tpm2.TPMAlgECDSA
	if _, ok := p.key.(*rsa.PublicKey); ok {
		want = tpm2.TPMAlgRSASSA
		fits = fits && p.bits == 2048
	} else {
		fits = fits && p.bits == 256
	}
	scheme := p.scheme.algorithm == tpm2.TPMAlgNull || p.scheme.algorithm == want && p.scheme.hash == tpm2.TPMAlgSHA256
	if !fits || !scheme {
		return refuse(KeyUnfit, "the identity key must be for ECDSA on P-256, or for RSASSA with 2048 bits, with SHA-256", nil)
	}
	return nil
}

// checkEndorsement refuses a public area that is not that of an endorsement key (TCG EK Credential Profile, annex B).
func (p *public) checkEndorsement() error {
	fits := p.has(fixedTPM|fixedParent|sensitiveDataOrigin|restricted|decrypt, sign|stClear|encryptedDup) &&
		p.scheme.algorithm == tpm2.TPMAlgNull && p.symmetric.algorithm == tpm2.TPMAlgAES && p.symmetric.mode == tpm2.TPMAlgCFB &&
		(p.symBits == 128 || p.symBits == 256)
	if _, ok := p.key.(*rsa.PublicKey); ok {
		fits = fits && (p.bits == 2048 || p.bits == 3072 || p.bits == 4096)
	}
	if !fits {
		return refuse(EndorsementUnfit, "not the public area of an endorsement key", nil)
	}
	return nil
}

// credential wraps a secret for the TPM of this endorsement key, and an object of that name. The key must have been checked.
func (p *public) credential(secret, name []byte) (credential, encrypted []byte, err error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](p.encoding)
	if err != nil {
		return nil, nil, err
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, err
	}
	return tpm2.CreateCredential(rand.Reader, key, name, secret)
}
