// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto/x509"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// EntityAuthData names an entity and how it authenticates (§5.1). It is a value: make it with [PSK],
// [PSKProfile], [X509], [RSA], [ECC], [None], [NoneSuffixed], [MTProtected] or [Provisioned]. It holds no key.
type EntityAuthData struct {
	Scheme   string
	identity string
	keyID    string // of schemes that name a key
	authData string // the encoded authdata member

	owner       string            // of the identity, for Policy: its first part where it has two
	certificate *x509.Certificate // X509
	sealed      *sealedEntity     // MT_PROTECTED that was not opened
	inner       *EntityAuthData   // MT_PROTECTED that was opened
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

	// parse reads the authdata member.
	parse func(authData *fields) EntityAuthData
	// context returns the keys of a remote entity, or, with own set, of this side. It may find out the
	// identity of a remote entity, and note it in d.
	context func(ctx context.Context, cfg *Config, keys EntityKeys, d *EntityAuthData, own bool) (CryptoContext, error)
}

const (
	schemePSK          = "PSK"
	schemePSKProfile   = "PSK_PROFILE"
	schemeX509         = "X509"
	schemeRSA          = "RSA"
	schemeECC          = "ECC"
	schemeNone         = "NONE"
	schemeNoneSuffixed = "NONE_SUFFIXED"
	schemeMTProtected  = "MT_PROTECTED"
	schemeProvisioned  = "PROVISIONED"
)

var entitySchemes = []entityScheme{
	{name: schemePSK, encrypts: true, protects: true, parse: parsePSK, context: contextPSK},
	{name: schemePSKProfile, encrypts: true, protects: true, parse: parsePSKProfile, context: contextPSK},
	{name: schemeX509, protects: true, parse: parseX509, context: contextX509},
	{name: schemeRSA, protects: true, parse: parseRSA, context: contextRSA},
	{name: schemeECC, protects: true, parse: parseECC, context: contextECC},
	{name: schemeNone, parse: parseNone, context: contextNone},
	{name: schemeNoneSuffixed, parse: parseNoneSuffixed, context: contextNone},
	{name: schemeMTProtected, parse: parseMTProtected, context: contextSealed},
	{name: schemeProvisioned, parse: parseProvisioned, context: contextProvisioned},
}

// findEntityScheme returns the row of a scheme.
func findEntityScheme(name string) (*entityScheme, error) {
	i := slices.IndexFunc(entitySchemes, func(s entityScheme) bool { return s.name == name })
	if i < 0 {
		return nil, fail(UnidentifiedEntityAuthScheme, "entity authentication data", nil)
	}
	return &entitySchemes[i], nil
}

// ownScheme returns the scheme of this side. It fails for data that no constructor made.
func (c *Config) ownScheme() (*entityScheme, error) { return c.Entity.scheme() }

func (d *EntityAuthData) scheme() (*entityScheme, error) {
	s, err := findEntityScheme(d.Scheme)
	if err == nil && (d.authData == "" || d.sealed != nil) {
		err = fail(MessageEntityNotFound, "own entity authentication data", nil)
	}
	return s, err
}

// checkSchemes refuses schemes that nobody knows, which would silently shut everyone out.
func (c *Config) checkSchemes() error {
	for _, name := range c.EntitySchemes {
		if _, err := findEntityScheme(name); err != nil {
			return err
		}
	}
	return c.checkUserSchemes()
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

// ParseEntityAuthData parses encoded entity authentication data of any scheme. Data that is encrypted
// (MT_PROTECTED) stays so, and has no identity.
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

// remoteContext returns the keys of a remote entity, if policy accepts the entity. Where only now the
// identity becomes known, it is noted in d.
func remoteContext(ctx context.Context, cfg *Config, keys EntityKeys, d *EntityAuthData) (CryptoContext, error) {
	s, err := cfg.remoteScheme(d.Scheme)
	if err != nil {
		return nil, err
	}
	if d.inner != nil { // §5.6: the message is protected by the inner scheme
		c, err := remoteContext(ctx, cfg, keys, d.inner)
		d.identity = d.inner.identity
		return c, err
	}
	if err := cfg.judgeEntity(ctx, d); err != nil {
		return nil, err
	}
	return s.context(ctx, cfg, keys, d, false)
}

// judgeEntity asks policy about an entity: about the owner of its identity, and then about the identity.
func (c *Config) judgeEntity(ctx context.Context, d *EntityAuthData) error {
	if c.Policy == nil {
		return nil
	}
	for i, identity := range [...]string{d.owner, d.identity} {
		if i == 0 && identity == "" {
			continue
		}
		code, err := c.Policy.Entity(ctx, identity, d.Scheme)
		if err := judged(code, err, "entity"); err != nil {
			return err
		}
	}
	return nil
}

// ownContext returns the keys of this side.
func ownContext(ctx context.Context, cfg *Config, keys EntityKeys) (CryptoContext, error) {
	d := &cfg.Entity
	if d.inner != nil {
		d = d.inner
	}
	s, err := d.scheme()
	if err != nil {
		return nil, err
	}
	return s.context(ctx, cfg, keys, d, true)
}

// ownKey returns the context of a key pair of this side.
func ownKey(ctx context.Context, keys EntityKeys, d *EntityAuthData, missing Code) (CryptoContext, error) {
	c, err := keys.EntityContext(ctx, d.Scheme, d.identity, d.keyID)
	switch {
	case err == nil:
		return c, nil
	case failureOf(err) == NoSuchKey:
		return nil, fail(missing, "own key pair", err)
	}
	return nil, custodyError(err, missing, "own key pair")
}

// mayClaim reports whether the holder of the key that d names may have d's identity.
func (d *EntityAuthData) mayClaim(identities map[string][]string) bool {
	allowed, named := identities[d.keyID]
	return named && slices.Contains(allowed, d.identity) || !named && d.identity == d.keyID
}

// preShared reports whether the entity has pre-shared keys.
func (d *EntityAuthData) preShared() bool {
	if d.inner != nil {
		d = d.inner
	}
	return d.Scheme == schemePSK || d.Scheme == schemePSKProfile
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

// A localContext is a context that needs no key of custody: it lives in this package. What it opens may be
// in the memory that it was given.
type localContext interface{ isLocal() }
