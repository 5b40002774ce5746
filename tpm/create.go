// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"io/fs"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Generate makes a key in the chip, and its file.
func (p *Provider) Generate(ctx context.Context, name string, t providers.KeyType) (providers.KeyInfo, error) {
	return p.create(ctx, "generating a key", name, false, func(c *chip, _ providers.KeyType) (*keyFile, error) { return c.generate(name, t) })
}

// Rotate makes the next version of a key, of the same type.
func (p *Provider) Rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	return p.create(ctx, "rotating a key", name, true, func(c *chip, t providers.KeyType) (*keyFile, error) { return c.generate(name, t) })
}

// create makes a version of a key, if older versions are there or not, as rotate demands.
func (p *Provider) create(ctx context.Context, op, name string, rotate bool, make func(*chip, providers.KeyType) (*keyFile, error)) (providers.KeyInfo, error) {
	if _, ok := fileName(name, 1, keySuffix); !ok {
		if rotate {
			return providers.KeyInfo{}, failure(providers.NoSuchKey, op, nil)
		}
		return providers.KeyInfo{}, failure(providers.Malformed, op, errName)
	}
	return do(ctx, p, op, changeKeys, func(c *chip) (none providers.KeyInfo, err error) {
		p.store.changing.Lock()
		defer p.store.changing.Unlock()
		keys, last, err := p.store.list(name)
		if err != nil {
			return none, failure(providers.Device, op, err)
		}
		var t providers.KeyType
		switch {
		case rotate && len(keys) == 0:
			return none, failure(providers.NoSuchKey, op, nil)
		case !rotate && len(keys) > 0:
			return none, failure(providers.Exists, op, nil)
		case rotate:
			t = keys[len(keys)-1].info.Type
		}
		file, err := make(c, t)
		if err != nil {
			return none, err
		}
		if err := ctx.Err(); err != nil {
			return none, err // the caller does not know that it is made
		}
		k, err := p.store.add(name, last+1, file)
		if errors.Is(err, fs.ErrExist) {
			return none, failure(providers.Exists, op, nil) // another process made it
		}
		if err != nil {
			return none, failure(providers.Device, op, err)
		}
		return k.info, k.broken
	})
}

// generate makes a key in the chip.
func (c *chip) generate(name string, t providers.KeyType) (*keyFile, error) {
	purpose, err := c.purposeOf(name, t)
	if err != nil {
		return nil, err
	}
	if purpose != forSealing {
		return c.make(name, t, purpose, nil)
	}
	key := secret.Random(aesBits[t] / 8) // a chip makes no data
	defer key.Wipe()
	return c.make(name, t, purpose, key)
}

// make makes a key: of the chip's random numbers, or of data, which travels encrypted.
func (c *chip) make(name string, t providers.KeyType, p purpose, data *secret.Bytes) (*keyFile, error) {
	auth, err := c.newAuth()
	if err != nil {
		return nil, err
	}
	defer auth.Wipe()
	file, area, err := c.describe(name, t, p, auth.Len() > 0)
	if err != nil {
		return nil, err
	}
	area.ObjectAttributes.FixedTPM, area.ObjectAttributes.FixedParent = true, true
	area.ObjectAttributes.SensitiveDataOrigin = data == nil
	sensitive := &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: secret.Reveal(auth)},
		Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret.Reveal(data)})}
	c.unload(maxLoaded - 1)
	response, err := tpm2.Create{ParentHandle: c.parent(encryptIn), InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: sensitive},
		InPublic: tpm2.New2B(*area)}.Execute(c)
	if err != nil {
		return nil, makeError(err)
	}
	file.public, file.private = response.OutPublic.Bytes(), response.OutPrivate.Buffer
	return file, nil
}

// describe makes the public area of a new key, but for where it comes from, and what its file says of it.
func (c *chip) describe(name string, t providers.KeyType, p purpose, auth bool) (*keyFile, *tpm2.TPMTPublic, error) {
	digest, steps, err := c.newPolicy(auth)
	if err != nil {
		return nil, nil, err
	}
	file := &keyFile{sealed: p == forSealing, hasAuth: auth, policy: steps}
	if file.sealed {
		file.kind = string(t)
		if matches(c.config.Wrapping, name) {
			file.kind += wrapKind
		}
	}
	// Without an authorisation value there is nothing to guess, and so nothing to protect from guessing: protection would
	// only let power cuts and other users of the chip lock the key.
	area := template(t, p, tpm2.TPMAObject{UserWithAuth: digest == nil, NoDA: !auth || c.config.AuthIsRandom})
	area.AuthPolicy = tpm2.TPM2BDigest{Buffer: digest}
	return file, area, nil
}

// newAuth returns the authorisation value of new keys, nil if they have none.
func (c *chip) newAuth() (*secret.Bytes, error) {
	const op = "reading the authorisation value of new keys"
	if c.config.AuthSource == "" {
		return nil, nil
	}
	auth, _, err := readAuth(c.config.AuthSource)
	if err != nil {
		return nil, failure(providers.Locked, op, err)
	}
	if c.config.AuthIsRandom && auth.Len() < minRandomAuth {
		auth.Wipe()
		return nil, failure(providers.Malformed, op, errAuthShort)
	}
	return auth, nil
}

// makeError tells a type of key that the chip does not have from a chip that fails.
func makeError(err error) error {
	if is(err, tpm2.TPMRCValue, tpm2.TPMRCKeySize, tpm2.TPMRCCurve, tpm2.TPMRCScheme, tpm2.TPMRCSymmetric, tpm2.TPMRCMode, tpm2.TPMRCAsymmetric,
		tpm2.TPMRCType, tpm2.TPMRCHash) {
		return failure(providers.NotSupported, "making a key", err)
	}
	return err
}

// Destroy removes the file of a version. Whoever has copied it before can still use it in this TPM. The counter of the oldest
// version goes with it.
func (p *Provider) Destroy(ctx context.Context, name string, version uint32) error {
	const op = "destroying a key"
	if err := ctx.Err(); err != nil {
		return failure(providers.Transient, op, err)
	}
	k, oldest, err := p.remove(op, name, version)
	if err == nil && oldest && k.broken == nil && matches(p.config.Counters, name) {
		// The key is gone, whether this succeeds or not.
		do(ctx, p, op, changeKeys, func(c *chip) (none struct{}, err error) { return none, c.freeCounter(counterIndex(k)) })
	}
	return err
}

// remove removes a version from the folder, and returns it.
func (p *Provider) remove(op, name string, version uint32) (_ *stored, oldest bool, _ error) {
	p.store.changing.Lock()
	defer p.store.changing.Unlock()
	keys, last, err := p.store.list(name)
	if err != nil {
		return nil, false, failure(providers.Device, op, err)
	}
	for i, k := range keys {
		if k.info.Version != version || name == "" {
			continue
		}
		err := p.store.remove(k, version == last)
		if errors.Is(err, fs.ErrNotExist) { // by another process, just now
			break
		}
		if err != nil {
			return nil, false, failure(providers.Device, op, err)
		}
		return k, i == 0, nil
	}
	return nil, false, failure(providers.NoSuchKey, op, nil)
}
