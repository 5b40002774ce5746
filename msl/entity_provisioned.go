// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "context"

// Provisioned is an entity that does not authenticate, and does not know its identity: its peer makes one
// for it, which is in the master token that it gets (§5.7).
func Provisioned() EntityAuthData {
	return EntityAuthData{Scheme: schemeProvisioned, authData: "{}"}
}

func parseProvisioned(*fields) EntityAuthData { return EntityAuthData{} }

// contextProvisioned asks the application for the identity of a remote entity, once a message.
func contextProvisioned(ctx context.Context, cfg *Config, _ EntityKeys, d *EntityAuthData, own bool) (CryptoContext, error) {
	if own {
		return nullContext{}, nil
	}
	if cfg.Provision == nil {
		return nil, fail(EntityAuthFactoryNotFound, "provisioning", nil)
	}
	identity, err := cfg.Provision(ctx)
	if err != nil || identity == "" {
		return nil, fail(InternalException, "provisioning", err)
	}
	d.identity = identity
	return nullContext{}, nil
}
