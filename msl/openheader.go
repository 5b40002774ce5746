// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// readHeader reads opened header data into m in the order of §4.5, then makes the checks of §4.9. The
// order decides which error a peer sees, and that the message id is known as early as possible. What is kept is not in mem.
func (o *opener) readHeader(ctx context.Context, mem *mslenc.Arena, m *Message, headerData []byte) error {
	m.ID = -1
	f := parseFieldsIn(mem, headerData, "header data", MSLParseError)
	id := f.id("messageid", MessageIDOutOfRange)
	if f.err != nil {
		return f.err
	}
	m.ID = id
	if f.has("timestamp") {
		m.Timestamp = f.number("timestamp")
	}
	if f.err != nil {
		return f.err
	}
	if f.has("keyresponsedata") {
		r, err := parseKeyResponse(f.object("keyresponsedata", "key response data"))
		if err != nil {
			return err
		}
		m.KeyResponse = r
	}
	o.setProtection(m)
	if err := o.readTokens(ctx, m, &f); err != nil {
		return err
	}
	if err := readRest(m, &f, o.cache); err != nil {
		return err
	}
	if m.peerToPeer {
		if err := o.readPeerTokens(ctx, m, &f); err != nil {
			return err
		}
	}
	return o.checkHeader(ctx, m)
}

// setProtection notes what protects header and payloads (§4.9, queries). Between peers a key response does
// not protect the payloads of its message (§4.7).
func (o *opener) setProtection(m *Message) {
	if m.MasterToken != nil || m.KeyResponse != nil && !m.peerToPeer {
		m.Encrypted, m.IntegrityProtected = true, true
		return
	}
	if s, err := findEntityScheme(m.Entity.Scheme); err == nil {
		m.Encrypted, m.IntegrityProtected = s.encrypts, s.protects
	}
}

// headerEncrypted reports whether user authentication data may stand in the header.
func (m *Message) headerEncrypted() bool {
	if m.MasterToken != nil {
		return true
	}
	s, err := findEntityScheme(m.Entity.Scheme)
	return err == nil && s.encrypts
}

// verifier returns the master token that the tokens in the header must be bound to (§4.4).
func (m *Message) verifier() *MasterToken {
	primary, _ := verifiers(m.peerToPeer, m.MasterToken, nil, m.KeyResponse)
	return primary
}

// readTokens reads the user ID token, the user authentication data and the service tokens.
func (o *opener) readTokens(ctx context.Context, m *Message, f *fields) error {
	if f.has("useridtoken") {
		t, err := o.readUserIDToken(ctx, m, f.object("useridtoken", "user ID token"))
		if err != nil {
			return err
		}
		m.UserIDToken, m.User = t, t.User
	}
	if f.has("userauthdata") {
		data := f.object("userauthdata", "user authentication data")
		user, err := authenticateUser(ctx, o.cfg, o.tokens, data, m.Identity(), m.headerEncrypted(), m.UserIDToken)
		if err != nil {
			return err
		}
		m.User, m.UserAuth = user, true
	}
	var err error
	m.ServiceTokens, err = o.readServiceTokens(ctx, f.objects("servicetokens", m.limits.Tokens), m.verifier(), m.UserIDToken)
	if err != nil {
		return err
	}
	return f.err
}

func (o *opener) readServiceTokens(ctx context.Context, objects []mslenc.Object, m *MasterToken, u *UserIDToken) (tokens []*ServiceToken, err error) {
	for _, object := range objects {
		t, err := parseServiceToken(fields{obj: object, what: "service token", code: MSLParseError})
		if err != nil {
			return nil, err
		}
		if err := openServiceToken(ctx, o.cfg, o.services, t); err != nil {
			return nil, err
		}
		if err := t.checkBinding(m, u); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(tokens, t.same) { // of equal tokens, the first counts
			tokens = append(tokens, t)
		}
	}
	return tokens, nil
}

// readPeerTokens reads what the peer wants this side to show next time (§8.14). The peer has issued it, so
// there is nothing to open but service tokens.
func (o *opener) readPeerTokens(ctx context.Context, m *Message, f *fields) (err error) {
	if f.has("peermastertoken") {
		if m.PeerMasterToken, err = o.cache.parse(f, "peermastertoken", "peer master token"); err != nil {
			return err
		}
	}
	_, verifier := verifiers(true, nil, m.PeerMasterToken, m.KeyResponse)
	if f.has("peeruseridtoken") {
		if m.PeerUserIDToken, err = parseUserIDToken(f.object("peeruseridtoken", "peer user ID token")); err != nil {
			return err
		}
		if !m.PeerUserIDToken.BoundTo(verifier) {
			return fail(UserIDTokenMasterTokenMismatch, "peer user ID token", nil)
		}
	}
	m.PeerServiceTokens, err = o.readServiceTokens(ctx, f.objects("peerservicetokens", m.limits.Tokens), verifier, m.PeerUserIDToken)
	if err != nil {
		return err
	}
	return f.err
}

