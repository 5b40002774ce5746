// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// A purpose is what a key is made for: it gets no other use, and no other mechanism.
type purpose struct {
	class, keyType uint
	generate       uint // mechanism
	size           int  // bytes of a secret key, bits of an RSA modulus
	uses           []uint
	publicUses     []uint
	mechanisms     []uint // those of them that the token has are allowed
}

var aesSizes = map[providers.KeyType]int{providers.AES128: 16, providers.AES256: 32} // bytes

func (p *Provider) purpose(name string, t providers.KeyType) (purpose, bool) {
	switch t {
	case providers.AES128, providers.AES256:
		u := purpose{class: p11.CKO_SECRET_KEY, keyType: p11.CKK_AES, generate: p11.CKM_AES_KEY_GEN, size: aesSizes[t],
			uses: []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT}, mechanisms: []uint{p11.CKM_AES_CBC_PAD, p11.CKM_AES_GCM}}
		if p.config.wraps(name) {
			u.uses, u.mechanisms = []uint{p11.CKA_WRAP, p11.CKA_UNWRAP}, []uint{p11.CKM_AES_KEY_WRAP}
		}
		return u, true
	case providers.HMACSHA256:
		return purpose{class: p11.CKO_SECRET_KEY, keyType: p11.CKK_GENERIC_SECRET, generate: p11.CKM_GENERIC_SECRET_KEY_GEN, size: 32,
			uses: []uint{p11.CKA_SIGN, p11.CKA_VERIFY}, mechanisms: []uint{p11.CKM_SHA256_HMAC}}, true
	case providers.RSA2048, providers.RSA3072, providers.RSA4096:
		u := purpose{class: p11.CKO_PRIVATE_KEY, keyType: p11.CKK_RSA, generate: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, size: moduli[t],
			uses: []uint{p11.CKA_SIGN, p11.CKA_DECRYPT}, publicUses: []uint{p11.CKA_VERIFY, p11.CKA_ENCRYPT},
			mechanisms: []uint{p11.CKM_SHA256_RSA_PKCS, p11.CKM_RSA_PKCS_OAEP}}
		if p.config.AllowRSAPKCS1 {
			u.mechanisms = append(u.mechanisms, p11.CKM_RSA_PKCS)
		}
		return u, true
	case providers.ECP256:
		return purpose{class: p11.CKO_PRIVATE_KEY, keyType: p11.CKK_EC, generate: p11.CKM_EC_KEY_PAIR_GEN,
			uses: []uint{p11.CKA_SIGN, p11.CKA_DERIVE}, publicUses: []uint{p11.CKA_VERIFY},
			mechanisms: []uint{p11.CKM_ECDSA, p11.CKM_ECDH1_DERIVE}}, true
	}
	return purpose{}, false
}

// allUses are denied to a key unless they are of its purpose.
var allUses = map[uint][]uint{
	p11.CKO_SECRET_KEY:  {p11.CKA_ENCRYPT, p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_VERIFY, p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_DERIVE},
	p11.CKO_PRIVATE_KEY: {p11.CKA_SIGN, p11.CKA_DECRYPT, p11.CKA_DERIVE, p11.CKA_UNWRAP, p11.CKA_SIGN_RECOVER},
	p11.CKO_PUBLIC_KEY:  {p11.CKA_VERIFY, p11.CKA_ENCRYPT, p11.CKA_WRAP, p11.CKA_VERIFY_RECOVER},
}

// common is of every object of a key: where it is, its name and version, and what it may be used for.
func common(class, keyType uint, name string, version uint32, uses []uint) []*p11.Attribute {
	t := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_KEY_TYPE, keyType), p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_LABEL, name), p11.NewAttribute(p11.CKA_ID, idOf([]byte(name), version)), p11.NewAttribute(p11.CKA_MODIFIABLE, false),
	}
	allowed := make(map[uint]bool)
	for _, u := range uses {
		allowed[u] = true
	}
	for _, u := range allUses[class] {
		t = append(t, p11.NewAttribute(u, allowed[u]))
	}
	return t
}

// allowed lists the mechanisms for the purpose that the token has.
func (u *purpose) allowed(l *link) (list []uint) {
	for _, m := range u.mechanisms {
		if _, ok := l.mechanisms[m]; ok {
			list = append(list, m)
		} else if _, ok := l.mechanisms[p11.CKM_RSA_PKCS]; ok && m == p11.CKM_SHA256_RSA_PKCS {
			list = append(list, p11.CKM_RSA_PKCS) // which signs as well
		}
	}
	return list
}

// templates makes the attributes of a key: of the secret or private object, and of the public one.
func (u *purpose) templates(l *link, name string, version uint32, anyMechanism bool) (private, public []*p11.Attribute) {
	private = append(common(u.class, u.keyType, name, version, u.uses), p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
	if !anyMechanism {
		private = append(private, p11.NewAttribute(p11.CKA_ALLOWED_MECHANISMS, mechanismList(u.allowed(l))))
	}
	if u.class == p11.CKO_PRIVATE_KEY {
		public = append(common(p11.CKO_PUBLIC_KEY, u.keyType, name, version, u.publicUses), p11.NewAttribute(p11.CKA_PRIVATE, false))
	}
	return private, public
}

// newMaterial prepares the generation of the version after last.
func (s *session) newMaterial(op, name string, last uint32, t providers.KeyType) (*material, error) {
	u, ok := s.p.purpose(name, t)
	if _, has := s.link.mechanisms[u.generate]; !ok || !has {
		return nil, failure(providers.NotSupported, op, errType)
	}
	if u.allowed(s.link) == nil {
		return nil, failure(providers.NotSupported, op, errNoUse)
	}
	m := &material{info: providers.KeyInfo{Name: name, Version: last + 1, Type: t}, made: p11.NewMechanism(u.generate, nil)}
	m.private, m.public = u.templates(s.link, name, last+1, s.p.config.AnyMechanism)
	switch u.keyType {
	case p11.CKK_RSA:
		m.public = append(m.public, p11.NewAttribute(p11.CKA_MODULUS_BITS, u.size), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	case p11.CKK_EC:
		m.public = append(m.public, p11.NewAttribute(p11.CKA_EC_PARAMS, p256Params))
	default:
		m.private = append(m.private, p11.NewAttribute(p11.CKA_VALUE_LEN, u.size))
	}
	return m, nil
}

// generates lists the types of keys that the token can make.
func (l *link) generates() (types []providers.KeyType) {
	for _, t := range allTypes {
		u, _ := new(Provider).purpose("", t)
		if _, ok := l.mechanisms[u.generate]; ok && u.allowed(l) != nil {
			types = append(types, t)
		}
	}
	return types
}

// imports lists the types that it can use: whether it lets keys in, only trying tells.
func (l *link) imports() []providers.KeyType { return l.generates() }

var allTypes = []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048, providers.RSA3072,
	providers.RSA4096, providers.ECP256}
