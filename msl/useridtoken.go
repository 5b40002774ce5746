// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "time"

// A UserIDToken is the public half of a user ID token (§3.3). User and IssuerData are known only to
// its issuer. It must not be changed.
type UserIDToken struct {
	Token
	RenewalWindow, Expiration int64 // Unix seconds
	MasterTokenSerialNumber   int64 // of the master token that it is bound to
	SerialNumber              int64

	Verified   bool // issued by this side
	User       string
	IssuerData []byte // an encoded MSL object, or nil
}

// ParseUserIDToken parses an encoded user ID token, which must be bound to m.
func ParseUserIDToken(encoded []byte, m *MasterToken) (*UserIDToken, error) {
	t, err := parseUserIDToken(parseFields(encoded, "user ID token", MSLParseError))
	if err != nil {
		return nil, err
	}
	if !t.BoundTo(m) {
		return nil, fail(UserIDTokenMasterTokenMismatch, "user ID token", nil)
	}
	return t, nil
}

func parseUserIDToken(f fields) (*UserIDToken, error) {
	t := &UserIDToken{}
	t.Token = f.token(UserIDTokenTokenDataMissing)
	if f.err != nil {
		return nil, f.err
	}
	return t, t.parse()
}

// newUserIDToken reads the public half of a token that was just issued.
func newUserIDToken(t Token, user string) (*UserIDToken, error) {
	u := &UserIDToken{Token: t, Verified: true, User: user}
	return u, u.parse()
}

func (t *UserIDToken) parse() error {
	f := parseFields(t.Data, "user ID token", UserIDTokenTokenDataParseError)
	t.RenewalWindow = f.number("renewalwindow")
	t.Expiration = f.number("expiration")
	if t.Expiration < t.RenewalWindow {
		f.refuse(UserIDTokenExpiresBeforeRenewal, "expiration")
	}
	t.MasterTokenSerialNumber = f.id("mtserialnumber", UserIDTokenMasterTokenSerialNumberOutOfRange)
	t.SerialNumber = f.id("serialnumber", UserIDTokenSerialNumberOutOfRange)
	f.nonEmpty("userdata", UserIDTokenUserDataMissing)
	return f.err
}

// BoundTo reports whether the token belongs to a master token, which may be nil.
func (t *UserIDToken) BoundTo(m *MasterToken) bool {
	return m != nil && t.MasterTokenSerialNumber == m.SerialNumber
}

// Renewable and Expired are as those of a MasterToken.
func (t *UserIDToken) Renewable(now time.Time) bool {
	return now.IsZero() || reached(t.RenewalWindow, now)
}

// Expired reports whether the token has expired; at an unknown time (zero) it has not.
func (t *UserIDToken) Expired(now time.Time) bool {
	return !now.IsZero() && reached(t.Expiration, now)
}
