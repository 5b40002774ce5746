// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// UserAuthData is what a user authenticates with (§6.1). Make it with [EmailPassword].
type UserAuthData struct {
	Scheme   string
	authData []byte // the encoded authdata member
}

// Format keeps credentials out of logs: every verb prints the scheme alone.
func (d UserAuthData) Format(f fmt.State, _ rune) { io.WriteString(f, "UserAuthData("+d.Scheme+")") }

func (d *UserAuthData) encode() []byte {
	var b mslenc.Builder
	b.String("scheme", d.Scheme)
	b.Object("authdata", d.authData)
	return b.Bytes()
}

// A userScheme is one way in which users authenticate. Adding one is a file and a row in userSchemes.
type userScheme struct {
	name string
	// enabled reports whether this side can check such data.
	enabled func(*Config) bool
	// parse reads the authdata member. The result authenticates, when policy has agreed to the scheme,
	// and returns the user.
	parse func(authData *fields) userLogin
}

// A userLogin checks credentials that an entity sent.
type userLogin func(ctx context.Context, cfg *Config, entity string) (user string, err error)

const schemeEmailPassword = "EMAIL_PASSWORD"

var userSchemes = []userScheme{
	{name: schemeEmailPassword, enabled: func(c *Config) bool { return c.Users != nil }, parse: parseEmailPassword},
	{name: "USER_ID_TOKEN"},
}

// authenticateUser parses user authentication data and authenticates the user (§6.1). encrypted says
// whether it came in an encrypted message, beside whether a user ID token came with it.
func authenticateUser(ctx context.Context, cfg *Config, f fields, entity string, encrypted bool, beside *UserIDToken) (string, error) {
	name := f.text("scheme")
	if f.err != nil {
		return "", f.err
	}
	i := slices.IndexFunc(userSchemes, func(s userScheme) bool { return s.name == name })
	if i < 0 {
		return "", fail(UnidentifiedUserAuthScheme, f.what, nil)
	}
	scheme := userSchemes[i]
	if scheme.parse == nil || !scheme.enabled(cfg) {
		return "", fail(UserAuthFactoryNotFound, f.what, nil)
	}
	authData := f.object("authdata", f.what)
	login := scheme.parse(&authData)
	switch {
	case authData.err != nil:
		return "", authData.err
	case !encrypted:
		return "", fail(UnencryptedMessageWithUserAuthData, f.what, nil)
	}
	if err := judgeUserScheme(ctx, cfg, entity, "", name); err != nil {
		return "", err
	}
	user, err := login(ctx, cfg, entity)
	if err != nil {
		return "", err
	}
	if err := judgeUserScheme(ctx, cfg, entity, user, name); err != nil {
		return "", err
	}
	if beside != nil && (!beside.Verified || beside.User != user) {
		return "", fail(UserIDTokenUserAuthDataMismatch, f.what, nil)
	}
	return user, nil
}

func judgeUserScheme(ctx context.Context, cfg *Config, entity, user, scheme string) error {
	if cfg.Policy == nil {
		return nil
	}
	code, err := cfg.Policy.UserScheme(ctx, entity, user, scheme)
	return judged(code, err, "user authentication scheme")
}