// readUserIDToken reads a user ID token and opens it if this side issues such tokens (§3.3). What it is
// bound to is checked first, so custody sees no token that would be refused anyway.
func (o *opener) readUserIDToken(ctx context.Context, m *Message, f fields) (*UserIDToken, error) {
	t, err := parseUserIDToken(f)
	if err != nil {
		return nil, err
	}
	if !t.BoundTo(m.verifier()) {
		return nil, fail(UserIDTokenMasterTokenMismatch, "user ID token", nil)
	}
	if o.tokens == nil {
		return t, nil
	}
	claims, err := o.tokens.OpenUserIDToken(ctx, t.Token)
	if err != nil {
		return nil, custodyError(err, UserIDTokenUserDataParseError, "user ID token")
	}
	if claims != nil {
		if claims.User == "" {
			return nil, fail(UserIDTokenIdentityInvalid, "user ID token", nil)
		}
		t.Verified, t.User, t.IssuerData = true, claims.User, claims.IssuerData
	}
	return t, nil
}

// readRest reads the members after the tokens, none of which needs a key.
func readRest(m *Message, f *fields, cache *tokenCache) error {
	nonReplayable := int64(-1)
	has := f.has("nonreplayableid")
	if has {
		nonReplayable = f.number("nonreplayableid")
	}
	m.Renewable = f.boolean("renewable")
	if f.has("handshake") {
		m.handshake = f.boolean("handshake")
	}
	if has && f.err == nil && (nonReplayable < 0 || nonReplayable > mslenc.MaxLong) {
		f.refuse(NonReplayableIDOutOfRange, "nonreplayableid")
	}
	m.NonReplayableID = nonReplayable
	if f.has("capabilities") {
		m.Capabilities = cache.parseCapabilities(f)
	}
	for _, object := range f.objects("keyrequestdata", m.limits.Requests) {
		r, err := parseKeyRequest(object)
		if err != nil {
			return err
		}
		m.KeyRequests = append(m.KeyRequests, r)
	}
	return f.err
}

// checkHeader makes the checks of §4.9 in their order, and looks at the first payload where only that
// tells a handshake.
func (o *opener) checkHeader(ctx context.Context, m *Message) error {
	if m.KeyResponse != nil {
		if err := o.finishExchange(ctx, m); err != nil {
			return err
		}
	}
	if m.handshake {
		if !m.Renewable || len(m.KeyRequests) == 0 {
			return fail(HandshakeDataMissing, "header data", nil)
		}
		m.finish(io.EOF)
	}
	if m.Session != nil {
		if err := o.judgeTokens(ctx, m); err != nil {
			return err
		}
	}
	if m.NonReplayableID >= 0 {
		if m.MasterToken == nil {
			return fail(IncompleteNonReplayableMessage, "header data", nil)
		}
		if err := o.judgeReplay(ctx, m); err != nil {
			return err
		}
	}
	if o.tokens == nil || o.answers {
		return nil
	}
	return m.inferHandshake(ctx)
}

// judgeTokens refuses tokens that are revoked, and an expired master token that the message cannot renew.
func (o *opener) judgeTokens(ctx context.Context, m *Message) error {
	policy, identity := o.cfg.Policy, m.Session.Identity
	if policy != nil {
		code, err := policy.MasterToken(ctx, identity, m.MasterToken, false)
		if err := judged(code, err, "master token"); err != nil {
			return err
		}
	}
	if policy != nil && m.UserIDToken != nil && m.UserIDToken.Verified {
		code, err := policy.UserIDToken(ctx, m.UserIDToken.User, m.UserIDToken)
		if err := judged(code, err, "user ID token"); err != nil {
			return err
		}
	}
	if !m.MasterToken.Expired(o.cfg.now()) {
		return nil
	}
	switch {
	case !m.Renewable:
		return fail(MessageExpiredNotRenewable, "master token", nil)
	case len(m.KeyRequests) == 0:
		return fail(MessageExpiredNoKeyRequestData, "master token", nil)
	case policy == nil:
		return nil
	}
	code, err := policy.MasterToken(ctx, identity, m.MasterToken, true)
	return judged(code, err, "master token")
}

// judgeReplay accepts a non-replayable id once (§3.5). Only the issuer of the master token can.
func (o *opener) judgeReplay(ctx context.Context, m *Message) error {
	switch {
	case o.tokens == nil:
		return nil // a client sees no replay: it takes one response to each request
	case o.cfg.Policy == nil:
		return fail(InternalException, "non-replayable id", nil)
	}
	code, err := o.cfg.Policy.NonReplayable(ctx, m.Session.Identity, m.MasterToken, m.NonReplayableID)
	return judged(code, err, "non-replayable id")
}
