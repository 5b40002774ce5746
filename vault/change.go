// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/mslkeep/mslkeep/providers"
)

// Generate makes a key: in Vault, or, if its name is that of a wrapped one, here.
func (p *Provider) Generate(ctx context.Context, name string, t providers.KeyType) (providers.KeyInfo, error) {
	const op = "generating a key"
	if p.isWrapped(name) {
		return p.wrapped.generate(ctx, name, t)
	}
	transit, err := p.changing(op, name, t)
	if err != nil {
		return providers.KeyInfo{}, err
	}
	// Vault takes a second request for the same key without a word.
	if _, err := p.info(ctx, name, 0); !errors.Is(err, providers.NoSuchKey) {
		if err == nil || errors.Is(err, providers.NotSupported) || errors.Is(err, providers.Denied) {
			err = failure(providers.Exists, op, nil)
		}
		return providers.KeyInfo{}, err
	}
	body := fmt.Sprintf(`{"type":%q}`, transitTypes[t])
	if t == providers.HMACSHA256 {
		body = `{"type":"hmac","key_size":32}`
	}
	if err := p.post(ctx, op, name, put(p.path("keys", transit), body)); err != nil {
		return providers.KeyInfo{}, err
	}
	return p.newest(ctx, name)
}

func (p *Provider) newest(ctx context.Context, name string) (providers.KeyInfo, error) {
	i, err := p.info(ctx, name, 0)
	if err != nil {
		return providers.KeyInfo{}, err
	}
	return i.describe(i.newest), nil
}

// Rotate makes the next version of a key.
func (p *Provider) Rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	const op = "rotating a key"
	if p.isWrapped(name) {
		return p.wrapped.rotate(ctx, name)
	}
	if _, err := p.info(ctx, name, 0); err != nil {
		return providers.KeyInfo{}, err
	}
	transit, err := p.changing(op, name, "")
	if err != nil {
		return providers.KeyInfo{}, err
	}
	if err := p.post(ctx, op, name, put(p.path("keys", transit, "rotate"), "{}")); err != nil {
		return providers.KeyInfo{}, err
	}
	return p.newest(ctx, name)
}

// Destroy removes one version of a key for good. In Vault that must be the oldest one; the last one goes with
// the key itself.
func (p *Provider) Destroy(ctx context.Context, name string, version uint32) error {
	const op = "destroying a key"
	if p.isWrapped(name) {
		return p.wrapped.destroy(ctx, name, version)
	}
	p.forget(name)
	i, err := p.info(ctx, name, version)
	if err != nil {
		return err
	}
	transit, err := p.changing(op, name, "")
	if err != nil {
		return err
	}
	switch {
	case version != i.oldest || version == 0:
		return failure(providers.NotSupported, op, errors.New("only the oldest version can be destroyed in Vault"))
	case i.newest == i.oldest:
		if err := p.post(ctx, op, name, put(p.path("keys", transit, "config"), `{"deletion_allowed":true}`)); err != nil {
			return err
		}
		return p.post(ctx, op, name, request{method: http.MethodDelete, path: p.path("keys", transit)})
	}
	writes := max(version+1, i.writes)
	if err := p.post(ctx, op, name, put(p.path("keys", transit, "config"), fmt.Sprintf(`{"min_decryption_version":%d,"min_encryption_version":%d}`, version+1, writes))); err != nil {
		return err
	}
	return p.post(ctx, op, name, put(p.path("keys", transit, "trim"), fmt.Sprintf(`{"min_available_version":%d}`, version+1)))
}
