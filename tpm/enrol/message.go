// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"unicode/utf8"
)

// Sizes in bytes.
const (
	maxBody        = 16 << 10
	maxIdentity    = 80 // escaped, it is the name of a file
	maxPublic      = 1 << 10
	maxCertificate = 8 << 10
	secretSize     = 32
)

const (
	challengePath = "/enrol/challenge"
	answerPath    = "/enrol/answer"
)

// A challengeRequest is what a device begins with.
type challengeRequest struct {
	Identity    string `json:"identity"`
	Endorsement []byte `json:"endorsement-key"`                       // TPM2B_PUBLIC
	Certificate []byte `json:"endorsement-key-certificate,omitempty"` // DER
	Key         []byte `json:"identity-key"`                          // TPM2B_PUBLIC
}

// A challenge is what the server says to that.
type challenge struct {
	ID         []byte `json:"id"`
	Credential []byte `json:"credential"`       // TPMS_ID_OBJECT: the secret, for the EK and the name of the identity key
	Secret     []byte `json:"encrypted-secret"` // TPM2B_ENCRYPTED_SECRET without its size
}

// An answer shows that the challenge could be opened.
type answer struct {
	ID        []byte `json:"id"`
	MAC       []byte `json:"mac"`       // HMAC-SHA-256 under the secret
	Signature []byte `json:"signature"` // by the identity key: ECDSA (ASN.1) or RSASSA-PKCS1-v1_5, with SHA-256
}

// A result is what a successful answer gets.
type result struct {
	Identity string `json:"identity"`
}

// What the two parts of an answer are over, before the transcript.
const (
	macLabel       = "mslkeep enrolment 1: activated\x00"
	signatureLabel = "mslkeep enrolment 1: possessed\x00"
)

// transcript is the hash of all that was said before the answer.
func transcript(r *challengeRequest, c *challenge) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(r.Identity), r.Endorsement, r.Certificate, r.Key, c.ID, c.Credential, c.Secret} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// authenticate is the MAC of an answer.
func authenticate(secret, transcript []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(macLabel))
	h.Write(transcript)
	return h.Sum(nil)
}

// signed is what the identity key signs.
func signed(transcript []byte) []byte {
	return append([]byte(signatureLabel), transcript...)
}

// checkIdentity refuses identities that make no good file names, or that look like others.
func checkIdentity(identity string) error {
	if identity == "" || len(identity) > maxIdentity || !utf8.ValidString(identity) {
		return refuse(Malformed, "an identity is 1 to 80 bytes of UTF-8", nil)
	}
	for _, r := range identity {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return refuse(Malformed, "an identity has no control characters", nil)
		}
	}
	return nil
}

// A Code says why an enrolment was refused. It is an error, so errors.Is(err, enrol.Enrolled) works.
type Code string

// The reasons.
const (
	Malformed          Code = "malformed"
	TooLarge           Code = "too-large"
	IdentityDenied     Code = "identity-denied"     // this server enrols no such identity, or this EK may not have it
	EndorsementUnfit   Code = "endorsement-unfit"   // not the public area of an endorsement key
	EndorsementUnknown Code = "endorsement-unknown" // not on the list
	CertificateRefused Code = "certificate-refused" // missing, of another key, or of nobody who is trusted
	KeyUnfit           Code = "key-unfit"           // the identity key could be outside the TPM, or is of another kind
	NoChallenge        Code = "no-challenge"        // never given, answered already, or too long ago
	WrongAnswer        Code = "wrong-answer"
	Enrolled           Code = "enrolled" // another key has that identity
	Unavailable        Code = "unavailable"
)

func (c Code) Error() string { return string(c) }

// statuses are the HTTP statuses that go with codes.
var statuses = map[Code]int{
	Malformed: http.StatusBadRequest, TooLarge: http.StatusRequestEntityTooLarge, NoChallenge: http.StatusNotFound,
	Enrolled: http.StatusConflict, Unavailable: http.StatusServiceUnavailable,
}

// status returns the HTTP status of a refusal.
func (c Code) status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusForbidden
}

// A Refusal is the error of an enrolment that the server does not want. It is also what a server says then, Err apart.
type Refusal struct {
	Code   Code   `json:"error"`
	Reason string `json:"reason"` // for people
	Err    error  `json:"-"`      // for the server's own log; may be nil
}

func refuse(code Code, reason string, err error) error { return &Refusal{code, reason, err} }

func (r *Refusal) Error() string { return "refused (" + string(r.Code) + "): " + r.Reason }

// Unwrap makes the code visible to errors.Is.
func (r *Refusal) Unwrap() []error {
	if r.Err == nil {
		return []error{r.Code}
	}
	return []error{r.Code, r.Err}
}
