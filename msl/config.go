// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"time"
)

// A Config says who this side is, whom it trusts and which schemes it speaks. It must not be changed
// once it was passed to NewClient or NewServer. What a zero field means is said at each.
type Config struct {
	// Entity is this side's own entity authentication data (§5). It is required. Its keys are in custody.
	Entity EntityAuthData

	// PeerToPeer makes this side a party of a peer-to-peer network (§8.14): both sides issue tokens, and carry
	// those of the other. All parties of a network must agree. A party that sends and one that answers need
	// custody for both, as *agent.Client is, and a transport whose connections carry many messages.
	PeerToPeer bool

	// EntitySchemes are the schemes that remote entities may use. Nil means every scheme that
	// authenticates: all but NONE, NONE_SUFFIXED, PROVISIONED and MT_PROTECTED, which must be named. What
	// is inside MT_PROTECTED must be allowed, too.
	EntitySchemes []string

	// RSAPublicKeys are the keys of remote entities with scheme RSA, by pubkeyid (§5.4). The scheme does
	// not bind an identity to a key; RSAIdentities does.
	RSAPublicKeys map[string]*rsa.PublicKey

	// RSAIdentities says which identities the holder of a key may claim, by pubkeyid. A key that is not
	// here may claim only the identity that equals its pubkeyid.
	RSAIdentities map[string][]string

	// ECCPublicKeys and ECCIdentities are the same for scheme ECC. The keys are of type *ecdsa.PublicKey, on
	// P-256, P-384 or P-521.
	ECCPublicKeys map[string]crypto.PublicKey
	ECCIdentities map[string][]string

	// PublicKey finds the keys that are in none of these maps: of entities that were enrolled since. The holder of a key
	// may claim the identity that is its pubkeyid, unless the maps of identities say otherwise. Nil is for a key that it
	// does not know. It is called by many goroutines at once, with what anybody may have sent.
	PublicKey func(ctx context.Context, keyID string) (crypto.PublicKey, error)

	// X509Roots are the certificates to which those of entities with scheme X509 must lead, by way of
	// X509Intermediates if need be (§5.3). Without roots no certificate is good.
	X509Roots, X509Intermediates *x509.CertPool

	// Provision makes an identity for a remote entity with scheme PROVISIONED, on a server (§5.7). It is asked
	// once a message, before anything has authenticated the sender. Nil refuses the scheme.
	Provision func(ctx context.Context) (identity string, err error)

	// KeyExchanges are the key exchanges that this side offers (client) or accepts (server), the preferred
	// one first. Nil means JWE_RSA, JWK_RSA and JWEJS_RSA on both sides, and SYMMETRIC_WRAPPED before them on
	// servers and where Entity is PSK. A server also accepts the ladders then, after SYMMETRIC_WRAPPED. DIFFIE_HELLMAN
	// must be named, since there are no standard groups.
	KeyExchanges []KeyExchange

	// Capabilities are told to the other side (§4.6). Nil means GZIP, LZW and JSON, and no language.
	Capabilities *Capabilities

	// ServiceTokenKeys maps the name of a service token to the name of the keys in custody that protect
	// it; the entry with the empty name is for all others. Tokens without keys are carried unopened.
	ServiceTokenKeys map[string]string

	// RemoteIdentity, if not empty, is the only identity that a client accepts from its server.
	RemoteIdentity string

	// UserSchemes are the schemes by which users may authenticate on a server. Nil means EMAIL_PASSWORD if
	// there are Users, and all UserLogins. USER_ID_TOKEN must be named, because it accepts a user ID token of the same
	// entity however old it is.
	UserSchemes []string

	// Users authenticates users with scheme EMAIL_PASSWORD on a server. Nil refuses them.
	Users UserAuthenticator

	// UserLogins authenticate users with schemes of the application's own, by the name of the scheme.
	UserLogins map[string]UserLogin

	// Policy judges entities and tokens on a server. Nil revokes nothing, and keeps the state of
	// non-replayable ids in memory (NewMemoryPolicy).
	Policy Policy

	// MasterTokenRenewal and MasterTokenLifetime say when the tokens that a server issues become
	// renewable and expire, from their issue. Zero means 1 hour and 24 hours.
	MasterTokenRenewal, MasterTokenLifetime time.Duration

	// UserIDTokenRenewal and UserIDTokenLifetime are the same for user ID tokens. Zero means 1 hour and
	// 24 hours.
	UserIDTokenRenewal, UserIDTokenLifetime time.Duration

	// Limits bound what is read from a peer. Zero fields mean the defaults said there.
	Limits Limits

	// Clock tells the time. Nil means time.Now.
	Clock func() time.Time

	// UserMessage gives the text for users that an error message carries, in one of the languages, which
	// may be none. Nil sends none. Texts never hold details of the failure.
	UserMessage func(code Code, languages []string) string
}

