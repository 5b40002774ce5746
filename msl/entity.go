// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// EntityAuthData names an entity and how it authenticates (§5.1). It is a value: make it with [PSK],
// [RSA] or [None]. It holds no key.
type EntityAuthData struct {
	Scheme   string
	identity string
	keyID    string // of schemes that name a key
	authData string // the encoded authdata member
}

// Identity returns the name of the entity.
func (d EntityAuthData) Identity() string { return d.identity }

// KeyID returns the identifier of the key that the data names, or "".
func (d EntityAuthData) KeyID() string { return d.keyID }

// IsZero reports whether there is no data.
func (d EntityAuthData) IsZero() bool { return d.Scheme == "" }

// Encoding returns the data as it travels.
func (d EntityAuthData) Encoding() []byte {
	var b mslenc.Builder
	b.String("scheme", d.Scheme)
	b.Object("authdata", []byte(d.authData))
	return b.Bytes()
}

// An entityScheme is one way in which entities authenticate. Adding one is a file with its parse and
// context functions, and a row in entitySchemes.
type entityScheme struct {
	name               string
	encrypts, protects bool // what a message without a master token has (§5.1)

	// parse reads the authdata member. It is nil for schemes of the specification that are not built yet.
	parse func(authData *fields) EntityAuthData
	// context returns the keys of a remote entity, or, with own set, of this side.
	context func(ctx context.Context, cfg *Config, keys EntityKeys, d EntityAuthData, own bool) (CryptoContext, error)
}

const (
	schemePSK  = "PSK"
	schemeRSA  = "RSA"
	schemeNone = "NONE"
)

var entitySchemes = []entityScheme{
	{name: schemePSK, encrypts: true, protects: true, parse: parsePSK, context: contextPSK},
	{name: schemeRSA, protects: true, parse: parseRSA, context: contextRSA},
	{name: schemeNone, parse: parseNone, context: contextNone},
	{name: "PSK_PROFILE"}, {name: "X509"}, {name: "ECC"}, {name: "NONE_SUFFIXED"}, {name: "MT_PROTECTED"}, {name: "PROVISIONED"},
}

// findEntityScheme returns the row of a scheme.
func findEntityScheme(name string) (*entityScheme, error) {
	i := slices.IndexFunc(entitySchemes, func(s entityScheme) bool { return s.name == name })
	switch {
	case i < 0:
		return nil, fail(UnidentifiedEntityAuthScheme, "entity authentication data", nil)
	case entitySchemes[i].parse == nil:
		return nil, fail(EntityAuthFactoryNotFound, "entity authentication data", nil)
	}
	return &entitySchemes[i], nil
}

// ownScheme returns the scheme of this side. It fails for data that no constructor made.
func (c *Config) ownScheme() (*entityScheme, error) {
	s, err := findEntityScheme(c.Entity.Scheme)
	if err == nil && c.Entity.authData == "" {
		err = fail(MessageEntityNotFound, "own entity authentication data", nil)
	}
	return s, err
}

// remoteScheme returns a scheme that remote entities may use.
func (c *Config) remoteScheme(name string) (*entityScheme, error) {
	s, err := findEntityScheme(name)
	if err != nil {
		return nil, err
	}
	allowed := s.protects
	if c.EntitySchemes != nil {
		allowed = slices.Contains(c.EntitySchemes, name)
	}
	if !allowed {
		return nil, fail(EntityAuthFactoryNotFound, "entity authentication data", nil)
	}
	return s, nil
}

// ParseEntityAuthData parses encoded entity authentication data of any scheme that this package knows.
func ParseEntityAuthData(encoded []byte) (EntityAuthData, error) {
	return parseEntityAuthData(parseFields(encoded, "entity authentication data", MSLParseError), findEntityScheme)
}

func parseEntityAuthData(f fields, find func(string) (*entityScheme, error)) (EntityAuthData, error) {
	name := f.text("scheme")
	if f.err != nil {
		return EntityAuthData{}, f.err
	}
	s, err := find(name)
	if err != nil {
		return EntityAuthData{}, err
	}
	authData := f.object("authdata", "entity authentication data")
	if authData.err != nil {
		return EntityAuthData{}, authData.err
	}
	d := s.parse(&authData)
	if authData.err != nil {
		return EntityAuthData{}, authData.err
	}
	d.Scheme, d.authData = name, string(authData.obj.Encoding())
	return d, nil
}

// remoteContext returns the keys of a remote entity, if policy accepts the entity.
func remoteContext(ctx context.Context, cfg *Config, keys EntityKeys, d EntityAuthData) (CryptoContext, error) {
	s, err := cfg.remoteScheme(d.Scheme)
	if err != nil {
		return nil, err
	}
	if cfg.Policy != nil {
		code, err := cfg.Policy.Entity(ctx, d.identity, d.Scheme)
		if err := judged(code, err, "entity"); err != nil {
			return nil, err
		}
	}
	return s.context(ctx, cfg, keys, d, false)
}

// ownContext returns the keys of this side.
func ownContext(ctx context.Context, cfg *Config, keys EntityKeys) (CryptoContext, error) {
	s, err := cfg.ownScheme()
	if err != nil {
		return nil, err
	}
	return s.context(ctx, cfg, keys, cfg.Entity, true)
}

// judged turns what a policy said into an error: nil for approval.
func judged(c Code, err error, what string) error {
	switch {
	case err != nil:
		return fail(InternalException, what+" policy", err)
	case c != 0:
		return fail(c, what, nil)
	}
	return nil
}

// A localContext is a context that needs no key of custody: it lives in this package.
type localContext interface{ isLocal() }
