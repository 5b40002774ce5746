// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// UserAuthData is what a user authenticates with (§6.1). Make it with [EmailPassword], [EarlierUserIDToken], or,
// for a scheme of the application's own, [ApplicationLogin].
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

// ApplicationLogin is the data of a user authentication scheme that this package does not know, and the
// peer does (§6.4). authData is the member of that name: an encoded MSL object, which is JSON.
func ApplicationLogin(scheme string, authData []byte) (*UserAuthData, error) {
	f := parseFields(authData, "user authentication data", MSLParseError)
	if f.err == nil && findUserScheme(scheme) != nil {
		f.refuse(UnsupportedUserAuthData, "scheme")
	}
	return &UserAuthData{Scheme: scheme, authData: slices.Clone(authData)}, f.err
}

// A UserLogin authenticates a user of an entity with a scheme of the application's own, and returns the
// name of the user, which goes into user ID tokens. authData is the member of that name, an encoded MSL object, as
// it came, and valid until the function returns.
//
// It is asked only about data from encrypted messages, after [Policy] has agreed to the scheme for the entity, and
// the policy and the user ID token beside it are compared with the user that it returns. To refuse a user it returns
// a [Code], such as [EmailPasswordIncorrect]; other errors become a transient failure, and are not told to the
// peer. It is called by many goroutines at once.
type UserLogin func(ctx context.Context, entity string, authData []byte) (user string, err error)

// A userScheme is one way in which users authenticate. Adding one is a file and a row in userSchemes.
type userScheme struct {
	name string
	// enabled reports whether this side can check such data, if nothing says which schemes it uses.
	enabled func(*Config) bool
	// parse reads the authdata member. The result authenticates, when policy has agreed to the scheme,
	// and returns the user.
	parse func(authData *fields) userLogin
}

// A userLogin checks credentials that an entity sent.
type userLogin func(ctx context.Context, cfg *Config, tokens TokenOpener, entity string) (user string, err error)

const (
	schemeEmailPassword = "EMAIL_PASSWORD"
	schemeUserIDToken   = "USER_ID_TOKEN"
)

var userSchemes = []userScheme{
	{name: schemeEmailPassword, enabled: func(c *Config) bool { return c.Users != nil }, parse: parseEmailPassword},
	{name: schemeUserIDToken, enabled: func(c *Config) bool { return c.UserSchemes != nil }, parse: parseEarlierUserIDToken},
}

func findUserScheme(name string) *userScheme {
	i := slices.IndexFunc(userSchemes, func(s userScheme) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return &userSchemes[i]
}

// userScheme returns a scheme by which users may authenticate here.
func (c *Config) userScheme(name string) (*userScheme, error) {
	s := findUserScheme(name)
	if own := c.UserLogins[name]; s == nil && own != nil {
		s = &userScheme{name: name, enabled: func(*Config) bool { return true }, parse: parseApplicationLogin(own)}
	}
	switch {
	case s == nil:
		return nil, fail(UnidentifiedUserAuthScheme, "user authentication data", nil)
	case !s.enabled(c), c.UserSchemes != nil && !slices.Contains(c.UserSchemes, name):
		return nil, fail(UserAuthFactoryNotFound, "user authentication data", nil)
	}
	return s, nil
}

// checkUserSchemes refuses schemes that nobody knows, and applications that redefine those of the specification.
func (c *Config) checkUserSchemes() error {
	for name, login := range c.UserLogins {
		if findUserScheme(name) != nil || login == nil {
			return fail(UnsupportedUserAuthData, "user authentication schemes of the application", nil)
		}
	}
	for _, name := range c.UserSchemes {
		if findUserScheme(name) == nil && c.UserLogins[name] == nil {
			return fail(UnidentifiedUserAuthScheme, "user authentication schemes", nil)
		}
	}
	return nil
}

// parseApplicationLogin leaves all but the object to the application.
func parseApplicationLogin(login UserLogin) func(*fields) userLogin {
	return func(authData *fields) userLogin {
		encoded := authData.obj.Encoding()
		return func(ctx context.Context, _ *Config, _ TokenOpener, entity string) (string, error) {
			user, err := login(ctx, entity, encoded)
			if err == nil && user == "" {
				err = errNoUser
			}
			if err != nil {
				return "", fail(CodeOf(err), "user login", err)
			}
			return user, nil
		}
	}
}

// errNoUser means that an application accepted a login of nobody.
var errNoUser = errors.New("msl: a login without a user")

// authenticateUser parses user authentication data and authenticates the user (§6.1). encrypted says
// whether it came in an encrypted message, beside whether a user ID token came with it.
func authenticateUser(ctx context.Context, cfg *Config, tokens TokenOpener, f fields, entity string, encrypted bool, beside *UserIDToken) (string, error) {
	name := f.text("scheme")
	if f.err != nil {
		return "", f.err
	}
	scheme, err := cfg.userScheme(name)
	if err != nil {
		return "", err
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
	user, err := login(ctx, cfg, tokens, entity)
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
