// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"slices"
	"time"
)

// A responder builds the answers of a server (§8.6, response construction): it decides which tokens a
// request gets, and has them issued.
type responder struct {
	cfg      *Config
	entities EntityKeys
	issuer   TokenIssuer
}

// A given is what the answer to a message gives its sender to carry.
type given struct {
	response *KeyResponse // a new master token, or nil
	token    *MasterToken // that the sender has from now on, or nil
	session  *Session     // of that token
	user     *UserIDToken // or nil
	services []*ServiceToken
}

// echoed is what an answer gives that neither issues nor renews anything: what the message had.
func echoed(req *Message) *given {
	return &given{token: req.MasterToken, session: req.Session, user: req.UserIDToken, services: slices.Clone(req.ServiceTokens)}
}

// give has all tokens issued and renewed that a message may have. Errors carry the message's id.
func (r *responder) give(ctx context.Context, req *Message) (*given, error) {
	g, now := echoed(req), r.cfg.now()
	if exchangesKeys(req, now) {
		issued, err := r.exchange(ctx, req, now)
		if err != nil {
			return nil, withID(err, req.ID)
		}
		g.response, g.session, g.token = issued.response, issued.session, issued.response.MasterToken
	}
	if err := r.userIDToken(ctx, req, g, now); err != nil {
		return nil, withID(err, req.ID)
	}
	return g, nil
}

// add adds what the application gives: a token for a user, unless there is one, and service tokens.
func (r *responder) add(ctx context.Context, keys ServiceTokenKeys, g *given, user string, services []NewServiceToken) (err error) {
	if user != "" && g.session == nil {
		return ResponseRequiresMasterToken
	}
	if user != "" && g.user == nil {
		if g.user, err = r.issueUser(ctx, g.session, user, -1, nil, r.cfg.now()); err != nil {
			return err
		}
	}
	g.services, err = addServiceTokens(ctx, r.cfg, keys, g.services, services, g.token, g.user)
	return err
}

// respond returns the answer to a request in a trusted services network. Errors carry the request's message id.
func (r *responder) respond(ctx context.Context, req *Message, g *given) (*outgoing, error) {
	h := newHeaderData(r.cfg, r.cfg.now(), addID(req.ID, 1))
	h.Sender = r.cfg.Entity.Identity()
	h.Capabilities = req.Capabilities.Intersect(r.cfg.capabilities())
	h.KeyResponse, h.UserIDToken, h.ServiceTokens = g.response, g.user, g.services
	out := &outgoing{header: h}
	if err := r.sender(ctx, req, g, out); err != nil {
		return nil, withID(err, req.ID)
	}
	if g.response != nil {
		out.payloadContext = g.session
	}
	return out, withID(h.checkBindings(out.outer.master), req.ID)
}

// sender protects the answer with what identifies the request: its master token, even one that is just
// being replaced, or else this side's own keys.
func (r *responder) sender(ctx context.Context, req *Message, g *given, out *outgoing) (err error) {
	token, session := g.token, g.session
	if g.response != nil {
		token, session = req.MasterToken, req.Session
	}
	if token != nil {
		out.outer.master, out.headerContext = token, session
		return nil
	}
	out.outer.entity = r.cfg.Entity
	out.headerContext, err = ownContext(ctx, r.cfg, r.entities)
	return err
}

// exchangesKeys reports whether a request gets a new master token.
func exchangesKeys(req *Message, now time.Time) bool {
	if !req.Renewable || len(req.KeyRequests) == 0 {
		return false
	}
	m := req.MasterToken
	return m == nil || m.Renewable(now) || m.Expired(now)
}

// newSession is the outcome of a key exchange.
type newSession struct {
	response *KeyResponse
	session  *Session
}

