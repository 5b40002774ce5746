// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// PSK is an entity that shares keys with its peer, which the agent holds by the identity (§5.2).
func PSK(identity string) EntityAuthData {
	return identityData(schemePSK, identity)
}

// identityData makes the data of schemes that have nothing but an identity.
func identityData(scheme, identity string) EntityAuthData {
	identity = mslenc.NFC(identity)
	var b mslenc.Builder
	b.String("identity", identity)
	return EntityAuthData{Scheme: scheme, identity: identity, authData: string(b.Bytes())}
}

func parsePSK(authData *fields) EntityAuthData {
	return EntityAuthData{identity: authData.text("identity")}
}

func contextPSK(ctx context.Context, _ *Config, keys EntityKeys, d EntityAuthData, _ bool) (CryptoContext, error) {
	c, err := keys.EntityContext(ctx, schemePSK, d.identity, "")
	if failureOf(err) == NoSuchKey {
		return nil, fail(EntityNotFound, "pre-shared keys", err)
	}
	if err != nil {
		return nil, custodyError(err, EntityNotFound, "pre-shared keys")
	}
	return c, nil
}
