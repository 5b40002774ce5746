// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// wrapKind follows the type in the description of sealed keys that wrap.
const wrapKind = " wrap"

// An object is what all keys are.
type object struct {
	p      *Provider
	stored *stored
}

// Info describes the key.
func (o *object) Info() providers.KeyInfo { return o.stored.info }

// there fails if the key was destroyed, or ctx has ended.
func (o *object) there(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return failure(providers.Transient, op, err)
	}
	if !o.stored.exists() {
		return failure(providers.NoSuchKey, op, nil)
	}
	return nil
}

// used runs a use of a key in the chip.
func used[T any](ctx context.Context, o *object, op string, f func(*chip) (T, error)) (none T, err error) {
	if err := o.there(ctx, op); err != nil {
		return none, err
	}
	return do(ctx, o.p, op, useKeys, f)
}

// Keys lists the keys in the folder, those that can be used.
func (p *Provider) Keys(ctx context.Context) ([]providers.KeyInfo, error) {
	const op = "listing keys"
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	keys, _, err := p.store.list("")
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	var infos []providers.KeyInfo
	for _, k := range keys {
		if k.broken == nil {
			infos = append(infos, k.info)
		}
	}
	return infos, nil
}

// Open returns a key. The chip is not asked.
func (p *Provider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	const op = "opening a key"
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	k, err := p.store.find(name, version)
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	if k == nil {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	if k.broken != nil {
		return nil, failure(providers.Corrupt, op, k.broken)
	}
	if usable := usable(&object{p, k}); usable != nil {
		return usable, nil
	}
	return nil, failure(providers.NotSupported, op, errUnused)
}

// usable returns a key with the methods of what it can do, or nil if that is nothing.
func usable(o *object) providers.Key {
	area := o.stored.area
	switch area.Type {
	case tpm2.TPMAlgRSA, tpm2.TPMAlgECC:
		return pair(o)
	case tpm2.TPMAlgKeyedHash:
		switch {
		case !o.stored.file.sealed && area.ObjectAttributes.SignEncrypt:
			return &macKey{o}
		case o.stored.file.sealed && strings.HasSuffix(o.stored.file.kind, wrapKind):
			return &sealedWrapKey{o}
		case o.stored.file.sealed:
			return &sealedKey{o}
		}
	case tpm2.TPMAlgSymCipher:
		p, err := area.Parameters.SymDetail()
		if err != nil || !area.ObjectAttributes.SignEncrypt || !area.ObjectAttributes.Decrypt {
			return nil
		}
		mode, err := p.Sym.Mode.AES()
		switch {
		case err != nil:
		case *mode == tpm2.TPMAlgCBC:
			return &cipherKey{o}
		case *mode == tpm2.TPMAlgECB:
			return &wrapKey{o}
		}
	}
	return nil
}
