// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"errors"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/jose"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// Numbers of MSL errors (§9, without the base of 100000).
const (
	mslParseError              = 0
	mslInvalidPublicKey        = 3
	mslPlaintextBlockSize      = 5
	mslCiphertextBlockSize     = 7
	mslCiphertextBadPadding    = 8
	mslEncryptNotSupported     = 9
	mslDecryptNotSupported     = 10
	mslEnvelopeParseError      = 12
	mslSignNotSupported        = 14
	mslVerifyNotSupported      = 15
	mslSignatureError          = 16
	mslSessionKeyCreation      = 21
	mslInvalidEncryptionKey    = 25
	mslInvalidHMACKey          = 26
	mslWrapNotSupported        = 27
	mslUnwrapNotSupported      = 28
	mslUnwrapError             = 33
	mslInvalidJWK              = 34
	mslInvalidAlgorithmParams  = 42
	mslInvalidWrappingKey      = 51
	mslUnidentifiedEnvelope    = 52
	mslUnidentifiedSignature   = 53
	mslUnsupportedSignature    = 55
	mslUnidentifiedCipherSpec  = 56
	mslUnidentifiedAlgorithm   = 57
	mslUntrusted               = 1000
	mslKeyCreationError        = 1001
	mslExpiresBeforeRenewal    = 1002
	mslSessionDataMissing      = 1003
	mslSequenceRange           = 1004
	mslSerialRange             = 1005
	mslTokenDataMissing        = 1010
	mslTokenDataParseError     = 1011
	mslSessionDataParseError   = 1012
	mslUserExpiresBeforeRenew  = 2003
	mslUserDataMissing         = 2004
	mslUserMasterSerialRange   = 2006
	mslUserSerialRange         = 2007
	mslUserIdentityInvalid     = 2011
	mslUserTokenDataMissing    = 2016
	mslUserTokenDataParseError = 2017
	mslUserDataParseError      = 2018
	mslServiceMasterRange      = 3005
	mslServiceUserRange        = 3006
	mslServiceDataMissing      = 3009
	mslEntityNotFound          = 4005
	mslUnidentifiedCompression = 6013
	mslUnidentifiedScheme      = 7000
	mslUnidentifiedKeyID       = 7003
	mslUnsupportedKeyID        = 7004
	mslUnidentifiedMechanism   = 7005
	mslUnsupportedMechanism    = 7006
	mslResponseMismatch        = 7007
	mslPrivateKeyMissing       = 7008
	mslUnknownParameters       = 7009
	mslMasterTokenMissing      = 7010
	mslKeyxInvalidPublicKey    = 7011
	mslWrappingKeyMissing      = 7013
	mslIncorrectData           = 7016
	noNumber                   = -1
)

// A fault is a failure inside of the agent. The number is that of the MSL error that the specification
// names: tests compare it with the reference, and key exchange tells it, but only for faults that do
// not judge a ciphertext, token or signature. Those all look the same from outside.
type fault struct {
	code   wire.Code
	number int32
	what   string // which field; never input or secrets
	err    error  // may be nil
}

func (f *fault) Error() string {
	s := "custody: " + f.what + ": " + f.code.Error()
	if f.number >= 0 {
		s += ": MSL error " + strconv.Itoa(int(f.number))
	}
	if f.err != nil {
		s += ": " + f.err.Error()
	}
	return s
}

func (f *fault) Unwrap() []error {
	if f.err == nil {
		return []error{f.code}
	}
	return []error{f.code, f.err}
}

// unverified is the fault of a token, envelope, signature or wrapped key that is not good.
func unverified(number int32, what string) *fault {
	return &fault{code: wire.VerificationFailed, number: number, what: what}
}

// malformed is the fault of a request, or of a peer's key exchange data.
func malformed(number int32, what string) *fault {
	return &fault{code: wire.Malformed, number: number, what: what}
}

// unsupported is the fault of a key that is not there or cannot do what is asked.
func unsupported(number int32, what string) *fault {
	return &fault{code: wire.NotSupported, number: number, what: what}
}

// codeOf classifies any failure. It returns 0 for nil.
func codeOf(err error) wire.Code {
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[wire.Code](err); ok { // of a *fault, too
		return code
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return wire.Canceled
	}
	if _, ok := errors.AsType[*jose.Error](err); ok {
		if _, ok := errors.AsType[*providers.Error](err); !ok { // else a provider was asked to unwrap
			return wire.VerificationFailed
		}
	}
	switch providers.CodeOf(err) {
	case providers.NoSuchKey:
		return wire.NoSuchKey
	case providers.Exists, providers.Malformed:
		return wire.Malformed
	case providers.NotSupported:
		return wire.NotSupported
	case providers.Denied:
		return wire.Denied
	case providers.VerificationFailed:
		return wire.VerificationFailed
	case providers.Transient:
		return wire.Transient
	}
	return wire.Device
}

// numberOf returns the number of the MSL error, or noNumber.
func numberOf(err error) int32 {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.number
	}
	if e, ok := errors.AsType[*jose.Error](err); ok && codeOf(err) == wire.VerificationFailed {
		return e.MSL
	}
	return noNumber
}

// failed is what the other process gets to see of err: what was being done, and where nothing was
// judged that came from outside, to which field.
func failed(op string, err error) *wire.Error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	e := wire.Fail(codeOf(err), op)
	if e.Code == wire.VerificationFailed {
		return e
	}
	if f, ok := errors.AsType[*fault](err); ok {
		e.Detail += ": " + f.what
	} else if providers.CodeOf(err) == providers.Exists {
		e.Detail += ": the name is taken"
	}
	return e
}

// exchangeFailed is failed with the number of the MSL error, unless the fault judges a ciphertext.
func exchangeFailed(op string, err error) *wire.Error {
	e := failed(op, err)
	if e.Code != wire.VerificationFailed {
		e.MSL = numberOf(err)
	}
	return e
}
