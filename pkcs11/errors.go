// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"errors"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// failure makes the error of an operation.
func failure(c providers.Code, op string, err error) *providers.Error {
	return &providers.Error{Code: c, Op: op, Err: err}
}

// A class is what there is to do about an error of the module.
type class uint8

const (
	classNone      class = iota
	classPeer            // the ciphertext, MAC, signature or wrapped key is not good
	classSession         // the session is of no use any more
	classObject          // the handle of a key is of no use any more
	classLogin           // log in again
	classToken           // find the token again, and if need be start the module again
	classCapacity        // wait
	classPermanent       // stop
	classDone            // has a code already, or the context has ended
)

// A use is the kind of an operation, as far as errors have to do with it.
type use uint8

const (
	useOther use = iota
	useOpen      // undoes what a peer has sealed: a failure that says nothing is the peer's
)

// classify sorts an error.
func classify(err error, u use) class {
	if err == nil {
		return classNone
	}
	code, ok := errors.AsType[p11.Error](err)
	if !ok {
		return classDone
	}
	switch code {
	case p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE, p11.CKR_SIGNATURE_INVALID, p11.CKR_SIGNATURE_LEN_RANGE,
		p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_WRAPPED_KEY_LEN_RANGE, ckrAEADDecryptFailed:
		return classPeer
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED:
		return classSession
	case p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_WRAPPING_KEY_HANDLE_INVALID, p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return classObject
	case p11.CKR_USER_NOT_LOGGED_IN:
		return classLogin
	case p11.CKR_SESSION_COUNT, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY, p11.CKR_FUNCTION_CANCELED, p11.CKR_CANCEL:
		return classCapacity
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE:
		// SoftHSM answers bad padding and a wrong integrity value with CKR_GENERAL_ERROR.
		if u == useOpen {
			return classPeer
		}
		if code == p11.CKR_DATA_INVALID || code == p11.CKR_DATA_LEN_RANGE {
			return classPermanent
		}
		return classToken
	case p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_SLOT_ID_INVALID, p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return classToken
	}
	return classPermanent
}

// ckrAEADDecryptFailed is of PKCS #11 3.0, which some modules use without being asked.
const ckrAEADDecryptFailed = p11.Error(0x35)

// coded makes an error of the module one of this package, when all was tried that can be done about it.
func coded(op string, err error, u use) error {
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return failure(providers.Transient, op, err)
	}
	switch classify(err, u) {
	case classNone:
		return nil
	case classPeer:
		return failure(providers.VerificationFailed, op, nil) // no cause: all look the same
	case classSession, classLogin, classCapacity:
		return failure(providers.Transient, op, err)
	case classObject:
		return failure(providers.NoSuchKey, op, err)
	case classToken:
		return failure(tokenCode(err), op, err)
	}
	return failure(permanentCode(err), op, err)
}

// tokenCode tells a token that is away, and may come back, from one that is there and fails.
func tokenCode(err error) providers.Code {
	switch code, _ := errors.AsType[p11.Error](err); code {
	case p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED:
		return providers.Device
	}
	return providers.Transient
}

func permanentCode(err error) providers.Code {
	code, ok := errors.AsType[p11.Error](err)
	if !ok {
		return providers.Device
	}
	switch code {
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_USER_PIN_NOT_INITIALIZED:
		return providers.Locked
	case p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_ACTION_PROHIBITED, p11.CKR_TOKEN_WRITE_PROTECTED, p11.CKR_SESSION_READ_ONLY,
		p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_KEY_UNEXTRACTABLE, p11.CKR_KEY_NOT_WRAPPABLE:
		return providers.Denied
	case p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED, p11.CKR_KEY_TYPE_INCONSISTENT,
		p11.CKR_KEY_SIZE_RANGE, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_TEMPLATE_INCONSISTENT,
		p11.CKR_TEMPLATE_INCOMPLETE, p11.CKR_CURVE_NOT_SUPPORTED, p11.CKR_DOMAIN_PARAMS_INVALID:
		return providers.NotSupported
	case p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE:
		return providers.Malformed
	}
	return providers.Device
}