// Limits bound what is read from a peer.
type Limits struct {
	Header   int // bytes of an encoded header; 0 means 1 MiB
	Payload  int // bytes of an encoded payload chunk; 0 means 4 MiB
	Inflate  int // bytes of one payload or service token after uncompression; 0 means 16 MiB
	Tokens   int // service tokens in one message; 0 means 64
	Requests int // key requests in one message; 0 means 16
}

// A KeyExchange names a key exchange scheme (§7) and its mechanism: for ASYMMETRIC_WRAPPED one of
// JWE_RSA, JWEJS_RSA and JWK_RSA, or JWK_RSAES and RSA where the agent allows them; for SYMMETRIC_WRAPPED
// the key id PSK; for DIFFIE_HELLMAN the parameters id of a group that the agent has; for JWE_LADDER and
// JWK_LADDER, PSK, or WRAP, which goes on from an exchange of the same scheme. A client leaves WRAP out where its
// session came from no such exchange, and so names PSK, too. It also leaves out what needs pre-shared keys that it does
// not have, if others are left.
type KeyExchange struct {
	Scheme, Mechanism string
}

// A UserAuthenticator checks the credentials of users (§6). It is safe for concurrent use.
type UserAuthenticator interface {
	// EmailPassword returns the name of the user, which goes into user ID tokens, or ok false. Its duration
	// should not depend on whether the user exists.
	EmailPassword(ctx context.Context, entity, email, password string) (user string, ok bool, err error)
}

// A Policy judges entities and tokens (§10.3). A returned Code of 0 is approval; any other is sent to
// the peer, whose reaction its response code decides. It is safe for concurrent use, sees public claims only, and an error
// from it refuses the message with a transient failure. If it has a method Issued(identity string, t *MasterToken), that
// is told of each master token before anybody gets it.
type Policy interface {
	// Entity judges a remote entity by its identity and scheme. Use ENTITY_REVOKED or INCORRECT_ENTITYAUTH_DATA.
	// Of PSK_PROFILE and NONE_SUFFIXED, whose identity has two parts, it first judges the part that owns it, the
	// pskid or root. Of MT_PROTECTED it judges what is inside. The identity of PROVISIONED is not known yet, and empty.
	Entity(ctx context.Context, identity, scheme string) (Code, error)
	// MasterToken judges a verified master token on every message: revoked, or, when renew is
	// set, not to be renewed.
	MasterToken(ctx context.Context, identity string, t *MasterToken, renew bool) (Code, error)
	// UserIDToken judges a verified user ID token on every message.
	UserIDToken(ctx context.Context, user string, t *UserIDToken) (Code, error)
	// NonReplayable accepts a non-replayable id at most once (§3.5), or returns MESSAGE_REPLAYED or
	// MESSAGE_REPLAYED_UNRECOVERABLE.
	NonReplayable(ctx context.Context, identity string, t *MasterToken, id int64) (Code, error)
	// UserScheme judges whether a user of an entity may authenticate with a scheme; user is empty before it is known.
	UserScheme(ctx context.Context, identity, user, scheme string) (Code, error)
	// KeyExchange judges whether an entity may use a key exchange scheme.
	KeyExchange(ctx context.Context, identity, scheme string) (Code, error)
}

// The accessors below give each zero field its meaning.

func (c *Config) clock() func() time.Time {
	if c.Clock != nil {
		return c.Clock
	}
	return time.Now
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (c *Config) masterTokenRenewal() time.Duration {
	return orDefault(c.MasterTokenRenewal, time.Hour)
}

func (c *Config) masterTokenLifetime() time.Duration {
	return orDefault(c.MasterTokenLifetime, 24*time.Hour)
}

func (c *Config) userIDTokenRenewal() time.Duration {
	return orDefault(c.UserIDTokenRenewal, time.Hour)
}

func (c *Config) userIDTokenLifetime() time.Duration {
	return orDefault(c.UserIDTokenLifetime, 24*time.Hour)
}
