// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

var (
	errName    = errors.New("a key's name has 1 to 255 bytes of UTF-8 without control characters, and is no URI and none that the configuration gives")
	errType    = errors.New("the token cannot make keys of that type")
	errNoUse   = errors.New("the token has no mechanism that the key could be used with")
	errAllowed = errors.New("the token does not take the key's attributes; if it cannot keep CKA_ALLOWED_MECHANISMS, set any-mechanism")
)

// goodName tells whether a key can be made of that name.
func (p *Provider) goodName(name string) bool {
	return len(name) > 0 && len(name) <= 255 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl) &&
		!isURI(name) && p.named[name] == nil
}

// Generate makes a key in the token.
func (p *Provider) Generate(ctx context.Context, name string, t providers.KeyType) (providers.KeyInfo, error) {
	return p.create(ctx, "generating a key", name, func(s *session, last uint32, _ providers.KeyType) (*material, error) {
		return s.newMaterial("generating a key", name, last, t)
	}, false)
}

// Rotate makes the next version of a key, of the same type.
func (p *Provider) Rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	return p.create(ctx, "rotating a key", name, func(s *session, last uint32, t providers.KeyType) (*material, error) {
		return s.newMaterial("rotating a key", name, last, t)
	}, true)
}

// A material is a key to be made.
type material struct {
	info    providers.KeyInfo
	public  []*p11.Attribute // nil: a secret key
	private []*p11.Attribute // or secret
	made    *p11.Mechanism   // nil: its bytes are among the attributes
}

// create makes a version of a key, if older versions are there or not, as rotate demands.
func (p *Provider) create(ctx context.Context, op, name string, prepare func(*session, uint32, providers.KeyType) (*material, error), rotate bool) (providers.KeyInfo, error) {
	if !p.goodName(name) {
		if rotate {
			return providers.KeyInfo{}, failure(providers.NoSuchKey, op, nil)
		}
		return providers.KeyInfo{}, failure(providers.Malformed, op, errName)
	}
	defer p.forget(name)
	return do(ctx, p, op, useOther, nil, func(s *session) (providers.KeyInfo, error) {
		p.creating.Lock()
		defer p.creating.Unlock()
		keys, err := s.versions(name, nil)
		if err != nil {
			return providers.KeyInfo{}, err
		}
		last, err := s.lastDestroyed(name)
		if err != nil {
			return providers.KeyInfo{}, err
		}
		var t providers.KeyType
		if newest := pick(keys, 0); newest != nil {
			last, t = max(last, newest.info.Version), newest.info.Type
		}
		switch {
		case rotate && len(keys) == 0:
			return providers.KeyInfo{}, failure(providers.NoSuchKey, op, nil)
		case !rotate && len(keys) > 0:
			return providers.KeyInfo{}, failure(providers.Exists, op, nil)
		}
		m, err := prepare(s, last, t)
		if err != nil {
			return providers.KeyInfo{}, err
		}
		err = s.put(m)
		if errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)) && !p.config.AnyMechanism {
			err = failure(providers.NotSupported, op, fmt.Errorf("%w: %w", errAllowed, err))
		}
		return m.info, err
	})
}

// put makes the objects of a key. It leaves none behind if it fails.
func (s *session) put(m *material) error {
	s.change = true
	if m.made != nil && m.public == nil {
		return s.call("C_GenerateKey", func(c *p11.Ctx) error {
			_, err := c.GenerateKey(s.handle, []*p11.Mechanism{m.made}, m.private)
			return err
		})
	}
	if m.made != nil {
		return s.call("C_GenerateKeyPair", func(c *p11.Ctx) error {
			_, _, err := c.GenerateKeyPair(s.handle, []*p11.Mechanism{m.made}, m.public, m.private)
			return err
		})
	}
	var object p11.ObjectHandle
	err := s.call("C_CreateObject", func(c *p11.Ctx) (err error) { object, err = c.CreateObject(s.handle, m.private); return err })
	if err != nil {
		return err
	}
	if m.public == nil {
		return s.tellSize(object, m)
	}
	err = s.call("C_CreateObject", func(c *p11.Ctx) error { _, err := c.CreateObject(s.handle, m.public); return err })
	if err != nil {
		s.call("C_DestroyObject", func(c *p11.Ctx) error { return c.DestroyObject(s.handle, object) })
	}
	return err
}

