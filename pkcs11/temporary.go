// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// temporary is the template of an object that lives for one operation, whose bytes come from outside or
// go there.
func (s *session) temporary() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, uint(p11.CKO_SECRET_KEY)), p11.NewAttribute(p11.CKA_KEY_TYPE, uint(p11.CKK_GENERIC_SECRET)),
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, false), p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
	}
}

// alone lets one make or remove objects at a time where that is needed: SoftHSM has races there.
func (s *session) alone() (done func()) {
	if !strings.HasPrefix(s.link.info.ManufacturerID, "SoftHSM") {
		return func() {}
	}
	s.p.creating.Lock()
	return s.p.creating.Unlock
}

// make makes an object.
func (s *session) make(f func(*p11.Ctx) (p11.ObjectHandle, error), call string) (object p11.ObjectHandle, err error) {
	defer s.alone()()
	err = s.call(call, func(c *p11.Ctx) error { object, err = f(c); return err })
	return object, err
}

// remove destroys a temporary object. If that fails the session is closed, which destroys it too.
func (s *session) remove(object p11.ObjectHandle) {
	defer s.alone()()
	err := s.call("C_DestroyObject", func(c *p11.Ctx) error { return c.DestroyObject(s.handle, object) })
	if err != nil {
		s.call("C_CloseSession", func(c *p11.Ctx) error { return c.CloseSession(s.handle) })
		s.link = nil
	}
}

// value reads the bytes of a temporary object, and destroys it.
func (s *session) value(object p11.ObjectHandle, size int) ([]byte, error) {
	defer s.remove(object)
	v, err := s.attributes(object, p11.CKA_VALUE)
	if err != nil {
		return nil, device(err)
	}
	if len(v[0]) != size {
		secret.Wipe(v[0])
		return nil, failure(providers.Device, "reading the result of the token", errResult)
	}
	return v[0], nil
}

// device is an error of the device where one of a peer's data could come from as well.
func device(err error) error {
	switch code, _ := errors.AsType[p11.Error](err); code {
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED:
		return p11.Error(p11.CKR_DEVICE_ERROR)
	}
	return err
}

// blame tells the peer's fault from the device's, where the module's error says nothing: a device that
// still answers is not at fault.
func (s *session) blame(err error) error {
	switch code, _ := errors.AsType[p11.Error](err); code {
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED:
		if s.loggedIn() != nil {
			return p11.Error(p11.CKR_DEVICE_ERROR)
		}
	}
	return err
}
