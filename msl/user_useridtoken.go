// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// EarlierUserIDToken is a user whom a user ID token names that the peer issued earlier, under a master token that may
// not be in use any more (§6.3). earlier is what the client that got both has kept, and user the user's local name
// there.
func EarlierUserIDToken(earlier *State, user string) (*UserAuthData, error) {
	m, err := ParseMasterToken(earlier.MasterToken)
	if err != nil {
		return nil, err
	}
	u, err := ParseUserIDToken(earlier.UserIDTokens[user], m)
	if err != nil {
		return nil, err
	}
	var b mslenc.Builder
	b.Object("mastertoken", m.Encoding())
	b.Object("useridtoken", u.Encoding())
	return &UserAuthData{Scheme: schemeUserIDToken, authData: b.Bytes()}, nil
}

// parseEarlierUserIDToken names the errors of the tokens so that the peer is not told to authenticate its entity anew.
func parseEarlierUserIDToken(authData *fields) userLogin {
	master, user := authData.object("mastertoken", "master token"), authData.object("useridtoken", "user ID token")
	if authData.err != nil {
		return nil
	}
	m, err := parseMasterToken(master)
	if err != nil {
		authData.err = fail(UserAuthMasterTokenInvalid, "user login", err)
		return nil
	}
	u, err := parseUserIDToken(user)
	if err == nil && !u.BoundTo(m) {
		err = fail(UserIDTokenMasterTokenMismatch, "user ID token", nil)
	}
	if err != nil {
		authData.err = fail(UserAuthUserIDTokenInvalid, "user login", err)
		return nil
	}
	return func(ctx context.Context, cfg *Config, tokens TokenOpener, entity string) (string, error) {
		return loginAgain(ctx, cfg, tokens, entity, m, u)
	}
}

// loginAgain checks tokens in the order of §6.3. Their age does not matter.
func loginAgain(ctx context.Context, cfg *Config, tokens TokenOpener, entity string, m *MasterToken, u *UserIDToken) (string, error) {
	if tokens == nil {
		return "", fail(UserAuthMasterTokenNotDecrypted, "user login", nil)
	}
	session, _, err := tokens.OpenMasterToken(ctx, m.Token, nil)
	switch {
	case err != nil:
		return "", custodyError(err, UserAuthMasterTokenInvalid, "user login")
	case session == nil || session.Identity == "":
		return "", fail(UserAuthMasterTokenNotDecrypted, "user login", nil)
	case session.Identity != entity:
		return "", fail(UserAuthEntityMismatch, "user login", nil)
	}
	claims, err := tokens.OpenUserIDToken(ctx, u.Token)
	switch {
	case err != nil:
		return "", custodyError(err, UserAuthUserIDTokenInvalid, "user login")
	case claims == nil || claims.User == "":
		return "", fail(UserAuthUserIDTokenNotDecrypted, "user login", nil)
	}
	u.Verified, u.User, u.IssuerData = true, claims.User, claims.IssuerData
	if cfg.Policy == nil {
		return u.User, nil
	}
	code, err := cfg.Policy.UserIDToken(ctx, u.User, u)
	switch {
	case err != nil:
		return "", fail(UserAuthUserIDTokenRevokeCheckError, "user login", err)
	case code == UserIDTokenIdentityInvalid: // as if it could not be read
		return "", fail(UserAuthUserIDTokenInvalid, "user login", code)
	case code != 0:
		return "", fail(code, "user login", nil)
	}
	return u.User, nil
}
