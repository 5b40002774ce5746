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

// PSKProfile is one of several entities of one device, each of which has its own pre-shared keys (§5.2). Its
// identity is PSKID-PROFILE, and the agent holds its keys by that.
func PSKProfile(pskID, profile string) EntityAuthData {
	pskID, profile = mslenc.NFC(pskID), mslenc.NFC(profile)
	var b mslenc.Builder
	b.String("pskid", pskID)
	b.String("profile", profile)
	return EntityAuthData{Scheme: schemePSKProfile, identity: pskID + "-" + profile, owner: pskID, authData: string(b.Bytes())}
}

func parsePSKProfile(authData *fields) EntityAuthData {
	pskID, profile := authData.text("pskid"), authData.text("profile")
	return EntityAuthData{identity: pskID + "-" + profile, owner: pskID}
}

func contextPSK(ctx context.Context, _ *Config, keys EntityKeys, d *EntityAuthData, _ bool) (CryptoContext, error) {
	c, err := keys.EntityContext(ctx, d.Scheme, d.identity, "")
	if failureOf(err) == NoSuchKey {
		return nil, fail(EntityNotFound, "pre-shared keys", err)
	}
	if err != nil {
		return nil, custodyError(err, EntityNotFound, "pre-shared keys")
	}
	return c, nil
}
