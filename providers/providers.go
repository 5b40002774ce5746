// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package providers is what the author of a crypto provider implements: a [Provider], its [Key]s,
// and the capabilities that they have.
//
// A provider keeps keys in some device (a file, an HSM, a TPM, Vault) and uses them there. It learns
// nothing of MSL. Provider is two methods. What a key can do is a set of one-method interfaces that
// it implements or does not: [Encrypter], [Decrypter], [MACer], [MACVerifier], [Signer],
// [RSADecrypter], [Agreer], [Wrapper], [Unwrapper], [PublicKeyer]. What the provider itself can do
// beyond using keys is too: [Generator], [Importer], [Rotator], [Destroyer], [HealthChecker].
// Absence is found out by a type assertion at start, never by a failing call.
//
// All methods are safe for concurrent use, return early when their context ends, and never retain
// or change the slices they are given. Slices that they return belong to the caller.
//
// Errors are of type [*Error], whose [Code] is all that callers act on. A ciphertext, signature or
// MAC that does not check out is always VerificationFailed, whatever the device called it, so that
// data from a peer can neither be told apart by its failure nor count as a fault of the device.
package providers

import (
	"context"
	"errors"
)

// A Provider keeps keys.
type Provider interface {
	// Keys lists every version of every key, in no particular order.
	Keys(ctx context.Context) ([]KeyInfo, error)
	// Open returns one version of a key. Version 0 means the newest. It fails with NoSuchKey.
	Open(ctx context.Context, name string, version uint32) (Key, error)
}

// A Key is one version of one key, to be used through the capabilities it implements.
type Key interface {
	Info() KeyInfo
}

// KeyInfo describes a key. It holds nothing secret.
type KeyInfo struct {
	Name    string
	Version uint32 // 1, 2, …; the highest is the newest
	Type    KeyType
	Created int64 // Unix seconds; 0 if the device does not know
}

// A KeyType is the type and size of a key, as operators write it.
type KeyType string

const (
	AES128     KeyType = "aes-128"
	AES256     KeyType = "aes-256"
	HMACSHA256 KeyType = "hmac-sha256" // 32 bytes
	RSA2048    KeyType = "rsa-2048"
	RSA3072    KeyType = "rsa-3072"
	RSA4096    KeyType = "rsa-4096"
	ECP256     KeyType = "ec-p256"
)

// A Mechanism names an algorithm with its parameters.
type Mechanism string

const (
	AESCBC    Mechanism = "AES-CBC-PAD" // PKCS #7 padding; iv is 16 bytes; aad must be empty
	AESGCM    Mechanism = "AES-GCM"     // iv is 12 bytes; the 16-byte tag follows the ciphertext
	AEAD      Mechanism = "AEAD"        // the device's own authenticated encryption: no iv; what Encrypt returns is what Decrypt takes
	RSAPKCS1  Mechanism = "RSA-PKCS1"   // encryption: RFC 8017 §7.2; signature: §8.2 with SHA-256
	RSAOAEP   Mechanism = "RSA-OAEP"    // SHA-1 and MGF1 with SHA-1, empty label (RFC 8017 §7.1)
	ECDSAP256 Mechanism = "ECDSA-P256"  // SHA-256; ASN.1 DER signature
)

// RSAOAEP256 is RSAOAEP with SHA-256 and MGF1 with SHA-256. Keys that have it list it.
const RSAOAEP256 Mechanism = "RSA-OAEP-SHA256"

// An Encrypter encrypts with a symmetric key.
type Encrypter interface {
	Encrypt(ctx context.Context, m Mechanism, iv, plaintext, aad []byte) ([]byte, error)
}

// A Decrypter decrypts with a symmetric key. Callers verify a MAC before they decrypt AESCBC.
type Decrypter interface {
	Decrypt(ctx context.Context, m Mechanism, iv, ciphertext, aad []byte) ([]byte, error)
}

// A MACer computes HMAC-SHA-256 (32 bytes).
type MACer interface {
	MAC(ctx context.Context, message []byte) ([]byte, error)
}

// A MACVerifier verifies HMAC-SHA-256 in constant time. A MAC that does not match is VerificationFailed.
type MACVerifier interface {
	VerifyMAC(ctx context.Context, message, mac []byte) error
}

// A Signer signs message, not a digest, with a private key.
type Signer interface {
	Sign(ctx context.Context, m Mechanism, message []byte) ([]byte, error)
}

// An RSADecrypter decrypts with an RSA private key.
type RSADecrypter interface {
	DecryptRSA(ctx context.Context, m Mechanism, ciphertext []byte) ([]byte, error)
}

// An Agreer computes the ECDH shared secret (x coordinate, 32 bytes) with the peer's uncompressed point.
type Agreer interface {
	Agree(ctx context.Context, peer []byte) ([]byte, error)
}

// A Wrapper wraps key bytes by AES key wrap (RFC 3394). Its input is a multiple of 8, at least 16 bytes.
type Wrapper interface {
	Wrap(ctx context.Context, key []byte) ([]byte, error)
}

// An Unwrapper undoes Wrapper. A wrong integrity value is VerificationFailed.
type Unwrapper interface {
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// A PublicKeyer has a public half: a SubjectPublicKeyInfo in DER.
type PublicKeyer interface {
	PublicKey(ctx context.Context) ([]byte, error)
}

// A Generator makes new keys. It fails with Exists if the name is taken.
type Generator interface {
	Generate(ctx context.Context, name string, t KeyType) (KeyInfo, error)
}

// An Importer takes keys from outside: raw bytes for symmetric types, PKCS #8 in DER for key pairs. The
// caller wipes key afterwards.
type Importer interface {
	Import(ctx context.Context, name string, t KeyType, key []byte) (KeyInfo, error)
}

// A Rotator makes the next version of a key. Older versions stay.
type Rotator interface {
	Rotate(ctx context.Context, name string) (KeyInfo, error)
}

// A Destroyer removes one version of a key for good.
type Destroyer interface {
	Destroy(ctx context.Context, name string, version uint32) error
}

// A HealthChecker does a real operation and says what is wrong, if anything.
type HealthChecker interface {
	Health(ctx context.Context) error
}

// A Code classifies a failure. It is an error, so errors.Is(err, providers.NoSuchKey) works.
type Code uint8

const (
	NoSuchKey          Code = iota + 1 // no key of that name or version
	Exists                             // a key of that name is there already
	NotSupported                       // never possible with this key or device
	Denied                             // the device or its configuration forbids it
	Malformed                          // the caller's arguments make no sense
	VerificationFailed                 // ciphertext, MAC, signature or wrapped key is not good
	Transient                          // may succeed later
	Device                             // the device failed
	Locked                             // wrong passphrase, PIN or key file
	Corrupt                            // stored keys are damaged
)

var codeTexts = [...]string{
	NoSuchKey: "no such key", Exists: "key exists", NotSupported: "not supported", Denied: "denied",
	Malformed: "malformed request", VerificationFailed: "verification failed", Transient: "try again later",
	Device: "device failure", Locked: "cannot be unlocked", Corrupt: "corrupt",
}

// Error returns the code's text.
func (c Code) Error() string {
	if int(c) < len(codeTexts) && codeTexts[c] != "" {
		return codeTexts[c]
	}
	return "unknown failure"
}

// An Error is a failed operation of a provider.
type Error struct {
	Code Code
	Op   string // what was being done, to which key; never input or secrets
	Err  error  // what the device said; may be nil
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Code.Error()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes both the code and the cause visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// CodeOf returns the code of err, or Device if it has none. It returns 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Device
}
