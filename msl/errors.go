// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
)

// A Code is an error of the protocol (§9): the internal code as it travels, 100000 plus the error's
// number. 0 means none. A Code is an error, so errors.Is(err, msl.MessageReplayed) works on what this
// package returns, whether the failure happened here or was reported by the peer.
type Code uint32

// codeBase is what internal codes on the wire add to an error's number.
const codeBase = 100000

type codeInfo struct {
	code     Code
	name     string
	response ResponseCode
}

func (c Code) info() (codeInfo, bool) {
	i, ok := slices.BinarySearchFunc(codes, c, func(i codeInfo, c Code) int { return cmp.Compare(i.code, c) })
	if !ok {
		return codeInfo{}, false
	}
	return codes[i], true
}

// Name returns the name that §9 gives the error, such as MESSAGE_REPLAYED, or "" if it has none.
func (c Code) Name() string {
	i, _ := c.info()
	return i.name
}

// Response returns what the receiver of this error should do. It is Fail for codes that §9 lacks.
func (c Code) Response() ResponseCode {
	if i, ok := c.info(); ok {
		return i.response
	}
	return Fail
}

// Error returns a fixed text without details. It is also what goes to the peer.
func (c Code) Error() string {
	if i, ok := c.info(); ok {
		return strings.ToLower(strings.ReplaceAll(i.name, "_", " "))
	}
	return "unknown error"
}

// A ResponseCode says what the receiver of an error message may do about it (§9).
type ResponseCode uint8

const (
	Fail             ResponseCode = iota + 1 // it will keep failing
	TransientFailure                         // it may succeed later
	EntityReauth                             // send again with entity authentication data instead of the master token
	UserReauth                               // send again with user authentication data instead of the user ID token
	KeyxRequired                             // establish session keys, then send again
	EntityDataReauth                         // send again with new entity authentication data
	UserDataReauth                           // send again with new user authentication data
	Expired                                  // send again renewable, or with a newer master token
	Replayed                                 // send again with a new non-replayable id
	SSOTokenRejected                         // as UserDataReauth: the single sign-on credential was refused
)

var responseNames = [...]string{
	Fail: "FAIL", TransientFailure: "TRANSIENT_FAILURE", EntityReauth: "ENTITY_REAUTH", UserReauth: "USER_REAUTH",
	KeyxRequired: "KEYX_REQUIRED", EntityDataReauth: "ENTITYDATA_REAUTH", UserDataReauth: "USERDATA_REAUTH",
	Expired: "EXPIRED", Replayed: "REPLAYED", SSOTokenRejected: "SSOTOKEN_REJECTED",
}

// String returns the name in §9.
func (r ResponseCode) String() string {
	if r >= Fail && int(r) < len(responseNames) {
		return responseNames[r]
	}
	return "UNKNOWN"
}

// An Error is a failure with the protocol error that names it.
type Error struct {
	Code      Code
	Op        string // what was being done, to which field; never input or secrets
	MessageID int64  // of the message that failed, or -1 if it could not be read
	Err       error  // the cause; may be nil
}

func (e *Error) Error() string {
	s := "msl: " + e.Op + ": " + e.Code.Error()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes the code and the cause visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// CodeOf returns the protocol error of err: InternalException if it has none, and 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	return InternalException
}

// fail returns an *Error whose message id is not known yet.
func fail(c Code, op string, cause error) error {
	return &Error{Code: c, Op: op, MessageID: -1, Err: cause}
}

// withID notes in err the message that it concerns, unless it has one.
func withID(err error, id int64) error {
	if err == nil {
		return nil
	}
	e, ok := err.(*Error)
	if !ok {
		return &Error{Code: CodeOf(err), Op: "message", MessageID: id, Err: err}
	}
	if e.MessageID < 0 {
		e.MessageID = id
	}
	return e
}

// sendError makes what a transport says of sending an error of MSL.
func sendError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return fail(MSLCommsFailure, "message", err)
}

// custodyError turns an error of custody into a protocol error. unverified is the code for what did
// not verify or decrypt; a failure that names its own protocol error keeps it. Everything that is not
// the peer's fault becomes a transient failure, so nothing is accepted while custody is away.
func custodyError(err error, unverified Code, op string) error {
	f, ok := errors.AsType[FailureError](err)
	if !ok || errors.Is(err, context.Canceled) {
		return fail(InternalException, op, err)
	}
	class, number := f.Failure()
	switch {
	case number >= 0 && number < codeBase:
		return fail(codeBase+Code(number), op, err)
	case class == VerificationFailed || class == Malformed:
		return fail(unverified, op, err)
	}
	return fail(InternalException, op, err)
}

// failureOf returns the class of an error of custody, or 0.
func failureOf(err error) Failure {
	if f, ok := errors.AsType[FailureError](err); ok {
		class, _ := f.Failure()
		return class
	}
	return 0
}

// numberOf returns the number of the protocol error that custody names, or -1.
func numberOf(err error) int {
	if f, ok := errors.AsType[FailureError](err); ok {
		_, number := f.Failure()
		return number
	}
	return -1
}

// notVerified is the failure of the contexts that live in this package.
type notVerified struct{ op string }

func (e notVerified) Error() string           { return e.op + ": verification failed" }
func (e notVerified) Failure() (Failure, int) { return VerificationFailed, -1 }

// notSupported is the failure of an operation that a context cannot do.
type notSupported struct {
	op   string
	code Code
}

func (e notSupported) Error() string           { return e.op + ": not supported" }
func (e notSupported) Failure() (Failure, int) { return NotSupported, int(e.code) - codeBase }
