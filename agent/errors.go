// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

var _ msl.FailureError = (*Error)(nil)

// An Error is a failed operation of the agent.
type Error struct {
	Op   string // what was being done
	Kind msl.Failure
	MSL  int   // number of the MSL error (§9, without the base of 100000), or -1
	Part int   // index of the part that did not verify or decrypt, or -1
	Err  error // what the agent said
}

func (e *Error) Error() string {
	if e.Part >= 0 {
		return fmt.Sprintf("agent: %s: part %d: %v", e.Op, e.Part, e.Err)
	}
	return fmt.Sprintf("agent: %s: %v", e.Op, e.Err)
}

// Unwrap returns what the agent said.
func (e *Error) Unwrap() error { return e.Err }

// Failure is as [msl.FailureError] wants it.
func (e *Error) Failure() (f msl.Failure, mslError int) { return e.Kind, e.MSL }

// kinds says what an agent's code means to the protocol. All others mean that the agent cannot answer
// now: for StaleHandle that what the handle named could not be opened again.
var kinds = map[wire.Code]msl.Failure{
	wire.NoSuchKey:          msl.NoSuchKey,
	wire.NotSupported:       msl.NotSupported,
	wire.Denied:             msl.Denied,
	wire.Malformed:          msl.Malformed,
	wire.VerificationFailed: msl.VerificationFailed,
}

// failed describes err, which a Caller has returned.
func failed(op string, err error) error {
	if err == nil || err == context.Canceled || err == context.DeadlineExceeded {
		return err
	}
	failure := &Error{Op: op, Kind: msl.Unavailable, MSL: -1, Part: -1, Err: err}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		if kind, ok := kinds[e.Code]; ok {
			failure.Kind = kind
		}
		failure.MSL = int(e.MSL)
	}
	return failure
}

// badPart is the failure of one part of a message.
func badPart(op string, i int32) error {
	return &Error{Op: op, Kind: msl.VerificationFailed, MSL: -1, Part: int(i), Err: wire.VerificationFailed}
}

// badReply is an answer that contradicts itself.
func badReply(op string) error {
	return &Error{Op: op, Kind: msl.Unavailable, MSL: -1, Part: -1, Err: errReply}
}

// foreign is the refusal of a context or session that is not of this client.
func foreign(op string) error {
	return &Error{Op: op, Kind: msl.Malformed, MSL: -1, Part: -1, Err: errForeign}
}

var (
	errReply   = errors.New("reply makes no sense")
	errForeign = errors.New("context is not of this agent")
	errStale   = wire.Fail(wire.StaleHandle, "opening again")
)
