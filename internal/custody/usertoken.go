// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// userClaims is a user ID token (§3.3).
type userClaims struct {
	renewalWindow, expiration        int64 // Unix seconds
	masterSerialNumber, serialNumber int64
	userData                         []byte // an envelope
}

// parseUserClaims reads token data in the order of §3.3.
func parseUserClaims(data []byte) (c userClaims, err error) {
	if len(data) == 0 {
		return c, unverified(mslUserTokenDataMissing, "reading tokendata")
	}
	refused := unverified(mslUserTokenDataParseError, "parsing tokendata")
	o, err := mslenc.Parse(data)
	if err != nil {
		return c, refused
	}
	if c.renewalWindow, err = o.Int("renewalwindow"); err != nil {
		return c, refused
	}
	if c.expiration, err = o.Int("expiration"); err != nil {
		return c, refused
	}
	if c.expiration < c.renewalWindow {
		return c, unverified(mslUserExpiresBeforeRenew, "reading expiration")
	}
	if c.masterSerialNumber, err = o.Int("mtserialnumber"); err != nil {
		return c, refused
	}
	if !inRange(c.masterSerialNumber) {
		return c, unverified(mslUserMasterSerialRange, "reading mtserialnumber")
	}
	if c.serialNumber, err = o.Int("serialnumber"); err != nil {
		return c, refused
	}
	if !inRange(c.serialNumber) {
		return c, unverified(mslUserSerialRange, "reading serialnumber")
	}
	if c.userData, err = o.Binary("userdata"); err != nil {
		return c, refused
	}
	if len(c.userData) == 0 {
		return c, unverified(mslUserDataMissing, "reading userdata")
	}
	return c, nil
}

func (c *userClaims) encode() []byte {
	var b mslenc.Builder
	b.Int("renewalwindow", c.renewalWindow)
	b.Int("expiration", c.expiration)
	b.Int("mtserialnumber", c.masterSerialNumber)
	b.Int("serialnumber", c.serialNumber)
	b.Binary("userdata", c.userData)
	return b.Bytes()
}

// A user is the secret half of a user ID token.
type user struct {
	identity   string
	issuerData []byte // an encoded object, or nil
}

func parseUser(plain []byte) (u user, err error) {
	refused := unverified(mslUserDataParseError, "parsing userdata")
	o, err := mslenc.Parse(plain)
	if err != nil {
		return u, refused
	}
	if o.Has("issuerdata") {
		data, err := o.Object("issuerdata")
		if err != nil {
			return u, refused
		}
		u.issuerData = data.Encoding()
	}
	if u.identity, err = o.String("identity"); err != nil {
		return u, refused
	}
	if u.identity == "" {
		return u, unverified(mslUserIdentityInvalid, "reading the identity of userdata")
	}
	return u, nil
}

func (u *user) encode() []byte {
	var b mslenc.Builder
	if u.issuerData != nil {
		b.Object("issuerdata", u.issuerData)
	}
	b.String("identity", u.identity)
	return b.Bytes()
}

// openUserIDToken verifies and decrypts a token. ok false without an error means that it was not issued
// here.
func (a *Agent) openUserIDToken(ctx context.Context, t wire.Token) (u user, ok bool, err error) {
	plain, keys, err := a.openToken(ctx, t, func(data []byte) ([]byte, error) {
		claims, err := parseUserClaims(data)
		return claims.userData, err
	})
	if err != nil || keys == nil {
		return u, keys != nil, err
	}
	u, err = parseUser(plain)
	return u, true, err
}

// issueUserIDToken makes a token that is bound to the master token with that serial number.
func (a *Agent) issueUserIDToken(ctx context.Context, c userClaims, u user) (t wire.Token, err error) {
	switch {
	case c.expiration < c.renewalWindow:
		return t, malformed(noNumber, "issuing with an expiration before the renewal window")
	case !inRange(c.serialNumber) || !inRange(c.masterSerialNumber):
		return t, malformed(noNumber, "issuing with a serial number out of range")
	case u.identity == "":
		return t, malformed(noNumber, "issuing to nobody")
	}
	set, err := a.tokenKeys(ctx)
	if err != nil {
		return t, err
	}
	if c.userData, err = set.newest().encrypt(ctx, u.encode()); err != nil {
		return t, err
	}
	t.Data = c.encode()
	if t.Signature, err = set.newest().sign(ctx, nil, t.Data); err != nil {
		return wire.Token{}, err
	}
	return t, nil
}
