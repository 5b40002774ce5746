// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// An object is one key in the token, as it was found there.
type object struct {
	p       *Provider
	info    providers.KeyInfo
	class   uint // CKO_SECRET_KEY or CKO_PRIVATE_KEY
	keyType uint
	label   []byte
	id      []byte
	flags   map[uint]bool
	allowed []uint // mechanisms; nil: all
	public  []byte // SubjectPublicKeyInfo of a pair; nil: unknown
	handle  atomic.Pointer[handle]
}

// A handle is the number of an object in one link.
type handle struct {
	link   *link
	number p11.ObjectHandle
}

// Info describes the key.
func (o *object) Info() providers.KeyInfo { return o.info }

const (
	maxObjects = 1 << 16 // that a search may find
	findBatch  = 256
)

var (
	errClosed    = errors.New("closed")
	errTooMany   = errors.New("the token has too many keys")
	errAmbiguous = errors.New("the token has several keys of that label and identifier")
	errGone      = errors.New("the key is not in the token any more")
)

// find returns the handles of the objects that match.
func (s *session) find(template []*p11.Attribute) (found []p11.ObjectHandle, err error) {
	err = s.call("C_FindObjectsInit", func(c *p11.Ctx) error { return c.FindObjectsInit(s.handle, template) })
	if err != nil {
		return nil, err
	}
	for {
		var some []p11.ObjectHandle
		err = s.call("C_FindObjects", func(c *p11.Ctx) (err error) { some, _, err = c.FindObjects(s.handle, findBatch); return err })
		if err != nil || len(some) == 0 {
			break
		}
		if found = append(found, some...); len(found) > maxObjects {
			err = failure(providers.Device, "finding keys", errTooMany)
			break
		}
	}
	ferr := s.call("C_FindObjectsFinal", func(c *p11.Ctx) error { return c.FindObjectsFinal(s.handle) })
	if err == nil {
		err = ferr
	}
	if err == nil && len(found) == 0 {
		err = s.present() // a log-in or token that was lost looks like an empty token
	}
	return found, err
}

// attributes reads attributes that the object must have, in that order.
func (s *session) attributes(h p11.ObjectHandle, types ...uint) (values [][]byte, err error) {
	template := make([]*p11.Attribute, len(types))
	for i, t := range types {
		template[i] = p11.NewAttribute(t, nil)
	}
	var got []*p11.Attribute
	err = s.call("C_GetAttributeValue", func(c *p11.Ctx) (err error) { got, err = c.GetAttributeValue(s.handle, h, template); return err })
	if err != nil {
		return nil, err
	}
	for _, a := range got {
		values = append(values, a.Value)
	}
	return values, nil
}

// at returns the object's handle in the session's link.
func (o *object) at(s *session) (p11.ObjectHandle, error) {
	if h := o.handle.Load(); h != nil && h.link == s.link {
		return h.number, nil
	}
	found, err := s.find([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, o.class), p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_KEY_TYPE, o.keyType), p11.NewAttribute(p11.CKA_LABEL, o.label), p11.NewAttribute(p11.CKA_ID, o.id)})
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, failure(providers.NoSuchKey, "finding a key again", errGone)
	case 1:
		o.handle.Store(&handle{s.link, found[0]})
		s.link.witness.CompareAndSwap(0, uint64(found[0]))
		return found[0], nil
	}
	return 0, failure(providers.Corrupt, "finding a key again", errAmbiguous)
}

// may reports whether the key and the token allow a mechanism for a use, each in its own terms.
func (o *object) may(l *link, attribute, mechanism, flag uint) bool {
	return o.flags[attribute] && l.can(mechanism, flag) && (o.allowed == nil || slices.Contains(o.allowed, mechanism))
}

// usage lists the attributes that say what a key may do.
var usage = map[uint][]uint{
	p11.CKO_SECRET_KEY:  {p11.CKA_ENCRYPT, p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_VERIFY, p11.CKA_WRAP, p11.CKA_UNWRAP},
	p11.CKO_PRIVATE_KEY: {p11.CKA_SIGN, p11.CKA_DECRYPT, p11.CKA_DERIVE},
}

// read makes an object of what the token has. It returns nil for a type that this package does not use.
func (s *session) read(class uint, h p11.ObjectHandle) (*object, error) {
	common := []uint{p11.CKA_KEY_TYPE, p11.CKA_LABEL, p11.CKA_ID, p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE}
	v, err := s.attributes(h, append(common, usage[class]...)...)
	if err != nil {
		return nil, err
	}
	o := &object{p: s.p, class: class, keyType: number(v[0]), label: v[1], id: v[2], flags: make(map[uint]bool)}
	o.flags[p11.CKA_SENSITIVE], o.flags[p11.CKA_EXTRACTABLE] = truth(v[3]), truth(v[4])
	for i, attribute := range usage[class] {
		o.flags[attribute] = truth(v[len(common)+i])
	}
	if list, err := s.attributes(h, p11.CKA_ALLOWED_MECHANISMS); err == nil { // not every token has it
		o.allowed = numbers(list[0])
	}
	o.handle.Store(&handle{s.link, h})
	s.link.witness.CompareAndSwap(0, uint64(h))
	return o, s.typed(o, h)
}

