// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// What is done about each error of a module, and what callers see if that does not help.
func TestErrorClasses(t *testing.T) {
	for _, c := range []struct {
		class  class
		code   providers.Code
		errors []uint
	}{
		{classPeer, providers.VerificationFailed, []uint{p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE, p11.CKR_SIGNATURE_INVALID,
			p11.CKR_SIGNATURE_LEN_RANGE, p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_WRAPPED_KEY_LEN_RANGE, uint(ckrAEADDecryptFailed)}},
		{classSession, providers.Transient, []uint{p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_OPERATION_ACTIVE,
			p11.CKR_OPERATION_NOT_INITIALIZED}},
		{classObject, providers.NoSuchKey, []uint{p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_WRAPPING_KEY_HANDLE_INVALID,
			p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID}},
		{classLogin, providers.Transient, []uint{p11.CKR_USER_NOT_LOGGED_IN}},
		{classToken, providers.Transient, []uint{p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
			p11.CKR_SLOT_ID_INVALID, p11.CKR_CRYPTOKI_NOT_INITIALIZED}},
		{classToken, providers.Device, []uint{p11.CKR_DEVICE_ERROR}},
		{classCapacity, providers.Transient, []uint{p11.CKR_SESSION_COUNT, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY, p11.CKR_FUNCTION_CANCELED}},
		{classPermanent, providers.Locked, []uint{p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED}},
		{classPermanent, providers.Denied, []uint{p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_KEY_UNEXTRACTABLE,
			p11.CKR_TOKEN_WRITE_PROTECTED}},
		{classPermanent, providers.NotSupported, []uint{p11.CKR_MECHANISM_INVALID, p11.CKR_KEY_TYPE_INCONSISTENT, p11.CKR_KEY_SIZE_RANGE,
			p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED}},
		{classPermanent, providers.Device, []uint{p11.CKR_ARGUMENTS_BAD, 0x80000001}}, // and what vendors make up
	} {
		for _, code := range c.errors {
			for _, u := range []use{useOther, useOpen} {
				err := fmt.Errorf("in a call: %w", p11.Error(code))
				if got := classify(err, u); got != c.class {
					t.Errorf("%v, use %d: class %d, not %d", err, u, got, c.class)
				}
				if got := providers.CodeOf(coded("testing", err, u)); got != c.code {
					t.Errorf("%v, use %d: code %v, not %v", err, u, got, c.code)
				}
			}
		}
	}
	// These say nothing: when something sealed by a peer is opened they are the peer's fault, else the device's.
	for code, want := range map[uint]providers.Code{p11.CKR_GENERAL_ERROR: providers.Device, p11.CKR_FUNCTION_FAILED: providers.Device,
		p11.CKR_DATA_INVALID: providers.Malformed, p11.CKR_DATA_LEN_RANGE: providers.Malformed} {
		if got := providers.CodeOf(coded("testing", p11.Error(code), useOther)); got != want {
			t.Errorf("%v: code %v, not %v", p11.Error(code), got, want)
		}
		err := coded("testing", p11.Error(code), useOpen)
		if providers.CodeOf(err) != providers.VerificationFailed || errors.Unwrap(err) != nil {
			t.Errorf("%v: %v with a cause", p11.Error(code), err)
		}
		if classify(p11.Error(code), useOpen) != classPeer {
			t.Errorf("%v is not the peer's fault", p11.Error(code))
		}
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		if classify(err, useOpen) != classDone || providers.CodeOf(coded("testing", err, useOpen)) != providers.Transient {
			t.Errorf("%v: %v", err, coded("testing", err, useOpen))
		}
	}
}
