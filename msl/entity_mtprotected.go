// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A sealedEntity is the data of another scheme under the session of a master token (§5.6).
type sealedEntity struct {
	token *MasterToken
	part  Part
}

// MTProtected hides inner, the data of another scheme, from all but the peer that issued a master token
// earlier: it travels under that token's session, while the message is protected as inner says (§5.6).
// earlier is what the client that got the token has kept.
func MTProtected(ctx context.Context, keys SessionSealer, earlier *State, inner EntityAuthData) (EntityAuthData, error) {
	if _, err := inner.scheme(); err != nil {
		return EntityAuthData{}, err
	}
	if inner.Scheme == schemeMTProtected {
		return EntityAuthData{}, fail(UnsupportedEntityAuthData, "protected entity authentication data", nil)
	}
	token, err := ParseMasterToken(earlier.MasterToken)
	if err != nil {
		return EntityAuthData{}, err
	}
	session, err := keys.UnsealSession(ctx, earlier.SealedSession, token.Token)
	if err != nil {
		return EntityAuthData{}, custodyError(err, EntityAuthMasterTokenNotDecrypted, "session of a master token")
	}
	if s, ok := session.(interface{ Discard() }); ok {
		defer s.Discard()
	}
	parts, err := session.Seal(ctx, [][]byte{inner.Encoding()})
	if err != nil || len(parts) != 1 {
		return EntityAuthData{}, custodyError(err, InternalException, "protecting entity authentication data")
	}
	var b mslenc.Builder
	b.Object("mastertoken", token.Encoding())
	b.Binary("authdata", parts[0].Data)
	b.Binary("signature", parts[0].Signature)
	return EntityAuthData{Scheme: schemeMTProtected, identity: inner.identity, authData: string(b.Bytes()), inner: &inner}, nil
}

func parseMTProtected(authData *fields) EntityAuthData {
	token := authData.object("mastertoken", "master token")
	if authData.err != nil {
		return EntityAuthData{}
	}
	t, err := parseMasterToken(token)
	if err != nil {
		authData.err = fail(EntityAuthMasterTokenInvalid, "master token of an entity", err)
		return EntityAuthData{}
	}
	part := Part{Data: authData.binary("authdata"), Signature: authData.binary("signature")}
	return EntityAuthData{sealed: &sealedEntity{t, part}}
}

// contextSealed is for data that was not opened. What was opened has the context of its inner scheme.
func contextSealed(context.Context, *Config, EntityKeys, *EntityAuthData, bool) (CryptoContext, error) {
	return nil, fail(EntityAuthMasterTokenNotDecrypted, "protected entity authentication data", nil)
}

// entityData parses the entity authentication data of a message, and opens it where it is encrypted.
func (o *opener) entityData(ctx context.Context, f fields) (EntityAuthData, error) {
	d, err := parseEntityAuthData(f, o.cfg.remoteScheme)
	if err != nil || d.sealed == nil {
		return d, err
	}
	m := Message{MasterToken: d.sealed.token}
	plain, err := o.openWithToken(ctx, &m, []Part{d.sealed.part})
	switch {
	case m.header == nil && CodeOf(err) == MasterTokenUntrusted:
		return d, fail(EntityAuthMasterTokenNotDecrypted, "master token of an entity", err)
	case m.header == nil:
		return d, err
	case err != nil:
		return d, custodyError(err, EntityAuthVerificationFailed, "protected entity authentication data")
	case len(plain) != 1:
		return d, fail(InternalException, "protected entity authentication data", nil)
	}
	inner, err := parseEntityAuthData(parseFields(plain[0], "protected entity authentication data", MSLParseError), o.cfg.remoteScheme)
	if err == nil && inner.sealed != nil { // once is enough
		err = fail(UnsupportedEntityAuthData, "protected entity authentication data", nil)
	}
	if err != nil {
		return d, err
	}
	d.sealed, d.inner, d.identity = nil, &inner, inner.identity
	return d, nil
}
