// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// maxData bounds the input of one operation, in bytes.
const maxData = 1 << 20

var (
	errIV        = errors.New("the initialisation vector has the wrong size")
	errAAD       = errors.New("this mechanism takes no associated data")
	errSize      = errors.New("too long")
	errMechanism = errors.New("not a mechanism of this key")
	errKeySize   = errors.New("a key to be wrapped has a multiple of 8 bytes, and at least 16")
	errResult    = errors.New("the token's result has the wrong size")
)

// cipher returns what an AES key can do, or nil. One that encrypts does not wrap, whatever it may.
func (o *object) cipher(l *link) providers.Key {
	var mechanisms []providers.Mechanism
	if o.both(l, p11.CKM_AES_CBC_PAD) {
		mechanisms = append(mechanisms, providers.AESCBC)
	}
	if o.both(l, p11.CKM_AES_GCM) {
		mechanisms = append(mechanisms, providers.AESGCM)
	}
	if len(mechanisms) > 0 {
		return &cipherKey{o, mechanisms}
	}
	if o.flags[p11.CKA_ENCRYPT] || o.flags[p11.CKA_DECRYPT] {
		return nil
	}
	wrap := o.may(l, p11.CKA_WRAP, p11.CKM_AES_KEY_WRAP, p11.CKF_WRAP)
	unwrap := o.may(l, p11.CKA_UNWRAP, p11.CKM_AES_KEY_WRAP, p11.CKF_UNWRAP)
	switch {
	case wrap && unwrap:
		return &wrapKey{unwrapKey{o}}
	case unwrap:
		return &unwrapKey{o}
	}
	return nil
}

func (o *object) both(l *link, mechanism uint) bool {
	return o.may(l, p11.CKA_ENCRYPT, mechanism, p11.CKF_ENCRYPT) && o.may(l, p11.CKA_DECRYPT, mechanism, p11.CKF_DECRYPT)
}

// A cipherKey encrypts and decrypts.
type cipherKey struct {
	*object
	mechanisms []providers.Mechanism
}

// Mechanisms lists what the token can do with the key.
func (k *cipherKey) Mechanisms() []providers.Mechanism { return slices.Clone(k.mechanisms) }

// check checks the parameters of a mechanism.
func (k *cipherKey) check(op string, m providers.Mechanism, iv, data, aad []byte) error {
	size := 16
	switch {
	case !slices.Contains(k.mechanisms, m):
		return failure(providers.NotSupported, op, errMechanism)
	case m == providers.AESCBC && len(aad) != 0:
		return failure(providers.Malformed, op, errAAD)
	case m == providers.AESGCM:
		size = 12
	}
	if len(iv) != size {
		return failure(providers.Malformed, op, errIV)
	}
	if len(data) > maxData || len(aad) > maxData {
		return failure(providers.Malformed, op, errSize)
	}
	return nil
}

// mechanism makes the parameter of the token's mechanism. The caller calls free after the operation.
func mechanism(m providers.Mechanism, iv, aad []byte) (list []*p11.Mechanism, free func()) {
	if m == providers.AESGCM {
		params := p11.NewGCMParams(iv, aad, 128)
		return []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, params.Free
	}
	return []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_CBC_PAD, iv)}, func() {}
}

// Encrypt encrypts with AES-CBC and PKCS #7 padding, or with AES-GCM.
func (k *cipherKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	const op = "encrypting"
	if err := k.check(op, m, iv, plaintext, aad); err != nil {
		return nil, err
	}
	iv, plaintext, aad = own(ctx, iv), own(ctx, plaintext), own(ctx, aad)
	return do(ctx, k.p, op, useOther, k.object, func(s *session) (out []byte, err error) {
		h, err := k.at(s)
		if err != nil {
			return nil, err
		}
		list, free := mechanism(m, iv, aad)
		defer free()
		if err := s.call("C_EncryptInit", func(c *p11.Ctx) error { return c.EncryptInit(s.handle, list, h) }); err != nil {
			return nil, err
		}
		err = s.call("C_Encrypt", func(c *p11.Ctx) error { out, err = c.Encrypt(s.handle, plaintext); return err })
		return out, err
	})
}

// Decrypt undoes Encrypt.
func (k *cipherKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	const op = "decrypting"
	if err := k.check(op, m, iv, ciphertext, aad); err != nil {
		return nil, err
	}
	if m == providers.AESCBC && (len(ciphertext) == 0 || len(ciphertext)%16 != 0) || m == providers.AESGCM && len(ciphertext) < 16 {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	iv, ciphertext, aad = own(ctx, iv), own(ctx, ciphertext), own(ctx, aad)
	return do(ctx, k.p, op, useOpen, k.object, func(s *session) (out []byte, err error) {
		h, err := k.at(s)
		if err != nil {
			return nil, err
		}
		list, free := mechanism(m, iv, aad)
		defer free()
		if err := s.call("C_DecryptInit", func(c *p11.Ctx) error { return c.DecryptInit(s.handle, list, h) }); err != nil {
			return nil, device(err)
		}
		err = s.call("C_Decrypt", func(c *p11.Ctx) error { out, err = c.Decrypt(s.handle, ciphertext); return err })
		if padding := len(ciphertext) - len(out); err == nil && m == providers.AESCBC && (padding < 1 || padding > 16) {
			secret.Wipe(out) // opencryptoki gives out all of it where the padding is none
			return nil, p11.Error(p11.CKR_ENCRYPTED_DATA_INVALID)
		}
		return out, s.blame(err)
	})
}

// authenticator returns what a MAC key can do, or nil.
func (o *object) authenticator(l *link) providers.Key {
	if !o.may(l, p11.CKA_SIGN, p11.CKM_SHA256_HMAC, p11.CKF_SIGN) {
		return nil
	}
	return &macKey{o, o.may(l, p11.CKA_VERIFY, p11.CKM_SHA256_HMAC, p11.CKF_VERIFY)}
}

// A macKey authenticates with HMAC-SHA-256.
type macKey struct {
	*object
	verifies bool // in the token
}

const macSize = 32

var hmacSHA256 = []*p11.Mechanism{p11.NewMechanism(p11.CKM_SHA256_HMAC, nil)}

// MAC computes a MAC of 32 bytes.
func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return k.mac(ctx, "computing a MAC", message)
}

