// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package wire is contract A: the operations that a protocol process asks of a key agent, and the
// frames in which they travel.
//
// An operation is a pair of structs, XxxRequest and XxxReply. They hold tokens, envelopes,
// signatures, plaintext of the application, public keys and handles. None has a field that could
// carry a private, secret or session key: every field of bytes or text says by its `holds` tag what
// is in it, and a test walks all messages and refuses any other tag.
//
// There is no oracle here. Encrypt and sign are one operation, and verify and decrypt are one, only
// ever under the keys of a session or of an entity. Nothing signs or decrypts with a token key
// except as part of building or opening a token.
package wire

// Version is the version of this contract. Both ends must have the same.
const Version = 2

// A Handle names a session, an entity context or a pending key exchange that the agent holds. It
// is 16 random bytes, is valid on one connection only, and becomes stale when the agent evicts what
// it names; the zero Handle names nothing.
type Handle [16]byte

// A Part is one protected part of a message: the header data or a payload. Data is a ciphertext
// envelope (§2.2), or the plain bytes where the context does not encrypt; Signature signs Data.
type Part struct {
	Data      []byte `holds:"ciphertext"`
	Signature []byte `holds:"signature"`
}

// A Token is a master token, user ID token or service token as it travels (§3.1): the bytes that
// are signed, and the signature, exactly as received.
type Token struct {
	Data      []byte `holds:"token"`
	Signature []byte `holds:"signature"`
}

// A Key describes one version of one key. It never holds a private or secret key.
type Key struct {
	Name    string `holds:"name"`
	Version uint32
	Type    string `holds:"name"` // "aes-128", "aes-256", "hmac-sha256", "rsa-2048", "ec-p256"
	Created int64  // Unix seconds
	Uses    uint64 // times that the agent used this version since it started
	Opened  uint64 // master tokens that this version opened in the last hour
}

// A Finding is one thing that the agent reports of its own state: a hardening step, a provider, a
// limit. OK false means that it could not be done, and Detail says why.
type Finding struct {
	Name   string `holds:"name"`
	OK     bool
	Detail string `holds:"text"`
}

// HelloRequest opens a connection. It must be the first frame.
type HelloRequest struct {
	Version uint32
}

// HelloReply tells the limits to which the agent holds the connection.
type HelloReply struct {
	Version     uint32
	AgentPID    uint32
	MaxFrame    uint32 // bytes of one frame, header included
	MaxInFlight uint32 // requests that may wait for an answer at once
}

// OpenMasterTokenRequest verifies and decrypts a master token (§3.2), and opens Parts under its
// session keys if there are any: the header and the payloads that arrived with it.
type OpenMasterTokenRequest struct {
	Token Token
	Parts []Part
}

// OpenMasterTokenReply. Verified false means that this agent did not issue the token, and is not an
// error: a client cannot verify the tokens that it carries. Then the rest is empty.
type OpenMasterTokenReply struct {
	Verified   bool
	Identity   string `holds:"name"`
	IssuerData []byte `holds:"public"` // encoded MSL object; empty if the token has none
	Session    Handle
	Plain      [][]byte `holds:"plaintext"`
	// FailedPart is the index of the first part that did not verify or decrypt, or -1. Plain holds
	// the parts before it.
	FailedPart int32
	Owned      bool // as in SealReply
}

// SealRequest encrypts and signs parts of one message under the keys that Context names.
type SealRequest struct {
	Context Handle
	Plain   [][]byte `holds:"plaintext"`
}

// SealReply holds the parts in the order of the request.
type SealReply struct {
	Parts []Part
	Owned bool // does not travel: the parts are in memory of their own, for [Reuser]
}

// OpenRequest verifies and decrypts parts of one message under the keys that Context names.
type OpenRequest struct {
	Context Handle
	Parts   []Part
}

// OpenReply: see OpenMasterTokenReply for FailedPart.
type OpenReply struct {
	Plain      [][]byte `holds:"plaintext"`
	FailedPart int32
	Owned      bool // as in SealReply
}

// EntityContextRequest asks for the keys of an entity (§5): a remote one whose pre-shared keys the
// agent holds, or the local one.
type EntityContextRequest struct {
	Scheme   string `holds:"name"` // "PSK", "PSK_PROFILE", "X509", "RSA", "ECC"
	Identity string `holds:"name"` // PSK_PROFILE: the whole one, by which keys are found
	KeyID    string `holds:"name"` // of the key pair: X509, RSA and ECC; else empty
	// Record holds the pre-shared keys of a remote PSK or PSK_PROFILE entity, sealed by an agent. Empty: the agent
	// looks for them among its own.
	Record []byte `holds:"sealed"`
}

