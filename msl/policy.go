// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

const (
	// replayAhead is how far a non-replayable id may run ahead of the largest accepted one (§3.5).
	replayAhead = 65536
	// replayWindow is how many ids below the largest accepted one are remembered, so that messages that
	// overtake each other are all accepted, once. The reference remembers none and has an id rejected.
	replayWindow = 1024
	// replayEntries bounds the master tokens whose ids are remembered at once.
	replayEntries = 1 << 20
)

// A MemoryPolicy permits every entity, user and scheme, revokes nothing, and keeps the state of
// non-replayable ids (§3.5) in memory. Embed it in a type of your own to add what it does not judge.
//
// Because its state dies with the process, it accepts no non-replayable message under a master token
// that was issued before the policy was made: such a message might have been accepted already. The
// device then authenticates anew, by itself. Clocks may be set back while it lives, but if that happens between two
// processes the second one takes tokens of the first for its own.
type MemoryPolicy struct {
	renewal time.Duration // of master tokens, from their issue
	now     func() time.Time

	mu      sync.Mutex
	ids     map[replayKey]*replayState
	checked time.Time // when expired entries were last dropped
	latest  time.Time // that the clock has ever shown
	horizon time.Time // tokens that were issued until then are accepted only if their state has them
	dropped int64     // tokens that had expired by then may have had a state (Unix seconds)
}

type replayKey struct {
	identity string
	serial   int64
}

type replayState struct {
	largest    int64
	expiration int64
	issued     []string                  // signatures of tokens that were issued here before the horizon
	seen       [replayWindow / 64]uint64 // a ring, one bit an id
}

// maxIssued is how many tokens of one serial number a state has, the last ones.
const maxIssued = 8

// NewMemoryPolicy returns a policy for a server with that Config, which may still lack its Policy.
func NewMemoryPolicy(c *Config) *MemoryPolicy {
	p := &MemoryPolicy{now: c.clock(), ids: make(map[replayKey]*replayState)}
	p.renewal = min(c.masterTokenRenewal(), c.masterTokenLifetime()).Truncate(time.Second)
	p.horizon = p.now()
	p.latest = p.horizon
	return p
}

// Entity permits every entity.
func (*MemoryPolicy) Entity(context.Context, string, string) (Code, error) { return 0, nil }

// MasterToken permits every master token.
func (*MemoryPolicy) MasterToken(context.Context, string, *MasterToken, bool) (Code, error) {
	return 0, nil
}

// UserIDToken permits every user ID token.
func (*MemoryPolicy) UserIDToken(context.Context, string, *UserIDToken) (Code, error) { return 0, nil }

// UserScheme permits every scheme.
func (*MemoryPolicy) UserScheme(context.Context, string, string, string) (Code, error) { return 0, nil }

// KeyExchange permits every scheme.
func (*MemoryPolicy) KeyExchange(context.Context, string, string) (Code, error) { return 0, nil }

// NonReplayable accepts an id once (§3.5): any that is at most 65,536 ahead of the largest accepted
// one, or was not seen among the 1,024 before it.
func (p *MemoryPolicy) NonReplayable(_ context.Context, identity string, t *MasterToken, id int64) (Code, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look()
	key := replayKey{identity, t.SerialNumber}
	s := p.ids[key]
	here := p.issuedAt(t).After(p.horizon) || s != nil && slices.Contains(s.issued, string(t.Signature))
	if !here || t.Expiration <= p.dropped {
		return MessageReplayedUnrecoverable, nil
	}
	if s == nil {
		var err error
		if s, err = p.state(key); err != nil {
			return 0, err
		}
	}
	s.expiration = max(s.expiration, t.Expiration)
	return s.accept(id), nil
}

// Issued is told of each master token that this process has issued. It remembers those that their time does not
// tell from tokens of an earlier process: in the second in which the policy was made, and when the clock was set back.
func (p *MemoryPolicy) Issued(identity string, t *MasterToken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look()
	issued := p.issuedAt(t)
	if issued.After(p.latest) {
		p.latest = issued // the clock was set back while it was issued
	}
	if issued.After(p.horizon) {
		return
	}
	key := replayKey{identity, t.SerialNumber}
	s := p.ids[key]
	if s == nil {
		var err error
		if s, err = p.state(key); err != nil {
			return // it will be refused
		}
	}
	s.issued = append(s.issued[max(0, len(s.issued)-maxIssued+1):], string(t.Signature))
	s.expiration = max(s.expiration, t.Expiration)
}

func (p *MemoryPolicy) issuedAt(t *MasterToken) time.Time {
	return time.Unix(t.RenewalWindow, 0).Add(-p.renewal)
}

func (p *MemoryPolicy) state(key replayKey) (*replayState, error) {
	if len(p.ids) >= replayEntries {
		return nil, errors.New("msl: too many master tokens with non-replayable ids")
	}
	s := new(replayState)
	s.mark(0) // before the first message the largest accepted id counts as 0
	p.ids[key] = s
	return s, nil
}

// accept is the sliding window. Ids are numbers modulo 2^53 + 1.
func (s *replayState) accept(id int64) Code {
	const modulus = mslenc.MaxLong + 1
	ahead := (id - s.largest + modulus) % modulus
	switch {
	case ahead == 0:
		return MessageReplayed
	case ahead <= replayAhead:
		if ahead >= replayWindow {
			clear(s.seen[:])
		} else {
			for i := int64(1); i < ahead; i++ {
				s.unmark((s.largest + i) % modulus)
			}
		}
		s.largest = id
		s.mark(id)
		return 0
	case modulus-ahead >= replayWindow:
		return MessageReplayedUnrecoverable
	case s.marked(id):
		return MessageReplayed
	default:
		s.mark(id)
		return 0
	}
}

// The ring is indexed by id modulo its size, so 2^53 and the 0 that follows it share a bit. It is never
// cleared for 0: that can only refuse an id, never accept one twice.
func (s *replayState) marked(id int64) bool {
	return s.seen[id%replayWindow/64]&(1<<(id%64)) != 0
}
func (s *replayState) mark(id int64) { s.seen[id%replayWindow/64] |= 1 << (id % 64) }
func (s *replayState) unmark(id int64) {
	if id != 0 {
		s.seen[id%replayWindow/64] &^= 1 << (id % 64)
	}
}

// look looks at the clock, and forgets tokens that expired, at most once a minute. If the clock was set back to
// before that, expiry does not tell any more what was forgotten, so all tokens of before are given up.
func (p *MemoryPolicy) look() {
	now := p.now()
	if now.After(p.latest) {
		p.latest = now
	}
	if now.Unix() < p.dropped {
		clear(p.ids)
		p.horizon, p.dropped = p.latest, 0
	}
	if since := now.Sub(p.checked); 0 <= since && since < time.Minute {
		return
	}
	p.checked = now
	for key, s := range p.ids {
		if s.expiration <= now.Unix() {
			delete(p.ids, key)
			p.dropped = max(p.dropped, s.expiration)
		}
	}
}
