// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// failure makes the error of an operation.
func failure(c providers.Code, op string, err error) *providers.Error {
	return &providers.Error{Code: c, Op: op, Err: err}
}

// A peerError is a chip's refusal of what a peer has made. Its cause is not told, so that all look the same.
type peerError struct{}

func (peerError) Error() string { return "the data is not good" }

// A lostError is a connection or a chip that went away, with all that was loaded.
type lostError struct{ err error }

func (e lostError) Error() string { return e.err.Error() }
func (e lostError) Unwrap() error { return e.err }

// isLost tells that a command was sent and no response to it understood, be it that the connection has ended or that the library
// cannot read it. What is loaded, and the sessions' nonces, are then not known any more. A failure that was made of that is final.
func isLost(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if _, ours := errors.AsType[*providers.Error](err); ours {
		return false
	}
	if _, ok := errors.AsType[lostError](err); ok {
		return true
	}
	_, peers := errors.AsType[peerError](err)
	_, refused := responseCode(err)
	return !peers && !refused
}

// responseCode returns the code of a chip's refusal, or of the kernel's in its place, which says so in the upper half: behind
// /dev/tpmrm0 it refuses commands that the chip does not have (TPM 2.0 part 2 §6.6.2 leaves that half to software).
func responseCode(err error) (tpm2.TPMRC, bool) {
	rc, ok := errors.AsType[tpm2.TPMRC](err)
	return rc & 0xffff, ok
}

func is(err error, codes ...tpm2.TPMRC) bool {
	rc, ok := responseCode(err)
	if !ok {
		return false
	}
	for _, c := range codes {
		if rc.Is(c) {
			return true
		}
	}
	return false
}

// asksForRetry tells the codes that ask for the same command again, and nothing else (TPM 2.0 part 2 §6.6.3).
func asksForRetry(rc tpm2.TPMRC) bool {
	switch rc {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

// isFull tells that there is no room for what was to be loaded or started.
func isFull(err error) bool {
	return is(err, tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles,
		tpm2.TPMRCMemory, tpm2.TPMRCContextGap, tpm2.TPMRCTooManyContexts)
}

// isStale tells that a handle or a session is not there any more: the chip was reset, or somebody has
// flushed it. No command that fails so has done anything.
func isStale(err error) bool {
	rc, ok := responseCode(err)
	return ok && (rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6 || rc.Is(tpm2.TPMRCHandle) || rc == tpm2.TPMRCInitialize)
}

// isAuth tells that an authorisation value is wrong. What failed so is never tried again.
func isAuth(err error) bool { return is(err, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth) }

// coded makes an error of the chip one of package providers, when all was tried that can be done about it.
func coded(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[peerError](err); ok {
		return failure(providers.VerificationFailed, op, nil) // no cause: all look the same
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return failure(providers.Transient, op, err)
	}
	rc, ok := responseCode(err)
	if !ok {
		return failure(providers.Device, op, err)
	}
	return failure(codeOf(rc), op, err)
}

func codeOf(rc tpm2.TPMRC) providers.Code {
	switch {
	case asksForRetry(rc), isFull(rc), isStale(rc), rc == tpm2.TPMRCLockout, rc == tpm2.TPMRCNVUnavailable:
		return providers.Transient
	case isAuth(rc):
		return providers.Locked
	case rc.Is(tpm2.TPMRCPolicyFail), rc == tpm2.TPMRCPCRChanged, rc == tpm2.TPMRCPCR, rc == tpm2.TPMRCAuthType, rc == tpm2.TPMRCDisabled,
		rc.Is(tpm2.TPMRCHierarchy), rc == tpm2.TPMRCAuthUnavailable, rc == tpm2.TPMRCPolicy:
		return providers.Denied
	case rc.Is(tpm2.TPMRCIntegrity), rc.Is(tpm2.TPMRCBinding):
		return providers.Corrupt
	case rc == tpm2.TPMRCCommandCode:
		return providers.NotSupported
	}
	return providers.Device
}