func (k *macKey) mac(ctx context.Context, op string, message []byte) ([]byte, error) {
	if len(message) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	message = own(ctx, message)
	return do(ctx, k.p, op, useOther, k.object, func(s *session) (out []byte, err error) {
		if out, err = s.sign(k.object, hmacSHA256, message); err == nil && len(out) != macSize {
			err = failure(providers.Device, op, errResult)
		}
		return out, err
	})
}

// sign signs with any key.
func (s *session) sign(o *object, mechanism []*p11.Mechanism, message []byte) (out []byte, err error) {
	h, err := o.at(s)
	if err != nil {
		return nil, err
	}
	if err := s.call("C_SignInit", func(c *p11.Ctx) error { return c.SignInit(s.handle, mechanism, h) }); err != nil {
		return nil, err
	}
	err = s.call("C_Sign", func(c *p11.Ctx) error { out, err = c.Sign(s.handle, message); return err })
	return out, err
}

// VerifyMAC verifies in the token where that is possible, and else compares here, in constant time.
func (k *macKey) VerifyMAC(ctx context.Context, message, mac []byte) error {
	const op = "verifying a MAC"
	switch {
	case len(message) > maxData:
		return failure(providers.Malformed, op, errSize)
	case len(mac) != macSize:
		return failure(providers.VerificationFailed, op, nil)
	case !k.verifies:
		want, err := k.mac(ctx, op, message)
		if err == nil && subtle.ConstantTimeCompare(want, mac) != 1 {
			err = failure(providers.VerificationFailed, op, nil)
		}
		return err
	}
	message, mac = own(ctx, message), own(ctx, mac)
	_, err := do(ctx, k.p, op, useOther, k.object, func(s *session) (none struct{}, err error) {
		h, err := k.at(s)
		if err != nil {
			return none, err
		}
		if err := s.call("C_VerifyInit", func(c *p11.Ctx) error { return c.VerifyInit(s.handle, hmacSHA256, h) }); err != nil {
			return none, device(err)
		}
		err = s.call("C_Verify", func(c *p11.Ctx) error { return c.Verify(s.handle, message, mac) })
		return none, s.judge(k, message, mac, err)
	})
	return err
}

// judge finds out whether the MAC or the token is at fault, where the token's error may mean either: NSS answers
// a MAC that does not match with whichever error it had last.
func (s *session) judge(k *macKey, message, mac []byte, err error) error {
	switch classify(err, useOther) {
	case classToken, classPermanent:
		want, serr := s.sign(k.object, hmacSHA256, message)
		if serr == nil && subtle.ConstantTimeCompare(want, mac) != 1 {
			return p11.Error(p11.CKR_SIGNATURE_INVALID)
		}
	}
	return err
}

// An unwrapKey unwraps keys.
type unwrapKey struct{ *object }

// A wrapKey wraps and unwraps keys.
type wrapKey struct{ unwrapKey }

var keyWrap = []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil)}

// Mechanisms returns none: AES key wrap has no choice.
func (k *unwrapKey) Mechanisms() []providers.Mechanism { return nil }

// Wrap wraps a key by AES key wrap (RFC 3394). The token wraps objects only, so the key becomes one for that
// long: of the session, and not of the token.
func (k *wrapKey) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	const op = "wrapping a key"
	if len(key) < 16 || len(key)%8 != 0 || len(key) > maxData {
		return nil, failure(providers.Malformed, op, errKeySize)
	}
	plain := secret.Take(bytes.Clone(key))
	out, err := do(ctx, k.p, op, useOther, k.object, func(s *session) (out []byte, err error) {
		h, err := k.at(s)
		if err != nil {
			return nil, err
		}
		template := append(s.temporary(), p11.NewAttribute(p11.CKA_VALUE, secret.Reveal(plain)))
		object, err := s.make(func(c *p11.Ctx) (p11.ObjectHandle, error) { return c.CreateObject(s.handle, template) }, "C_CreateObject")
		if err != nil {
			return nil, err
		}
		defer s.remove(object)
		err = s.call("C_WrapKey", func(c *p11.Ctx) error { out, err = c.WrapKey(s.handle, keyWrap, h, object); return err })
		if err == nil && len(out) != len(key)+8 {
			err = failure(providers.Device, op, errResult)
		}
		return out, err
	})
	if ctx.Err() == nil { // else it may be in use yet
		plain.Wipe()
	}
	return out, err
}

// Unwrap undoes Wrap.
func (k *unwrapKey) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	const op = "unwrapping a key"
	if len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	if len(wrapped) > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	wrapped = own(ctx, wrapped)
	return do(ctx, k.p, op, useOpen, k.object, func(s *session) ([]byte, error) {
		h, err := k.at(s)
		if err != nil {
			return nil, device(err)
		}
		object, err := s.make(func(c *p11.Ctx) (p11.ObjectHandle, error) {
			return c.UnwrapKey(s.handle, keyWrap, h, wrapped, s.temporary())
		}, "C_UnwrapKey")
		if err != nil {
			return nil, s.blame(err)
		}
		return s.value(object, len(wrapped)-8)
	})
}
