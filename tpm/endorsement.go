// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"iter"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/providers"
)

// An Endorsement is an endorsement key: the chip's identity, made anew each time from a seed that the maker has given it.
type Endorsement struct {
	Name        string // rsa-2048 and the like
	Public      []byte // TPM2B_PUBLIC
	Certificate []byte // DER; nil if the chip has none

	template *endorsementTemplate
}

// An endorsementTemplate says how one of a chip's endorsement keys is made (TCG EK Credential Profile, annex B).
type endorsementTemplate struct {
	name        string
	certificate tpm2.TPMHandle // NV index
	public      *tpm2.TPMTPublic
}

// endorsementTemplates are those of the profile's keys that chips have. First come those of every chip, then those that only some
// have, and only if there is a certificate.
func endorsementTemplates() []endorsementTemplate {
	return []endorsementTemplate{
		{"ec-p256", 0x01C0000A, &tpm2.ECCEKTemplate},  // L-2
		{"rsa-2048", 0x01C00002, &tpm2.RSAEKTemplate}, // L-1
		{"ec-p256-high", 0x01C00014, highTemplate(tpm2.ECCEKTemplate, tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, policyB256)},
		{"rsa-2048-high", 0x01C00012, highTemplate(tpm2.RSAEKTemplate, 0, tpm2.TPMAlgSHA256, policyB256)},
		{"ec-p384-high", 0x01C00016, highTemplate(tpm2.ECCEKTemplate, tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, policyB384)},
		{"rsa-3072-high", 0x01C0001C, highTemplate(tpm2.RSAEKTemplate, 0, tpm2.TPMAlgSHA384, policyB384)},
	}
}

// The digests of the policy of the high range: of the endorsement hierarchy's password, or what is in an NV index (annex B.6.5).
const (
	policyB256 = "\xca\x3d\x0a\x99\xa2\xb9\x39\x06\xf7\xa3\x34\x24\x14\xef\xcf\xb3\xa3\x85\xd4\x4c\xd1\xfd\x45\x90\x89\xd1\x9b\x50\x71\xc0\xb7\xa0"
	policyB384 = "\xb2\x6e\x7d\x28\xd1\x1a\x50\xbc\x53\xd8\x82\xbc\xf5\xfd\x3a\x1a\x07\x41\x48\xbb\x35\xd3\xb4\xe4" +
		"\xcb\x1c\x0a\xd9\xbd\xe4\x19\xca\xcb\x47\xba\x09\x69\x96\x46\x15\x0f\x9f\xc0\x00\xf3\xf8\x0e\x12"
)

// highTemplate makes a template of the high range out of its counterpart of the low one.
func highTemplate(t tpm2.TPMTPublic, curve tpm2.TPMECCCurve, hash tpm2.TPMAlgID, policy string) *tpm2.TPMTPublic {
	t.NameAlg, t.AuthPolicy = hash, tpm2.TPM2BDigest{Buffer: []byte(policy)}
	t.ObjectAttributes.UserWithAuth = true
	aesBits, rsaBits := tpm2.TPMKeyBits(128), tpm2.TPMKeyBits(2048)
	if hash == tpm2.TPMAlgSHA384 {
		aesBits, rsaBits = 256, 3072
	}
	aes := tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, aesBits),
		Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}
	if t.Type == tpm2.TPMAlgRSA {
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aes, KeyBits: rsaBits})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		return &t
	}
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve, Symmetric: aes})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return &t
}

var (
	errEndorsementPassword = errors.New("the endorsement hierarchy has a password")
	errCertificate         = errors.New("the certificate's place in the TPM cannot be read, or is too large")
)

