// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package jose is JSON web keys and JSON web encryption as MSL speaks them (§2.9, §2.10 of the MSL
// specification). Both follow the drafts of 2013 (JOSE 08) and not the RFCs, from which they differ in
// what the encryption authenticates, in its JSON form, and in names. Nothing else may use it.
package jose

import "strconv"

// Numbers of the MSL errors of this package (§9, without the base of 100000).
const (
	ParseError                = 0
	PlaintextIllegalBlockSize = 5
	CiphertextBadPadding      = 8
	EncryptNotSupported       = 9
	DecryptNotSupported       = 10
	InvalidSymmetricKey       = 24
	UnidentifiedType          = 29
	UnidentifiedUsage         = 30
	UnidentifiedAlgorithm     = 31
	UnwrapError               = 33
	InvalidKeyData            = 35
	JWEParseError             = 41
	InvalidAlgorithmParams    = 42
	AlgorithmMismatch         = 43
	UnidentifiedKeyOp         = 62
)

// An Error is a key or an encryption that was refused. It holds nothing of what was refused.
type Error struct {
	MSL int32  // number of the MSL error that the specification names (§9)
	Op  string // what was being done, to which field
	Err error  // may be nil
}

// Error says what was refused, and the number.
func (e *Error) Error() string {
	s := "jose: " + e.Op + ": MSL error " + strconv.Itoa(int(e.MSL))
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, if any.
func (e *Error) Unwrap() error { return e.Err }

func fail(number int32, op string) error { return &Error{MSL: number, Op: op} }
