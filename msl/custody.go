// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "context"

// The interfaces in this file are what the protocol asks of the custody of its keys. *agent.Client
// satisfies them all. No method takes or gives a private, secret or session key.
//
// Their errors are classified by [Failure], which an implementation's errors must provide through
// errors.As.

// A Part is one protected part of a message, the header data or a payload: Data is a ciphertext
// envelope (§2.2), or plain bytes where the context does not encrypt, and Signature signs Data.
type Part struct {
	Data, Signature []byte
}

// A Token is a master token, user ID token or service token as it travels (§3.1): the bytes that are
// signed, and the signature, exactly as they came.
type Token struct {
	Data, Signature []byte
}

// A CryptoContext protects the parts of messages under one set of keys (§2.1). It is safe for
// concurrent use. What its methods are given may be used again when they return, and does not share
// memory with what they return.
type CryptoContext interface {
	// Seal encrypts and then signs each part.
	Seal(ctx context.Context, plain [][]byte) ([]Part, error)
	// Open verifies and then decrypts each part. If a part fails, it returns the parts before it and an
	// error that is a [Failure] with VerificationFailed.
	Open(ctx context.Context, parts []Part) ([][]byte, error)
}

// recyclePart gives memory of a part that c has sealed or opened back to c, if c can use it again.
func recyclePart(c CryptoContext, part []byte) {
	if r, ok := bare(c).(interface{ Recycle(part []byte) }); ok {
		r.Recycle(part)
	}
}

// sealInto is c.Seal, with the parts in the memory of buf if c can do that and they are small.
func sealInto(ctx context.Context, c CryptoContext, buf []byte, plain [][]byte) ([]Part, error) {
	if s, ok := bare(c).(interface {
		SealInto(ctx context.Context, buf []byte, plain [][]byte) ([]Part, error)
	}); ok {
		return s.SealInto(ctx, buf, plain)
	}
	return c.Seal(ctx, plain)
}

// bare returns the context of a session.
func bare(c CryptoContext) CryptoContext {
	if s, ok := c.(*Session); ok {
		return s.CryptoContext
	}
	return c
}

// A Session is the crypto context of a master token that this side issued, and what the token says
// of whom it was issued to. Its fields are public claims.
type Session struct {
	CryptoContext
	Identity   string
	IssuerData []byte // an encoded MSL object, or nil
}

// A TokenOpener opens master tokens and user ID tokens that were issued here. A token that was not is
// no error: the result is nil.
type TokenOpener interface {
	// OpenMasterToken also opens parts under the token's session keys, in the same round trip. When the
	// token is good and a part is not, it returns the session, the parts before, and an error as Open's.
	OpenMasterToken(ctx context.Context, t Token, parts []Part) (*Session, [][]byte, error)
	OpenUserIDToken(ctx context.Context, t Token) (*UserClaims, error)
}

// UserClaims is the secret part of a user ID token (§3.3).
type UserClaims struct {
	User       string
	IssuerData []byte
}

// An IssueRequest answers a key exchange request with a new master token (§7.1).
type IssueRequest struct {
	Scheme  string // key exchange scheme
	KeyData []byte // the request's keydata: an encoded MSL object

	// Session, if not nil, is renewed: same identity and serial number, next sequence number.
	Session *Session
	// Otherwise the token is issued to Identity, which authenticated with Entity.
	Entity   CryptoContext
	Identity string

	RenewalWindow, Expiration int64  // Unix seconds
	IssuerData                []byte // merged over the renewed token's; may be nil
}

// An Issued is what a key exchange gave.
type Issued struct {
	Token   Token
	KeyData []byte // of the key response
	Session *Session
}

// A TokenIssuer issues master tokens and user ID tokens.
type TokenIssuer interface {
	IssueMasterToken(ctx context.Context, r *IssueRequest) (*Issued, error)
	// IssueUserIDToken binds the token to the session's master token. serial is that of the user ID
	// token that is renewed, or -1.
	IssueUserIDToken(ctx context.Context, s *Session, user string, serial, renewalWindow, expiration int64, issuerData []byte) (Token, error)
}

// ServiceTokenKeys opens and makes service tokens (§3.4) with keys by name.
type ServiceTokenKeys interface {
	// OpenServiceToken reports ok false, without an error, if the token does not verify under those keys.
	// data is still compressed if the token says so.
	OpenServiceToken(ctx context.Context, keys string, t Token) (data []byte, ok bool, err error)
	SealServiceToken(ctx context.Context, keys string, c *ServiceTokenClaims, data []byte) (Token, error)
}

// ServiceTokenClaims is what a service token says beside its data.
type ServiceTokenClaims struct {
	Name                    string
	MasterTokenSerialNumber int64 // -1: not bound
	UserIDTokenSerialNumber int64 // -1: not bound
	Encrypted               bool
	Compression             string // "", "GZIP" or "LZW"
}

// EntityKeys finds the keys of entities (§5).
type EntityKeys interface {
	// EntityContext returns the context of an entity whose keys are in custody. keyID is the identifier of a key
	// pair, or empty. An unknown entity is a [Failure] with NoSuchKey.
	EntityContext(ctx context.Context, scheme, identity, keyID string) (CryptoContext, error)
}

// A KeyExchanger starts key exchanges as the device does it (§7).
type KeyExchanger interface {
	// BeginExchange makes a key request. previous is for the mechanism WRAP of the ladders: the session of the
	// exchange that this one builds on, whose wrapping key stays in custody with it. If it came from no
	// such exchange, the error is a [Failure] with the number of KEYX_WRAPPING_KEY_MISSING. Else it is nil.
	BeginExchange(ctx context.Context, scheme, mechanism, identity string, previous CryptoContext) (PendingExchange, error)
}

// A PendingExchange is a key request that was, or will be, sent.
type PendingExchange interface {
	// KeyData returns the request's keydata.
	KeyData() []byte
	// Finish makes the session that the response gives. It may be called again, after a response to
	// another message that carried the same request. identity is the own one.
	Finish(ctx context.Context, keyData []byte, t Token, identity string, sequenceNumber int64) (CryptoContext, error)
	// Discard wipes the private part. It does not wait.
	Discard()
}

// A SessionSealer makes sessions storable: what it returns is worthless without the storage key, and
// without the master token that it belongs to.
type SessionSealer interface {
	SealSession(ctx context.Context, s CryptoContext) ([]byte, error)
	UnsealSession(ctx context.Context, sealed []byte, t Token) (CryptoContext, error)
}

// ClientKeys is the custody that a [Client] needs.
type ClientKeys interface {
	EntityKeys
	KeyExchanger
	SessionSealer
	ServiceTokenKeys
}

// ServerKeys is the custody that a [Server] needs.
type ServerKeys interface {
	EntityKeys
	TokenOpener
	TokenIssuer
	ServiceTokenKeys
}

// A Failure classifies an error of custody. Text never decides anything.
type Failure uint8

const (
	NoSuchKey          Failure = iota + 1 // no key or entity of that name
	NotSupported                          // never possible here
	Denied                                // forbidden by the agent's configuration
	Malformed                             // the request makes no sense
	VerificationFailed                    // something did not verify or decrypt; one code, whatever was wrong
	Unavailable                           // the agent, or a device behind it, cannot answer now
)

// A FailureError is an error of custody.
type FailureError interface {
	error
	// Failure returns the class, and the MSL error number that the specification names for this failure
	// (§9, without the base of 100000), or -1.
	Failure() (f Failure, mslError int)
}