// EntityContextReply names the context. It seals and opens parts as a session does.
type EntityContextReply struct {
	Context Handle
}

// IssueRequest answers a key exchange request with a new master token (§7.1, generateResponse).
//
// With Session set, the token renews that session's token: same identity and serial number, the
// next sequence number. Otherwise Entity must name the context of an entity, or, for schemes
// without keys in the agent, be zero with Identity set; the token is new. Where Entity has keys that
// authenticate, the agent refuses until it has opened at least one part under them.
type IssueRequest struct {
	Scheme        string `holds:"name"`   // key exchange scheme
	KeyData       []byte `holds:"public"` // the request's keydata, an encoded MSL object
	Session       Handle
	Entity        Handle
	Identity      string `holds:"name"`
	RenewalWindow int64  // Unix seconds
	Expiration    int64  // Unix seconds
	IssuerData    []byte `holds:"public"` // encoded MSL object, merged over the old one; may be empty
	Record        []byte `holds:"sealed"` // as in EntityContextRequest, for schemes that need pre-shared keys
}

// IssueReply holds the new token, the response's keydata, and the new session.
type IssueReply struct {
	Token   Token
	KeyData []byte `holds:"ciphertext"`
	Session Handle
}

// OpenUserIDTokenRequest verifies and decrypts a user ID token (§3.3).
type OpenUserIDTokenRequest struct {
	Token Token
}

// OpenUserIDTokenReply: Verified as in OpenMasterTokenReply.
type OpenUserIDTokenReply struct {
	Verified   bool
	User       string `holds:"name"`
	IssuerData []byte `holds:"public"`
}

// IssueUserIDTokenRequest makes a user ID token bound to the master token of Session.
type IssueUserIDTokenRequest struct {
	Session       Handle
	User          string `holds:"name"`
	SerialNumber  int64  // of the token that this one renews; -1 for a new one
	RenewalWindow int64
	Expiration    int64
	IssuerData    []byte `holds:"public"`
}

// IssueUserIDTokenReply holds the new token.
type IssueUserIDTokenReply struct {
	Token Token
}

// OpenServiceTokenRequest verifies a service token (§3.4) with the service token keys named Keys,
// and decrypts its data if it is encrypted.
type OpenServiceTokenRequest struct {
	Keys  string `holds:"name"`
	Token Token
}

// OpenServiceTokenReply: Data is still compressed if the token says so.
type OpenServiceTokenReply struct {
	Verified bool
	Data     []byte `holds:"plaintext"`
}

// SealServiceTokenRequest makes a service token with the keys named Keys.
type SealServiceTokenRequest struct {
	Keys                    string `holds:"name"`
	Name                    string `holds:"name"`
	MasterTokenSerialNumber int64  // -1: not bound
	UserIDTokenSerialNumber int64  // -1: not bound
	Encrypt                 bool
	Compression             string `holds:"name"`      // what Data was compressed with; "" for nothing
	Data                    []byte `holds:"plaintext"` // after compression
}

// SealServiceTokenReply holds the new token.
type SealServiceTokenReply struct {
	Token Token
}

// BeginExchangeRequest starts a key exchange as the device does it (§7).
type BeginExchangeRequest struct {
	Scheme    string `holds:"name"`
	Mechanism string `holds:"name"` // "JWK_RSA", "JWE_RSA", …; SYMMETRIC_WRAPPED: key id; DIFFIE_HELLMAN: parameters id
	Identity  string `holds:"name"` // own identity, for schemes with pre-shared keys
	Session   Handle // ladders, mechanism WRAP: the session whose exchange this one builds on
}

// BeginExchangeReply holds the request's keydata and the pending exchange, which can be finished
// more than once until it is released.
type BeginExchangeReply struct {
	KeyData []byte `holds:"public"`
	Pending Handle
}

// FinishExchangeRequest gives the response to a pending exchange.
type FinishExchangeRequest struct {
	Pending        Handle
	KeyData        []byte `holds:"ciphertext"` // the response's keydata
	Token          Token  // the new master token, opaque to a device
	Identity       string `holds:"name"` // own identity: the session's key id is Identity_SequenceNumber (§2.5)
	SequenceNumber int64
}