// exchange answers the key request that this side likes best (§7.7): the first that succeeds, in the
// order of the configuration, then of the message. If none does, the first error counts.
func (r *responder) exchange(ctx context.Context, req *Message, now time.Time) (*newSession, error) {
	if req.MasterToken != nil && r.cfg.Policy != nil {
		code, err := r.cfg.Policy.MasterToken(ctx, req.Session.Identity, req.MasterToken, true)
		if err := judged(code, err, "master token"); err != nil {
			return nil, err
		}
	}
	var first error
	for _, own := range r.cfg.serverKeyExchanges() {
		for _, k := range req.KeyRequests {
			if k.Scheme != own.Scheme || k.mechanism != own.Mechanism {
				continue
			}
			issued, err := r.issue(ctx, req, k, now)
			if err == nil {
				return issued, nil
			}
			if first == nil {
				first = err
			}
			if ctx.Err() != nil {
				return nil, first
			}
		}
	}
	if first == nil {
		first = fail(KeyxFactoryNotFound, "key request data", nil)
	}
	return nil, first
}

// issue has a master token issued in answer to one key request.
func (r *responder) issue(ctx context.Context, req *Message, k KeyRequest, now time.Time) (*newSession, error) {
	if r.cfg.Policy != nil {
		code, err := r.cfg.Policy.KeyExchange(ctx, req.Identity(), k.Scheme)
		if err := judged(code, err, "key exchange"); err != nil {
			return nil, err
		}
	}
	ask := &IssueRequest{Scheme: k.Scheme, KeyData: k.KeyData, Session: req.Session}
	if req.Session == nil {
		ask.Identity = req.Identity()
		if _, local := req.header.(localContext); !local {
			ask.Entity = req.header
		}
	}
	ask.RenewalWindow, ask.Expiration = tokenTimes(now, r.cfg.masterTokenRenewal(), r.cfg.masterTokenLifetime())
	issued, err := r.issuer.IssueMasterToken(ctx, ask)
	if err != nil {
		return nil, custodyError(err, KeyxIncorrectData, "key exchange")
	}
	m, err := newMasterToken(issued.Token)
	if err != nil {
		return nil, fail(InternalException, "new master token", err)
	}
	if p, ok := r.cfg.Policy.(interface{ Issued(string, *MasterToken) }); ok {
		p.Issued(issued.Session.Identity, m)
	}
	return &newSession{&KeyResponse{MasterToken: m, Scheme: k.Scheme, KeyData: issued.KeyData}, issued.Session}, nil
}

// userIDToken renews the request's user ID token where that is due, or makes one for a user who
// authenticated in a renewable message. Without a session there is nothing that it could be bound to.
func (r *responder) userIDToken(ctx context.Context, req *Message, g *given, now time.Time) error {
	have := g.user
	user, serial := "", int64(-1)
	switch {
	case g.session == nil:
		return nil
	case have != nil && have.Verified:
		due := have.Renewable(now) && req.Renewable || have.Expired(now) || !have.BoundTo(g.token)
		if !due {
			return nil
		}
		user, serial = have.User, have.SerialNumber
	case req.UserAuth && req.Renewable:
		user = req.User
	default:
		return nil
	}
	var issuerData []byte
	if have != nil {
		issuerData = have.IssuerData
	}
	u, err := r.issueUser(ctx, g.session, user, serial, issuerData, now)
	g.user = u
	return err
}

// issueUser has a user ID token issued. serial is that of the token it renews, or -1.
func (r *responder) issueUser(ctx context.Context, session *Session, user string, serial int64, issuerData []byte, now time.Time) (*UserIDToken, error) {
	renewal, expiration := tokenTimes(now, r.cfg.userIDTokenRenewal(), r.cfg.userIDTokenLifetime())
	t, err := r.issuer.IssueUserIDToken(ctx, session, user, serial, renewal, expiration, issuerData)
	if err != nil {
		return nil, custodyError(err, InternalException, "user ID token")
	}
	u, err := newUserIDToken(t, user)
	if err != nil {
		return nil, fail(InternalException, "new user ID token", err)
	}
	u.IssuerData = issuerData
	return u, nil
}
