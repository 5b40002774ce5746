// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package msl speaks the Message Security Layer: encrypted, authenticated, replay-protected messages
// between entities, over any transport. It holds no keys. Whatever needs one is done by a custody that
// the program supplies, in practice an *agent.Client, which is a key agent in another process.
//
// # What to use first
//
// A [Client] sends a [Request] to one peer and returns its [Response]. A [Server] hands each [Message] to a
// [Handler], which answers through a [ResponseWriter]. Both take a [Config], which says who this side is and
// whom it trusts, and keep to the protocol by themselves: key exchange, renewal of tokens, recovery from
// the errors that a peer reports.
//
// A Server is an http.Handler, and [HTTPTransport] carries a Client's messages over HTTP. [HTTPHandler]
// serves messages with an HTTP handler, and [RoundTripper] sends the requests of an http.Client as messages.
// [StreamTransport], [Server.Serve] and [Server.ServeConn] do without HTTP, over connections of any kind, and package
// msl/websocket makes connections of WebSockets. Other transports implement [Transport], or call [Server.ServeExchange].
//
// [Client.Send] sends a message that nobody answers, [ResponseWriter.Push] sends one that answers nothing, and
// [Response.Next] reads such.
//
// # Peers
//
// With Config.PeerToPeer both sides issue tokens, and carry those of the other (§8.14): a Client asks and a
// Server answers as ever, but each needs custody that can do both, and connections instead of HTTP. Which network
// a Client or Server belongs to is in its Config alone, so a program can be in several at once.
//
// # Tokens
//
// A server issues a master token, which holds the session's keys encrypted under keys that only its agent
// has, and user ID tokens; a client carries them, in a [Store]. So a server keeps no state of its clients, apart
// from what its [Policy] remembers. Service tokens carry an application's own state.
//
// # Entities and users
//
// Config.Entity says how this side authenticates, and Config.EntitySchemes how others may (§5): by pre-shared keys
// ([PSK], [PSKProfile]), by signatures ([RSA], [ECC], [X509]), or, where they are named, not at all ([None],
// [NoneSuffixed], [Provisioned]). [MTProtected] hides any of these from third parties. All keys of this side are
// in custody; a remote entity's public key is in the Config.
//
// Users authenticate in encrypted messages with [EmailPassword], or with a user ID token of before
// ([EarlierUserIDToken]). An application adds a scheme of its own in two steps: on the server it puts a [UserLogin],
// a function, into Config.UserLogins under the scheme's name; on the client it returns [ApplicationLogin] from
// Request.Credentials. Everything else, from the user ID token that a login brings to the check that it is not
// another user's, is the same as with all schemes.
//
// # Errors
//
// Errors of the protocol are of type [*Error], or [*RemoteError] if the peer reported them; errors.Is finds
// their [Code] in both. What the caller should do is in the code's [ResponseCode]; TransientFailure means that the
// agent or the peer could not answer now. Errors never hold input or secrets.
//
// # What is built
//
// Trusted services and peer-to-peer networks (§8); entity authentication with all schemes (§5); users with
// EMAIL_PASSWORD, USER_ID_TOKEN and what applications add (§6); key exchange with ASYMMETRIC_WRAPPED (JWE_RSA, JWEJS_RSA, JWK_RSA) and
// SYMMETRIC_WRAPPED (PSK) (§7); GZIP and LZW. References of the form §x.y are to the protocol specification
// of the project; docs/msl.md lists where this package differs from the reference stacks.
package msl
