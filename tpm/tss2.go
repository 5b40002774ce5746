// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	encodingasn1 "encoding/asn1"
	"encoding/pem"
	"errors"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Keys are stored as the tools of openssl and tpm2-tools do: the ASN.1 specification for TPM 2.0 key files
// (draft-bottomley-tpm2-keys), in PEM. What is in them is encrypted by the storage root key, so a file is of no use
// without its chip.

const (
	pemType = "TSS2 PRIVATE KEY"
	maxFile = 16 << 10 // bytes of a key file
)

var (
	oidLoadable = encodingasn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	oidSealed   = encodingasn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}

	errKeyFile    = errors.New("not a TSS2 private key in PEM")
	errKeyParent  = errors.New("a key whose parent is not the storage root key at 81000001")
	errKeyPublic  = errors.New("the public area of the key is not whole, or not named by SHA-256")
	errImportable = errors.New("an importable key: load it with tpm2_import first")
)

// A keyFile is what is in a key file.
type keyFile struct {
	sealed  bool
	hasAuth bool
	kind    string // of what is sealed; else empty
	policy  []policyStep
	public  []byte // TPMT_PUBLIC
	private []byte // contents of TPM2B_PRIVATE
}

// A policyStep is one command of a policy, with its parameters but for the session.
type policyStep struct {
	code       tpm2.TPMCC
	parameters []byte
}

func tagged(n uint8) asn1.Tag { return asn1.Tag(n).Constructed().ContextSpecific() }

// encode makes the PEM.
func (k *keyFile) encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		oid := oidLoadable
		if k.sealed {
			oid = oidSealed
		}
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(tagged(0), func(b *cryptobyte.Builder) { b.AddASN1Boolean(!k.hasAuth) })
		if len(k.policy) > 0 {
			b.AddASN1(tagged(1), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, s := range k.policy {
						s.add(b)
					}
				})
			})
		}
		if k.kind != "" {
			b.AddASN1(tagged(4), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(k.kind)) })
			})
		}
		b.AddASN1Uint64(uint64(rootHandle))
		b.AddASN1OctetString(sized(k.public))
		b.AddASN1OctetString(sized(k.private))
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func (s *policyStep) add(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tagged(0), func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(s.code)) })
		b.AddASN1(tagged(1), func(b *cryptobyte.Builder) { b.AddASN1OctetString(s.parameters) })
	})
}

// sized puts the length before b, as a TPM2B has it.
func sized(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

// parseKeyFile reads what encode and others write.
func parseKeyFile(text []byte) (*keyFile, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType || len(text) > maxFile {
		return nil, errKeyFile
	}
	var whole, in cryptobyte.String = block.Bytes, nil
	var oid encodingasn1.ObjectIdentifier
	if !whole.ReadASN1(&in, asn1.SEQUENCE) || !whole.Empty() || !in.ReadASN1ObjectIdentifier(&oid) {
		return nil, errKeyFile
	}
	k := &keyFile{sealed: oid.Equal(oidSealed)}
	if !k.sealed && !oid.Equal(oidLoadable) {
		return nil, errImportable
	}
	if err := k.readOptions(&in); err != nil {
		return nil, err
	}
	var parent uint64
	var public, private []byte
	if !in.ReadASN1Integer(&parent) || !in.ReadASN1Bytes(&public, asn1.OCTET_STRING) || !in.ReadASN1Bytes(&private, asn1.OCTET_STRING) || !in.Empty() {
		return nil, errKeyFile
	}
	if parent != uint64(rootHandle) {
		return nil, errKeyParent
	}
	var ok1, ok2 bool
	k.public, ok1 = unsized(public)
	k.private, ok2 = unsized(private)
	if !ok1 || !ok2 {
		return nil, errKeyFile
	}
	return k, nil
}

// readOptions reads the optional members that are tagged.
func (k *keyFile) readOptions(in *cryptobyte.String) error {
	var value cryptobyte.String
	var flag cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&value, &present, tagged(0)) || present && (!value.ReadASN1(&flag, asn1.BOOLEAN) || len(flag) != 1 || !value.Empty()) {
		return errKeyFile
	}
	k.hasAuth = !present || flag[0] == 0 // DER knows true as 255; openssl's provider and tpm2-tools write 1
	if !in.ReadOptionalASN1(&value, &present, tagged(1)) {
		return errKeyFile
	}
	if present {
		var steps cryptobyte.String
		if !value.ReadASN1(&steps, asn1.SEQUENCE) || !value.Empty() {
			return errKeyFile
		}
		for !steps.Empty() {
			s, ok := readStep(&steps)
			if !ok {
				return errKeyFile
			}
			k.policy = append(k.policy, s)
		}
	}
	if in.PeekASN1Tag(tagged(2)) { // secret: only importable keys have one
		return errImportable
	}
	for _, n := range []uint8{3, 4, 5} { // authPolicy, description, rsaParent
		if !in.ReadOptionalASN1(&value, &present, tagged(n)) {
			return errKeyFile
		}
		if n == 4 && present {
			var text cryptobyte.String
			if !value.ReadASN1(&text, asn1.UTF8String) || !value.Empty() {
				return errKeyFile
			}
			k.kind = string(text)
		}
	}
	return nil
}

func readStep(in *cryptobyte.String) (s policyStep, ok bool) {
	var step, code, parameters, value cryptobyte.String
	var n uint32
	ok = in.ReadASN1(&step, asn1.SEQUENCE) && step.ReadASN1(&code, tagged(0)) && code.ReadASN1Integer(&n) && code.Empty() &&
		step.ReadASN1(&parameters, tagged(1)) && parameters.ReadASN1(&value, asn1.OCTET_STRING) && parameters.Empty() && step.Empty()
	return policyStep{tpm2.TPMCC(n), value}, ok
}

// unsized undoes sized.
func unsized(b []byte) ([]byte, bool) {
	if len(b) < 2 || int(b[0])<<8|int(b[1]) != len(b)-2 {
		return nil, false
	}
	return b[2:], true
}