// FinishExchangeReply names the new session.
type FinishExchangeReply struct {
	Session Handle
}

// SealSessionRequest asks for a session in a form that can be stored: encrypted under the device's
// storage key, and bound to the session's master token.
type SealSessionRequest struct {
	Session Handle
}

// SealSessionReply holds the sealed session.
type SealSessionReply struct {
	Sealed []byte `holds:"sealed"`
}

// UnsealSessionRequest opens a sealed session. Token must be the master token that it was sealed with.
type UnsealSessionRequest struct {
	Sealed []byte `holds:"sealed"`
	Token  Token
}

// UnsealSessionReply names the session.
type UnsealSessionReply struct {
	Session Handle
}

// ReleaseRequest wipes what the handles name. Unknown handles are ignored.
type ReleaseRequest struct {
	Handles []Handle
}

// ReleaseReply is empty.
type ReleaseReply struct{}

// HealthRequest asks how the agent is.
type HealthRequest struct{}

// HealthReply tells what hardening could not be done and how each provider is.
type HealthReply struct {
	Findings []Finding
	Sessions uint32 // open now, of all connections
	Entities uint32
}

// KeysRequest lists the keys of all providers whose name begins with Prefix.
type KeysRequest struct {
	Prefix string `holds:"name"`
}

// KeysReply holds the keys by name, then version, of all providers but those that failed.
type KeysReply struct {
	Keys   []Key
	Failed []Finding // by the names of providers; Detail is a code
}

// GenerateKeyRequest makes a key, or for type "keyset" the three keys of a crypto context.
type GenerateKeyRequest struct {
	Name string `holds:"name"`
	Type string `holds:"name"`
}

// ImportKeyRequest makes the agent read a key from a file of its own machine. The key's bytes never
// pass through the protocol process.
type ImportKeyRequest struct {
	Name   string `holds:"name"`
	Type   string `holds:"name"`
	Path   string `holds:"name"` // "-" for the agent's standard input, which it shares with the process that started it
	Format string `holds:"name"` // "hex", "base64", "jwk", "pkcs8", or "" to find out
}

// RotateKeyRequest makes the next version of a key, or of the three keys of a key set.
type RotateKeyRequest struct {
	Name string `holds:"name"`
}

// ChangedKeysReply answers GenerateKeyRequest, ImportKeyRequest and RotateKeyRequest.
type ChangedKeysReply struct {
	Keys []Key
}

// PublicKeyRequest asks for the public half of a key pair. Version 0 is the newest.
type PublicKeyRequest struct {
	Name    string `holds:"name"`
	Version uint32
}

// PublicKeyReply holds a SubjectPublicKeyInfo in DER.
type PublicKeyReply struct {
	Key  Key
	SPKI []byte `holds:"public"`
}

// OpenImportRequest makes the agent read pre-shared keys of entities from a file of its own machine, to seal them as
// records. The keys never pass through the protocol process.
type OpenImportRequest struct {
	Path   string `holds:"name"` // "-" as in ImportKeyRequest
	Format string `holds:"name"` // "csv" or "jsonl"
	Skip   uint64 // lines, that an earlier import has read
	// Identity, if not empty, means that the file is one line, the key of this entity and nothing else. Format is empty then.
	Identity string `holds:"name"`
}

// OpenImportReply names the import. Releasing it closes the file.
type OpenImportReply struct {
	Import Handle
}

// ReadImportRequest seals the next entities of an import, from at most Lines lines.
type ReadImportRequest struct {
	Import Handle
	Lines  uint32
}

// ReadImportReply holds what was in these lines.
type ReadImportReply struct {
	Entities []Entity
	Bad      []BadLine
	Line     uint64 // so many lines were read so far, of all
	Bytes    uint64 // that is about so many
	Done     bool   // there are no more
}

// RewrapRequest seals records anew under the newest version of the wrapping key.
type RewrapRequest struct {
	Entities []Entity
}

// RewrapReply holds them in the order of the request. One without a record could not be opened.
type RewrapReply struct {
	Entities []Entity
}

// An Entity is the pre-shared keys of an entity, sealed under the wrapping key of records and bound to the identity.
type Entity struct {
	Identity string `holds:"name"`
	Record   []byte `holds:"sealed"`
}

// A BadLine is a line of an import that is none. Why never quotes it.
type BadLine struct {
	Line uint64
	Why  string `holds:"name"`
}
