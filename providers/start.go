// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"errors"

	"github.com/mslkeep/mslkeep/plugin"
)

// A StartCause says what keeps a provider from starting. It is the exit code of the provider's process, so that
// the agent can tell an operator what to do whatever language the provider is written in.
type StartCause uint8

const (
	CauseSettings      StartCause = iota + 20 // its settings make no sense
	CauseDriver                               // the library that speaks to the device is missing, not to be trusted, or does not start
	CauseDriverChanged                        // that library is not the one that is pinned
	CauseDevice                               // the device is not there
	CauseSecretSource                         // what its PIN or password is read from cannot be read
	CauseSecretRefused                        // the PIN or password is wrong
	CauseSecretUntried                        // the PIN was not tried, because the device would lock it, or has
	causesEnd
)

// Because adds to an error of a provider's start what causes it. [ExitCode] tells it on.
func Because(c StartCause, err error) error { return &startFailure{c, err} }

type startFailure struct {
	cause StartCause
	err   error
}

func (f *startFailure) Error() string { return f.err.Error() }
func (f *startFailure) Unwrap() error { return f.err }

// ExitCode is the exit code with which a provider's main ends after err, which is not nil.
func ExitCode(err error) int {
	if f, ok := errors.AsType[*startFailure](err); ok {
		return int(f.cause)
	}
	return 1
}

// CauseOf returns what the process has said of an error of [Connect], or 0.
func CauseOf(err error) StartCause {
	e, ok := errors.AsType[*plugin.StartError](err)
	if !ok || e.Err != plugin.ErrEnded || e.ExitCode < int(CauseSettings) || e.ExitCode >= int(causesEnd) {
		return 0
	}
	return StartCause(e.ExitCode)
}