// typed finds out the type and size of a key, and the public half of a pair.
func (s *session) typed(o *object, h p11.ObjectHandle) error {
	switch {
	case o.class == p11.CKO_SECRET_KEY:
		v, err := s.attributes(h, p11.CKA_VALUE_LEN)
		if err != nil {
			return err
		}
		size := number(v[0])
		if size == 0 && len(o.id) == 12 && bytes.Equal(o.id[:8], idPrefix(o.label)) {
			size = macSize // opencryptoki forgets the size of what Import, which demands this one, has made
		}
		o.info.Type = secretType(o.keyType, size)
	case o.keyType == p11.CKK_RSA:
		v, err := s.attributes(h, p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return err
		}
		o.info.Type, o.public = rsaPublic(v[0], v[1])
	case o.keyType == p11.CKK_EC:
		found, err := s.find([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, uint(p11.CKO_PUBLIC_KEY)), p11.NewAttribute(p11.CKA_TOKEN, true),
			p11.NewAttribute(p11.CKA_LABEL, o.label), p11.NewAttribute(p11.CKA_ID, o.id)})
		if err != nil {
			return err
		}
		v, err := s.attributes(h, p11.CKA_EC_PARAMS)
		if err != nil || !bytes.Equal(v[0], p256Params) {
			return err
		}
		o.info.Type = providers.ECP256
		if len(found) == 1 {
			if v, err = s.attributes(found[0], p11.CKA_EC_POINT); err != nil {
				return err
			}
			o.public = ecPublic(v[0])
		}
	}
	return nil
}

func secretType(keyType, size uint) providers.KeyType {
	switch {
	case keyType == p11.CKK_AES && size == 16:
		return providers.AES128
	case keyType == p11.CKK_AES && size == 32:
		return providers.AES256
	case (keyType == p11.CKK_GENERIC_SECRET || keyType == ckkSHA256HMAC) && size == 32:
		return providers.HMACSHA256
	}
	return ""
}

const ckkSHA256HMAC = 0x2B // CKK_SHA256_HMAC

// versionOf returns the version that the identifier of a label is, or 0.
func versionOf(label, id []byte) uint32 {
	if len(id) > 4 && bytes.Equal(id[:len(id)-4], idPrefix(label)) {
		id = id[len(id)-4:]
	}
	if len(id) == 0 || len(id) > 4 {
		return 0
	}
	var b [4]byte
	copy(b[4-len(id):], id)
	return binary.BigEndian.Uint32(b[:])
}

// idOf returns the identifier of a version that this package makes. No two keys have the same, because some
// tokens (NSS) put the new one in place of the old.
func idOf(label []byte, version uint32) []byte {
	return binary.BigEndian.AppendUint32(idPrefix(label), version)
}

func idPrefix(label []byte) []byte {
	sum := sha256.Sum256(label)
	return sum[:8:8]
}

// template makes the search for a key.
func (u *uri) template(class uint) []*p11.Attribute {
	t := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_TOKEN, true)}
	if u.object != "" {
		t = append(t, p11.NewAttribute(p11.CKA_LABEL, u.object))
	}
	if u.id != "" {
		t = append(t, p11.NewAttribute(p11.CKA_ID, []byte(u.id)))
	}
	return t
}

// classes are those that may hold the key.
func (u *uri) classes() []uint {
	switch u.class {
	case "secret-key":
		return []uint{p11.CKO_SECRET_KEY}
	case "private":
		return []uint{p11.CKO_PRIVATE_KEY}
	}
	return []uint{p11.CKO_SECRET_KEY, p11.CKO_PRIVATE_KEY}
}

func truth(b []byte) bool { return len(b) == 1 && b[0] != 0 }

// number reads a CK_ULONG.
func number(b []byte) uint {
	switch len(b) {
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	}
	return ^uint(0)
}

// numbers reads an array of CK_ULONG; nil if it is empty.
func numbers(b []byte) (list []uint) {
	const size = bits.UintSize / 8
	for ; len(b) >= size; b = b[size:] {
		list = append(list, number(b[:size]))
	}
	return list
}

// isURI reports whether a name is one.
func isURI(name string) bool { return strings.HasPrefix(name, "pkcs11:") }
