// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// openMasterToken opens each token once: as long as its session is open, the same bytes name it.
func (p *Peer) openMasterToken(ctx context.Context, r *wire.OpenMasterTokenRequest, mem *mslenc.Arena) (*wire.OpenMasterTokenReply, error) {
	e, err := p.tokenSession(ctx, r.Token)
	if err != nil {
		return nil, err
	}
	out := &wire.OpenMasterTokenReply{FailedPart: -1, Owned: true}
	if e == nil {
		return out, nil
	}
	defer p.releaseParts(e, r.Parts)
	s := e.value
	if out.Plain, out.FailedPart, err = openAll(ctx, &placed{&s.suite, mem}, r.Parts); err != nil {
		return nil, err
	}
	out.Verified, out.Identity, out.IssuerData, out.Session = true, s.identity, bytes.Clone(s.issuerData), e.handle
	return out, nil
}

func (p *Peer) releaseParts(e *entry[*session], parts []wire.Part) {
	p.sessions.release(e, len(parts), uint64(partBytes(parts)))
}

// tokenSession returns a token's session, in use, or nil if the token was not issued here.
func (p *Peer) tokenSession(ctx context.Context, t wire.Token) (*entry[*session], error) {
	key := tokenHash(t)
	for {
		if e := p.sessions.find(key); e != nil {
			return e, nil
		}
		p.mu.Lock()
		busy := p.opening[key]
		if busy == nil {
			done := make(chan struct{})
			p.opening[key] = done
			p.mu.Unlock()
			defer func() {
				p.mu.Lock()
				delete(p.opening, key)
				p.mu.Unlock()
				close(done)
			}()
			s, ok, err := p.agent.openMasterToken(ctx, t)
			if err != nil || !ok {
				return nil, err
			}
			return p.sessions.add(s, &key)
		}
		p.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// seal and open put what they give into mem, which may be nil.
func (p *Peer) seal(ctx context.Context, r *wire.SealRequest, mem *mslenc.Arena) (*wire.SealReply, error) {
	if e := p.sessions.acquire(r.Context); e != nil {
		defer p.sessions.release(e, len(r.Plain), uint64(totalBytes(r.Plain)))
		parts, err := sealAll(ctx, &placed{&e.value.suite, mem}, r.Plain)
		return &wire.SealReply{Parts: parts, Owned: true}, err
	}
	e := p.entities.acquire(r.Context)
	if e == nil {
		return nil, wire.StaleHandle
	}
	defer p.entities.release(e, len(r.Plain), uint64(totalBytes(r.Plain)))
	parts, err := sealAll(ctx, e.value, r.Plain)
	return &wire.SealReply{Parts: parts}, err
}

func (p *Peer) open(ctx context.Context, r *wire.OpenRequest, mem *mslenc.Arena) (out *wire.OpenReply, err error) {
	if e := p.sessions.acquire(r.Context); e != nil {
		defer p.releaseParts(e, r.Parts)
		out = &wire.OpenReply{Owned: true}
		out.Plain, out.FailedPart, err = openAll(ctx, &placed{&e.value.suite, mem}, r.Parts)
		return out, err
	}
	e := p.entities.acquire(r.Context)
	if e == nil {
		return nil, wire.StaleHandle
	}
	defer p.entities.release(e, len(r.Parts), uint64(partBytes(r.Parts)))
	out = new(wire.OpenReply)
	out.Plain, out.FailedPart, err = openAll(ctx, e.value, r.Parts)
	return out, err
}

func (p *Peer) entityContext(ctx context.Context, r *wire.EntityContextRequest) (*wire.EntityContextReply, error) {
	scheme, ok := entitySchemes[r.Scheme]
	if !ok {
		return nil, unsupported(noNumber, "finding the entity authentication scheme")
	}
	value, err := scheme(ctx, p.agent, r)
	if err != nil {
		return nil, err
	}
	e, err := p.entities.add(value, nil)
	if err != nil {
		return nil, err
	}
	defer p.entities.release(e, 0, 0)
	return &wire.EntityContextReply{Context: e.handle}, nil
}

// issue checks who asks, and has the agent answer.
func (p *Peer) issue(ctx context.Context, r *wire.IssueRequest) (*wire.IssueReply, error) {
	from := &requester{record: r.Record}
	if r.Session != (wire.Handle{}) {
		e := p.sessions.acquire(r.Session)
		if e == nil {
			return nil, wire.StaleHandle
		}
		defer p.sessions.release(e, 0, 0)
		if !e.value.issued {
			return nil, unsupported(mslUntrusted, "renewing a token that was not issued here")
		}
		from.identity, from.session = e.value.identity, e.value
	} else if err := p.authenticate(ctx, r, from); err != nil {
		return nil, err
	}
	s, token, keyData, err := p.agent.issue(ctx, r, from)
	if err != nil {
		return nil, err
	}
	key := s.token
	e, err := p.sessions.add(s, &key)
	if err != nil {
		return nil, err
	}
	defer p.sessions.release(e, 0, 0)
	return &wire.IssueReply{Token: token, KeyData: keyData, Session: e.handle}, nil
}

// authenticate finds out to whom a new token is issued. An entity whose keys are here must have proven
// that it has them: the caller's word is not enough.
func (p *Peer) authenticate(ctx context.Context, r *wire.IssueRequest, from *requester) error {
	if r.Entity == (wire.Handle{}) {
		if !utf8.ValidString(r.Identity) || len(r.Identity) > maxIdentity {
			return malformed(mslIncorrectData, "reading the identity")
		}
		from.identity = strings.Clone(r.Identity)
		_, done, err := p.agent.pskOf(ctx, r.Identity, r.Record)
		if err == nil {
			done()
		}
		switch codeOf(err) {
		case wire.NoSuchKey:
			return nil
		case 0:
			return &fault{code: wire.Denied, number: mslIncorrectData, what: "issuing to an entity that has pre-shared keys without their use"}
		}
		return err
	}
	e := p.entities.acquire(r.Entity)
	if e == nil {
		return wire.StaleHandle
	}
	defer p.entities.release(e, 0, 0)
	switch {
	case r.Identity != "" && r.Identity != e.value.identity:
		return malformed(mslIncorrectData, "comparing the identities")
	case !e.value.authenticates:
		return &fault{code: wire.Denied, number: mslIncorrectData, what: "issuing to the local entity"}
	case !e.value.opened.Load():
		return &fault{code: wire.Denied, number: mslIncorrectData, what: "issuing to an entity that has not authenticated"}
	}
	from.identity = e.value.identity
	return nil
}

// maxIdentity bounds an identity in a master token, in bytes.
const maxIdentity = 4 << 10

func (p *Peer) openUserIDToken(ctx context.Context, r *wire.OpenUserIDTokenRequest) (*wire.OpenUserIDTokenReply, error) {
	key := tokenHash(r.Token)
	u, ok := p.users.find(key)
	if !ok {
		var err error
		if u, ok, err = p.agent.openUserIDToken(ctx, r.Token); err != nil {
			return nil, err
		}
		if !ok {
			return new(wire.OpenUserIDTokenReply), nil
		}
		p.users.add(key, u)
	}
	return &wire.OpenUserIDTokenReply{Verified: true, User: u.identity, IssuerData: bytes.Clone(u.issuerData)}, nil
}

func (p *Peer) issueUserIDToken(ctx context.Context, r *wire.IssueUserIDTokenRequest) (*wire.IssueUserIDTokenReply, error) {
	e := p.sessions.acquire(r.Session)
	if e == nil {
		return nil, wire.StaleHandle
	}
	defer p.sessions.release(e, 0, 0)
	if !e.value.issued {
		return nil, unsupported(noNumber, "binding to a master token that was not issued here")
	}
	issuerData, err := mergeIssuerData(nil, r.IssuerData)
	if err != nil {
		return nil, err
	}
	if !utf8.ValidString(r.User) || len(r.User) > maxIdentity {
		return nil, malformed(noNumber, "reading the user")
	}
	c := userClaims{renewalWindow: r.RenewalWindow, expiration: r.Expiration,
		masterSerialNumber: e.value.serialNumber, serialNumber: r.SerialNumber}
	if c.serialNumber == -1 {
		c.serialNumber = randomNumber()
	}
	t, err := p.agent.issueUserIDToken(ctx, c, user{r.User, issuerData})
	return &wire.IssueUserIDTokenReply{Token: t}, err
}

func (p *Peer) openServiceToken(ctx context.Context, r *wire.OpenServiceTokenRequest) (*wire.OpenServiceTokenReply, error) {
	key := serviceTokenHash(r)
	data, ok := p.services.find(key)
	if ok {
		return &wire.OpenServiceTokenReply{Verified: true, Data: bytes.Clone(data)}, nil
	}
	data, ok, err := p.agent.openServiceToken(ctx, r.Keys, r.Token)
	if err == nil && ok && len(data) <= maxCachedData {
		p.services.add(key, bytes.Clone(data))
	}
	return &wire.OpenServiceTokenReply{Verified: ok, Data: data}, err
}

// serviceTokenHash identifies the exact bytes of a service token, and the keys that open it.
func serviceTokenHash(r *wire.OpenServiceTokenRequest) (sum [sha256.Size]byte) {
	token := tokenHash(r.Token)
	h := sha256.New()
	h.Write(token[:])
	h.Write([]byte(r.Keys))
	h.Sum(sum[:0])
	return sum
}

func (p *Peer) sealServiceToken(ctx context.Context, r *wire.SealServiceTokenRequest) (*wire.SealServiceTokenReply, error) {
	t, err := p.agent.sealServiceToken(ctx, r.Keys, serviceClaims{name: r.Name, masterSerial: r.MasterTokenSerialNumber,
		userSerial: r.UserIDTokenSerialNumber, encrypted: r.Encrypt, compression: r.Compression, serviceData: r.Data})
	return &wire.SealServiceTokenReply{Token: t}, err
}

func (p *Peer) beginExchange(ctx context.Context, r *wire.BeginExchangeRequest) (*wire.BeginExchangeReply, error) {
	x, err := schemeNamed(r.Scheme)
	if err != nil {
		return nil, err
	}
	from := &beginner{mechanism: strings.Clone(r.Mechanism), identity: r.Identity}
	if r.Session != (wire.Handle{}) {
		s := p.sessions.acquire(r.Session)
		if s == nil {
			return nil, wire.StaleHandle
		}
		defer p.sessions.release(s, 0, 0)
		from.session = s.value
	}
	pending, err := x.begin(ctx, p.agent, from)
	if err != nil {
		return nil, err
	}
	keyData := pending.keyData()
	e, err := p.pending.add(pending, nil)
	if err != nil {
		return nil, err
	}
	defer p.pending.release(e, 0, 0)
	return &wire.BeginExchangeReply{KeyData: keyData, Pending: e.handle}, nil
}

func (p *Peer) finishExchange(ctx context.Context, r *wire.FinishExchangeRequest) (*wire.FinishExchangeReply, error) {
	pending := p.pending.acquire(r.Pending)
	if pending == nil {
		return nil, wire.StaleHandle
	}
	defer p.pending.release(pending, 1, 0)
	if !inRange(r.SequenceNumber) || !utf8.ValidString(r.Identity) || len(r.Identity) > maxIdentity {
		return nil, malformed(noNumber, "reading identity and sequence number")
	}
	o, err := parseKeyData(r.KeyData)
	if err != nil {
		return nil, err
	}
	keys, err := pending.value.finish(ctx, o)
	if err != nil {
		return nil, err
	}
	s, err := newSession(keys, strings.Clone(r.Identity), r.SequenceNumber)
	if err != nil {
		keys.wipe()
		return nil, err
	}
	s.token = tokenHash(r.Token)
	p.agent.logSession(s)
	e, err := p.sessions.add(s, nil)
	if err != nil {
		return nil, err
	}
	defer p.sessions.release(e, 0, 0)
	return &wire.FinishExchangeReply{Session: e.handle}, nil
}

func (p *Peer) sealSession(ctx context.Context, r *wire.SealSessionRequest) (*wire.SealSessionReply, error) {
	e := p.sessions.acquire(r.Session)
	if e == nil {
		return nil, wire.StaleHandle
	}
	defer p.sessions.release(e, 0, 0)
	sealed, err := p.agent.sealSession(ctx, e.value)
	return &wire.SealSessionReply{Sealed: sealed}, err
}

func (p *Peer) unsealSession(ctx context.Context, r *wire.UnsealSessionRequest) (*wire.UnsealSessionReply, error) {
	s, err := p.agent.unsealSession(ctx, r.Sealed, r.Token)
	if err != nil {
		return nil, err
	}
	e, err := p.sessions.add(s, nil)
	if err != nil {
		return nil, err
	}
	defer p.sessions.release(e, 0, 0)
	return &wire.UnsealSessionReply{Session: e.handle}, nil
}
