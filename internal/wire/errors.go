// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

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
