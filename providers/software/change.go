// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Generate makes a key.
func (p *Provider) Generate(ctx context.Context, name string, t providers.KeyType) (providers.KeyInfo, error) {
	const op = "generating a key"
	if !goodName(name) {
		return providers.KeyInfo{}, failure(providers.Malformed, op, errName)
	}
	b, err := generate(t)
	if err != nil {
		return providers.KeyInfo{}, withCode(providers.Device, op, err)
	}
	return p.add(ctx, op, name, t, b, false)
}

// Import takes a key: raw bytes, or PKCS #8 in DER.
func (p *Provider) Import(ctx context.Context, name string, t providers.KeyType, key []byte) (providers.KeyInfo, error) {
	const op = "importing a key"
	if !goodName(name) {
		return providers.KeyInfo{}, failure(providers.Malformed, op, errName)
	}
	b, err := imported(t, key)
	if err != nil {
		return providers.KeyInfo{}, withCode(providers.Malformed, op, err)
	}
	return p.add(ctx, op, name, t, b, false)
}

// Rotate makes the next version of a key, of the same type.
func (p *Provider) Rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	const op = "rotating a key"
	k, err := p.Open(ctx, name, 0)
	if err != nil {
		return providers.KeyInfo{}, err
	}
	t := k.Info().Type
	b, err := generate(t) // before locking: a large RSA key takes seconds
	if err != nil {
		return providers.KeyInfo{}, withCode(providers.Device, op, err)
	}
	return p.add(ctx, op, name, t, b, true)
}

// add puts a new version into the file. rotate tells whether older versions must be there, or must not.
func (p *Provider) add(ctx context.Context, op, name string, t providers.KeyType, b *secret.Bytes, rotate bool) (providers.KeyInfo, error) {
	info := providers.KeyInfo{Name: name, Version: 1, Type: t, Created: time.Now().Unix()}
	err := p.update(ctx, func(rs []record) ([]record, error) {
		at, live := 0, false
		for i, r := range rs {
			if r.info.Name <= name {
				at = i + 1
			}
			if r.info.Name != name {
				continue
			}
			info.Version = r.info.Version + 1
			if r.bytes.Len() > 0 {
				live = true
				if rotate && r.info.Type != t {
					return nil, failure(providers.Transient, op, errors.New("somebody else replaced it"))
				}
			}
		}
		switch {
		case rotate && !live:
			return nil, failure(providers.NoSuchKey, op, nil)
		case !rotate && live:
			return nil, failure(providers.Exists, op, nil)
		}
		return slices.Insert(rs, at, record{info, b}), nil
	})
	if err != nil {
		b.Wipe()
		return providers.KeyInfo{}, err
	}
	return info, nil
}

// Destroy removes a version of a key, from memory and from the file. Its number is not used again.
func (p *Provider) Destroy(ctx context.Context, name string, version uint32) error {
	return p.update(ctx, func(rs []record) ([]record, error) {
		for i, r := range rs {
			if r.info.Name == name && r.info.Version == version && r.bytes.Len() > 0 {
				r.bytes.Wipe()
				rs[i].bytes = nil
				return rs, nil
			}
		}
		return nil, failure(providers.NoSuchKey, "destroying a key", nil)
	})
}

var errName = errors.New("a key's name has 1 to 512 bytes of UTF-8 without control characters")

// goodName keeps names printable, on one line and of a reasonable size.
func goodName(name string) bool {
	return len(name) > 0 && len(name) <= 512 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// Rekey has another secret open the file from now on: all keys are sealed anew. Whoever has the file open with the old one
// goes on with the keys that it knows, but sees no change and makes none before it opens the file again. Copies that were
// made before still open with the old one.
func (p *Provider) Rekey(ctx context.Context, to Unlock) error { return p.rekey(ctx, to, argon) }

func (p *Provider) rekey(ctx context.Context, to Unlock, c cost) error {
	kdf, err := to.kdf()
	if err != nil {
		return err
	}
	s, err := to.read(true)
	if err != nil {
		return err
	}
	defer s.Wipe()
	header := newHeader(kdf, c)
	kek, check, err := header.derive(s)
	if err != nil {
		return failure(providers.Device, "sealing the key file anew", err)
	}
	header.check = check
	swap := func() { p.header, p.kek, header, kek = header, kek, p.header, p.kek }
	err = p.updated(ctx, func(old []record) ([]record, error) { swap(); return old, nil }, swap)
	kek.Wipe() // the one that does not open the file
	return err
}