// tellSize makes an imported AES key again if the token does not know its size: opencryptoki wants to be told, which
// PKCS #11 forbids.
func (s *session) tellSize(object p11.ObjectHandle, m *material) error {
	_, err := s.attributes(object, p11.CKA_VALUE_LEN)
	if err == nil {
		return nil
	}
	if derr := s.call("C_DestroyObject", func(c *p11.Ctx) error { return c.DestroyObject(s.handle, object) }); derr != nil {
		return derr
	}
	size, ok := aesSizes[m.info.Type]
	if !ok || !errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)) {
		return err
	}
	template := append(m.private, p11.NewAttribute(p11.CKA_VALUE_LEN, size))
	return s.call("C_CreateObject", func(c *p11.Ctx) error { _, err := c.CreateObject(s.handle, template); return err })
}

// Destroy removes a version of a key for good. Its number is not used again: the token keeps a data object that
// says how far the versions went.
func (p *Provider) Destroy(ctx context.Context, name string, version uint32) error {
	const op = "destroying a key"
	if !p.goodName(name) || version == 0 {
		return failure(providers.NoSuchKey, op, nil)
	}
	defer p.forget(name)
	_, err := do(ctx, p, op, useOther, nil, func(s *session) (none struct{}, err error) {
		p.creating.Lock()
		defer p.creating.Unlock()
		keys, err := s.versions(name, nil)
		if err != nil {
			return none, err
		}
		var doomed []*key
		for _, k := range keys {
			if k.info.Version == version {
				doomed = append(doomed, k)
			}
		}
		if len(doomed) == 0 {
			return none, failure(providers.NoSuchKey, op, nil)
		}
		if len(doomed) > 1 {
			return none, failure(providers.Corrupt, op, errAmbiguous)
		}
		if pick(keys, 0).info.Version == version {
			if err := s.noteDestroyed(name, version); err != nil {
				return none, err
			}
		}
		return none, s.destroy(doomed[0])
	})
	return err
}

// destroy removes the objects of a key, the secret one first.
func (s *session) destroy(k *key) error {
	h, err := k.at(s)
	if err != nil {
		return err
	}
	s.change = true
	if err := s.call("C_DestroyObject", func(c *p11.Ctx) error { return c.DestroyObject(s.handle, h) }); err != nil {
		return err
	}
	if k.class != p11.CKO_PRIVATE_KEY {
		return nil
	}
	found, err := s.find([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, uint(p11.CKO_PUBLIC_KEY)), p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_LABEL, k.label), p11.NewAttribute(p11.CKA_ID, k.id)})
	for _, h := range found {
		if err == nil {
			err = s.call("C_DestroyObject", func(c *p11.Ctx) error { return c.DestroyObject(s.handle, h) })
		}
	}
	return err
}

// noteObject is the application of the data objects that remember destroyed versions.
const noteObject = "mslkeep destroyed"

func note(name string) []*p11.Attribute {
	return []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, uint(p11.CKO_DATA)), p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_APPLICATION, noteObject), p11.NewAttribute(p11.CKA_LABEL, name)}
}

func (s *session) noteDestroyed(name string, version uint32) error {
	s.change = true
	template := append(note(name), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_VALUE, binary.BigEndian.AppendUint32(nil, version)))
	return s.call("C_CreateObject", func(c *p11.Ctx) error { _, err := c.CreateObject(s.handle, template); return err })
}

// lastDestroyed returns the highest version that was destroyed as the newest one.
func (s *session) lastDestroyed(name string) (last uint32, err error) {
	found, err := s.find(note(name))
	for _, h := range found {
		v, err := s.attributes(h, p11.CKA_VALUE)
		if err != nil {
			return 0, err
		}
		if len(v[0]) == 4 {
			last = max(last, binary.BigEndian.Uint32(v[0]))
		}
	}
	return last, err
}

// mechanismList is the value of CKA_ALLOWED_MECHANISMS.
func mechanismList(list []uint) []byte {
	var b bytes.Buffer
	for _, m := range list {
		if bits.UintSize == 64 {
			binary.Write(&b, binary.NativeEndian, uint64(m))
		} else {
			binary.Write(&b, binary.NativeEndian, uint32(m))
		}
	}
	return b.Bytes()
}
