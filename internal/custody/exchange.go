// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// A keyExchange is a key exchange scheme (§7). A new one is a file, and a row of the table below.
type keyExchange struct {
	// respond makes the session keys for a request's keydata, and the response's keydata.
	respond func(context.Context, *Agent, *requester, mslenc.Object) (*sessionKeys, []byte, error)
	// begin makes a request, as the device does it.
	begin func(context.Context, *Agent, *beginner) (pendingExchange, error)
}

var keyExchanges = map[string]keyExchange{
	"ASYMMETRIC_WRAPPED": {respondAsymmetric, beginAsymmetric},
	"SYMMETRIC_WRAPPED":  {respondSymmetric, beginSymmetric},
	schemeDiffieHellman:  {respondDiffieHellman, beginDiffieHellman},
	schemeJWELadder:      ladder{schemeJWELadder, true}.exchange(),
	schemeJWKLadder:      ladder{schemeJWKLadder, false}.exchange(),
}

// A requester is who asks for session keys.
type requester struct {
	identity string
	session  *session // that is renewed, or nil
	record   []byte   // with the pre-shared keys, or empty
}

// A beginner is who wants session keys, and how.
type beginner struct {
	mechanism string
	identity  string
	session   *session // whose ladder goes on, or nil
}

// A pendingExchange is a request whose response is awaited. It may be finished more than once.
type pendingExchange interface {
	wiper
	keyData() []byte
	// finish makes the session keys from the response's keydata.
	finish(ctx context.Context, response mslenc.Object) (*sessionKeys, error)
}

func schemeNamed(name string) (keyExchange, error) {
	x, ok := keyExchanges[name]
	if !ok {
		return x, unsupported(mslUnidentifiedScheme, "finding the key exchange scheme")
	}
	return x, nil
}

// parseKeyData reads the keydata of a request or a response.
func parseKeyData(b []byte) (mslenc.Object, error) {
	o, err := mslenc.ParseLimited(b, mslenc.Limits{Size: 64 << 10})
	if err != nil {
		return o, malformed(mslParseError, "parsing keydata")
	}
	return o, nil
}

// issue answers a key exchange request with a master token and the session that it names (§7.1).
func (a *Agent) issue(ctx context.Context, r *wire.IssueRequest, from *requester) (*session, wire.Token, []byte, error) {
	x, err := schemeNamed(r.Scheme)
	if err != nil {
		return nil, wire.Token{}, nil, err
	}
	issuerData, err := mergeIssuerData(from.session, r.IssuerData)
	if err != nil {
		return nil, wire.Token{}, nil, err
	}
	o, err := parseKeyData(r.KeyData)
	if err != nil {
		return nil, wire.Token{}, nil, err
	}
	keys, response, err := x.respond(ctx, a, from, o)
	if err != nil {
		return nil, wire.Token{}, nil, err
	}
	serial, sequence := randomNumber(), int64(0)
	if from.session != nil {
		serial, sequence = from.session.serialNumber, nextNumber(from.session.sequenceNumber)
	}
	s, err := newSession(keys, from.identity, sequence)
	if err != nil {
		keys.wipe()
		return nil, wire.Token{}, nil, err
	}
	s.serialNumber, s.issuerData = serial, issuerData
	t, err := a.issueMasterToken(ctx, s, r.RenewalWindow, r.Expiration)
	if err != nil {
		s.wipe()
		return nil, wire.Token{}, nil, err
	}
	a.logSession(s)
	return s, t, response, nil
}

// mergeIssuerData lays the new issuer data over that of the session that is renewed.
func mergeIssuerData(old *session, encoded []byte) ([]byte, error) {
	var first, second mslenc.Object
	var err error
	if old != nil && old.issuerData != nil {
		if first, err = mslenc.Parse(old.issuerData); err != nil {
			return nil, malformed(noNumber, "parsing the issuer data of the old token")
		}
	}
	if len(encoded) > 0 {
		if second, err = mslenc.ParseLimited(encoded, mslenc.Limits{Size: 64 << 10}); err != nil {
			return nil, malformed(noNumber, "parsing issuer data")
		}
	}
	return mslenc.Merge(first, second), nil
}
