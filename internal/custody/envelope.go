// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"encoding/base64"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// An envelope is a ciphertext envelope (§2.2). Contexts write and read version 1 only.
type envelope struct {
	version    int
	cipherSpec string // version 2
	iv         []byte // nil if absent
	ciphertext []byte
}

// cipherSpecs are the cipher specifications of version 2, and the names of Java's constants for them.
var cipherSpecs = map[string]string{
	"AES/CBC/PKCS5Padding": "AES/CBC/PKCS5Padding", "AES_CBC_PKCS5Padding": "AES/CBC/PKCS5Padding",
	"AESWrap":              "AESWrap",
	"RSA/ECB/PKCS1Padding": "RSA/ECB/PKCS1Padding", "RSA_ECB_PKCS1Padding": "RSA/ECB/PKCS1Padding",
}

// keyLabel returns the keyid member as it stands in envelopes.
func keyLabel(id string) []byte {
	var b mslenc.Builder
	b.String("keyid", id)
	encoded := b.Bytes()
	return encoded[1 : len(encoded)-1]
}

// appendEnvelope appends the encoding of a version 1 envelope. label is the keyid member. sha256 is a
// relic that readers must find (§2.2). iv may be nil.
func appendEnvelope(dst, label, iv, ciphertext []byte) []byte {
	dst = append(dst, `{"ciphertext":"`...)
	dst = mslenc.AppendBase64(dst, ciphertext)
	if iv != nil {
		dst = append(dst, `","iv":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, iv)
	}
	dst = append(append(dst, `",`...), label...)
	return append(dst, `,"sha256":"AA=="}`...)
}

// envelopeSize returns the number of bytes that appendEnvelope appends for an iv of 16 bytes.
func envelopeSize(label []byte, ciphertext int) int {
	return len(`{"ciphertext":"","iv":"",,"sha256":"AA=="}`) + 24 + len(label) + base64.StdEncoding.EncodedLen(ciphertext)
}

var errEnvelope = unverified(mslParseError, "parsing a ciphertext envelope")

// parseEnvelope reads an envelope of the given version, or of the one that it finds if version is 0. What it
// decodes is in memory of mem, which may be nil.
func parseEnvelope(mem *mslenc.Arena, b []byte, version int) (e envelope, err error) {
	o, err := mslenc.ParseIn(mem, b)
	if err != nil {
		return e, errEnvelope
	}
	if version != 1 {
		found, err := o.Int("version")
		switch {
		case err != nil && version == 2:
			return e, errEnvelope
		case err != nil:
			version = 1
		case found != 1 && found != 2 || version == 2 && found != 2:
			return e, unverified(mslUnidentifiedEnvelope, "reading the version of a ciphertext envelope")
		default:
			version = int(found)
		}
	}
	e.version = version
	if version == 1 {
		if !o.HasText("keyid") {
			return e, errEnvelope
		}
		if _, err = o.BinaryIn(mem, "sha256"); err != nil {
			return e, errEnvelope
		}
	} else {
		name, err := o.String("cipherspec")
		if err != nil {
			return e, errEnvelope
		}
		if e.cipherSpec = cipherSpecs[name]; e.cipherSpec == "" {
			return e, unverified(mslUnidentifiedCipherSpec, "reading the cipherspec of a ciphertext envelope")
		}
	}
	if o.Has("iv") {
		if e.iv, err = o.BinaryIn(mem, "iv"); err != nil {
			return e, errEnvelope
		}
	}
	if e.ciphertext, err = o.BinaryTo(memory(mem, o.BinarySize("ciphertext")), "ciphertext"); err != nil {
		return e, errEnvelope
	}
	return e, nil
}

// The algorithms of signatures, in version 2 signature envelopes (§2.3) and in session data (§3.2).
const (
	hmacSHA256    = "HmacSHA256"
	sha256WithRSA = "SHA256withRSA"
	aesCMAC       = "AESCmac"
)

// parseSignature reads a version 2 signature envelope.
func parseSignature(b []byte) (algorithm string, signature []byte, err error) {
	o, err := mslenc.Parse(b)
	if err != nil {
		return "", nil, unverified(mslParseError, "parsing a signature envelope")
	}
	refused := unverified(mslParseError, "parsing a signature envelope")
	version, err := o.Int("version")
	switch {
	case err != nil:
		return "", nil, refused
	case version == 1:
		return "", nil, unverified(mslUnsupportedSignature, "reading the version of a signature envelope")
	case version != 2:
		return "", nil, unverified(mslUnidentifiedSignature, "reading the version of a signature envelope")
	}
	if algorithm, err = o.String("algorithm"); err != nil {
		return "", nil, refused
	}
	if algorithm != hmacSHA256 && algorithm != sha256WithRSA && algorithm != aesCMAC {
		return "", nil, unverified(mslUnidentifiedAlgorithm, "reading the algorithm of a signature envelope")
	}
	if signature, err = o.Binary("signature"); err != nil {
		return "", nil, refused
	}
	return algorithm, signature, nil
}

// rawSignature returns the signature bytes of either version: everything that is not a good version 2
// envelope is a raw signature (§2.3). The algorithm's name decides nothing.
func rawSignature(b []byte) []byte {
	if len(b) == 0 || b[0] != '{' {
		return b
	}
	if _, signature, err := parseSignature(b); err == nil {
		return signature
	}
	return b
}
