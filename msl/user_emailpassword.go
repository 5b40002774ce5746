// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"strings"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// EmailPassword is a user who logs in with an email address and a password (§6.2). The server ignores
// white space at both ends of both.
func EmailPassword(email, password string) *UserAuthData {
	var b mslenc.Builder
	b.String("email", mslenc.NFC(email))
	b.String("password", mslenc.NFC(password))
	return &UserAuthData{Scheme: schemeEmailPassword, authData: b.Bytes()}
}

func parseEmailPassword(authData *fields) userLogin {
	email, password := authData.text("email"), authData.text("password")
	return func(ctx context.Context, cfg *Config, _ TokenOpener, entity string) (string, error) {
		email, password := trimJava(email), trimJava(password)
		if email == "" || password == "" {
			return "", fail(EmailPasswordBlank, "user login", nil)
		}
		user, ok, err := cfg.Users.EmailPassword(ctx, entity, email, password)
		switch {
		case err != nil:
			return "", fail(InternalException, "user login", err)
		case !ok || user == "":
			return "", fail(EmailPasswordIncorrect, "user login", nil)
		}
		return user, nil
	}
}

// trimJava removes what the reference takes for white space: all characters up to U+0020.
func trimJava(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
}
