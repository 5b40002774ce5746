// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
)

// A Code classifies a failure. It survives the process boundary, and is all that control flow looks
// at. A Code is an error, so errors.Is(err, wire.StaleHandle) works on any *Error.
type Code uint8

const (
	// StaleHandle: the handle names nothing (any more) on this connection. Open it again, once.
	StaleHandle Code = iota + 1
	// NoSuchKey: no key has that name, or no entity that identity.
	NoSuchKey
	// NotSupported: this agent or provider cannot do that, ever.
	NotSupported
	// Denied: the agent's configuration forbids it.
	Denied
	// Malformed: the request makes no sense; a fault of the caller, or of its peer's key exchange data.
	Malformed
	// VerificationFailed: a token, envelope, signature or wrapped key did not verify or decrypt. It is
	// the same code whatever was wrong with it.
	VerificationFailed
	// Transient: the agent is starting, restarting, overloaded or shutting down. Try again later.
	Transient
	// Device: a provider's device failed.
	Device
	// Canceled: the caller gave up, or the deadline passed.
	Canceled
)

// An Error is a failed operation.
type Error struct {
	Code Code
	// MSL is the number of the MSL error that the specification names for this failure (§9, without
	// the base of 100000), or -1. Only key exchange sets it.
	MSL int32
	// Detail says what was being done, to which field. It never holds input or secrets.
	Detail string
}

var codeTexts = [...]string{
	StaleHandle: "stale handle", NoSuchKey: "no such key", NotSupported: "not supported", Denied: "denied",
	Malformed: "malformed", VerificationFailed: "verification failed", Transient: "try again later",
	Device: "device failure", Canceled: "canceled",
}

// Error returns the code's text.
func (c Code) Error() string {
	if int(c) < len(codeTexts) && codeTexts[c] != "" {
		return codeTexts[c]
	}
	return "unknown failure"
}

// Fail returns an error with code and detail, and no MSL error number.
func Fail(code Code, detail string) *Error {
	return &Error{Code: code, MSL: -1, Detail: detail}
}

// Error returns the detail and the code's text.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code.Error()
	}
	return e.Detail + ": " + e.Code.Error()
}

// Unwrap makes the code visible to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Code }

// asError returns err as it travels. What a handler did not classify is a fault of its own; the text of
// such an error might say anything, and stays behind.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e != nil && e.Code >= StaleHandle && e.Code <= Canceled {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Fail(Canceled, "")
	}
	if code, ok := errors.AsType[Code](err); ok && code >= StaleHandle && code <= Canceled {
		return Fail(code, "")
	}
	return Fail(Device, "unclassified failure")
}