// Endorsements returns the chip's endorsement keys: those with a certificate, then others that every chip can make. Each is
// made when it is asked for, which takes a chip up to half a minute. An error is the last that comes.
func (p *Provider) Endorsements(ctx context.Context) iter.Seq2[Endorsement, error] {
	return func(yield func(Endorsement, error) bool) {
		const op = "making an endorsement key"
		var bare []endorsementTemplate
		for i, t := range endorsementTemplates() {
			certificate, err := do(ctx, p, "reading a certificate", checkKeys, func(c *chip) ([]byte, error) { return c.readCertificate(t.certificate) })
			if err != nil {
				yield(Endorsement{}, err)
				return
			}
			if certificate == nil {
				if i < 2 {
					bare = append(bare, t)
				}
				continue
			}
			e, err := do(ctx, p, op, checkKeys, func(c *chip) (Endorsement, error) { return c.readEndorsement(&t, certificate) })
			if !yield(e, err) || err != nil {
				return
			}
		}
		for _, t := range bare {
			e, err := do(ctx, p, op, checkKeys, func(c *chip) (Endorsement, error) { return c.readEndorsement(&t, nil) })
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// readEndorsement makes an endorsement key to see its public area.
func (c *chip) readEndorsement(t *endorsementTemplate, certificate []byte) (Endorsement, error) {
	response, err := c.endorse(t)
	if err != nil {
		return Endorsement{}, err
	}
	c.flush(response.ObjectHandle)
	return Endorsement{t.name, sized(response.OutPublic.Bytes()), certificate, t}, nil
}

// endorse makes an endorsement key. The caller flushes it.
func (c *chip) endorse(t *endorsementTemplate) (*tpm2.CreatePrimaryResponse, error) {
	locked, err := c.endorsementHasPassword()
	if err != nil {
		return nil, err
	}
	if locked {
		return nil, failure(providers.Denied, "making an endorsement key", errEndorsementPassword)
	}
	c.unload(maxLoaded - 1)
	return tpm2.CreatePrimary{PrimaryHandle: endorsementHierarchy(), InPublic: tpm2.New2B(*t.public)}.Execute(c)
}

func endorsementHierarchy() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}
}

// endorsementHasPassword asks before it is tried to do without: what is refused is never tried.
func (c *chip) endorsementHasPassword() (bool, error) {
	p, err := c.properties(tpm2.TPMPTPermanent, 1)
	return p[tpm2.TPMPTPermanent]&2 != 0, err // TPMA_PERMANENT.endorsementAuthSet
}

const (
	maxCertificate = 8 << 10
	nvBlock        = 512 // bytes that every chip reads at once
)

// readCertificate reads the certificate in an NV index, of which anybody may know. It is nil if there is none.
func (c *chip) readCertificate(index tpm2.TPMHandle) ([]byte, error) {
	response, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := response.NVPublic.Contents()
	if err != nil || public.DataSize > maxCertificate || !public.Attributes.AuthRead && !public.Attributes.OwnerRead {
		return nil, failure(providers.Device, "reading a certificate", errCertificate)
	}
	if !public.Attributes.Written {
		return nil, nil
	}
	authority := tpm2.AuthHandle{Handle: index, Name: response.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		if locked, err := c.ownerHasPassword(); err != nil || locked {
			return nil, err // as if it had none
		}
		authority = owner()
	}
	der := make([]byte, 0, public.DataSize)
	for len(der) < int(public.DataSize) {
		n := min(nvBlock, int(public.DataSize)-len(der))
		block, err := tpm2.NVRead{AuthHandle: authority, NVIndex: tpm2.NamedHandle{Handle: index, Name: response.NVName},
			Size: uint16(n), Offset: uint16(len(der))}.Execute(c)
		if err != nil {
			return nil, err
		}
		if len(block.Data.Buffer) != n {
			return nil, errResponse
		}
		der = append(der, block.Data.Buffer...)
	}
	var certificate cryptobyte.String
	if in := cryptobyte.String(der); !in.ReadASN1Element(&certificate, asn1.SEQUENCE) { // the rest is padding
		return nil, nil
	}
	return certificate, nil
}
