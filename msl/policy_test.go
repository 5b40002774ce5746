// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// naiveReplay is §3.5 without cleverness: every id that was accepted is remembered.
type naiveReplay struct {
	largest int64
	seen    map[int64]bool
}

func (n *naiveReplay) accept(id int64) Code {
	const modulus = mslenc.MaxLong + 1
	ahead := (id - n.largest + modulus) % modulus
	switch {
	case n.seen[id] && (ahead == 0 || modulus-ahead < replayWindow):
		return MessageReplayed
	case ahead != 0 && ahead <= replayAhead:
		n.largest = id
	case modulus-ahead >= replayWindow:
		return MessageReplayedUnrecoverable
	}
	n.seen[id] = true
	return 0
}

// TestReplayWindow compares the sliding window with the naive one, from several places and across the
// wrap of ids at 2^53. Where ids share a bit (2^53 and 0) the window may refuse more, never less.
func TestReplayWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, start := range []int64{0, 5, 100_000, mslenc.MaxLong - 3000, mslenc.MaxLong - 1, mslenc.MaxLong} {
		s := &replayState{largest: start}
		s.mark(start)
		n := &naiveReplay{start, map[int64]bool{start: true}}
		for i := range 20_000 {
			var step int64
			switch r.IntN(10) {
			case 0:
				step = r.Int64N(replayAhead + 10)
			case 1, 2, 3:
				step = -r.Int64N(replayWindow + 10)
			default:
				step = r.Int64N(8)
			}
			const modulus = mslenc.MaxLong + 1
			id := (n.largest + step + modulus) % modulus
			largest := n.largest
			want, got := n.accept(id), s.accept(id)
			if want == 0 && got == MessageReplayed && (id == 0 || id == mslenc.MaxLong) {
				delete(n.seen, id) // the shared bit
				n.largest = largest
				continue
			}
			if got != want {
				t.Fatalf("from %d, step %d: id %d with largest %d: got %d, want %d", start, i, id, largest, got, want)
			}
		}
	}
}

func TestNonReplayableReference(t *testing.T) {
	for _, c := range []struct {
		largest, id int64
		want        Code
	}{
		{0, 0, MessageReplayed}, {0, 1, 0}, {0, 65536, 0}, {0, 65537, MessageReplayedUnrecoverable},
		{10, 10, MessageReplayed},
		{mslenc.MaxLong, 0, 0}, {mslenc.MaxLong, 65535, 0}, {mslenc.MaxLong, 65536, MessageReplayedUnrecoverable},
		{mslenc.MaxLong - 10, 65526, MessageReplayedUnrecoverable}, {mslenc.MaxLong - 10, 65524, 0},
	} {
		s := &replayState{largest: c.largest}
		s.mark(c.largest)
		if got := s.accept(c.id); got != c.want {
			t.Errorf("largest %d, id %d: got %d, want %d", c.largest, c.id, got, c.want)
		}
	}
}

// TestPolicyForgetsNothing: a policy that was made after a token was issued may have been preceded by
// one that accepted messages under it.
func TestPolicyForgetsNothing(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := &Config{Clock: func() time.Time { return now }}
	p := NewMemoryPolicy(c)
	judge := func(issued time.Time) Code {
		token := &MasterToken{SerialNumber: issued.Unix(), RenewalWindow: issued.Add(c.masterTokenRenewal()).Unix(), Expiration: issued.Add(c.masterTokenLifetime()).Unix()}
		code, err := p.NonReplayable(context.Background(), "e", token, 1)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if got := judge(now.Add(-time.Minute)); got != MessageReplayedUnrecoverable {
		t.Errorf("a token from before: %d", got)
	}
	now = now.Add(time.Minute)
	if got := judge(now); got != 0 {
		t.Errorf("a fresh token: %d", got)
	}
	if got := judge(now); got != MessageReplayed {
		t.Errorf("the same message again: %d", got)
	}
	old := now
	now = now.Add(25 * time.Hour)
	renewed := &MasterToken{SerialNumber: old.Unix(), RenewalWindow: now.Add(c.masterTokenRenewal()).Unix(), Expiration: now.Add(c.masterTokenLifetime()).Unix()}
	if got, _ := p.NonReplayable(context.Background(), "e", renewed, 2); got != 0 {
		t.Errorf("its successor: %d", got)
	}
	if got := judge(old); got != MessageReplayedUnrecoverable {
		t.Errorf("the same message when the token has expired and its state is gone: %d", got)
	}
}

// TestPolicyClocks: whatever the clock does while a policy lives, no id is accepted twice, and tokens that were
// issued here are good.
func TestPolicyClocks(t *testing.T) {
	start := time.Unix(1_700_000_000, 500_000_000)
	now := start
	c := &Config{Clock: func() time.Time { return now }}
	serial := int64(0)
	var p *MemoryPolicy
	issue := func() *MasterToken {
		serial++
		m := &MasterToken{Token: Token{Signature: []byte{byte(serial)}}, SerialNumber: serial}
		m.RenewalWindow, m.Expiration = tokenTimes(now, c.masterTokenRenewal(), c.masterTokenLifetime())
		if p != nil {
			p.Issued("e", m)
		}
		return m
	}
	expect := func(what string, m *MasterToken, want Code) {
		t.Helper()
		if got, err := p.NonReplayable(context.Background(), "e", m, 1); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	before := issue() // by an earlier process
	p = NewMemoryPolicy(c)
	now = now.Add(100 * time.Millisecond)
	first := issue()
	expect("a token of before, in the same second", before, MessageReplayedUnrecoverable)
	expect("the first token, in the same second", first, 0)
	expect("the same message again", first, MessageReplayed)

	now = start.Add(-time.Hour)
	second := issue()
	expect("a token that was issued after the clock was set back", second, 0)
	expect("the same message again", second, MessageReplayed)
	expect("that of before", first, MessageReplayed)

	now = start.Add(time.Hour)
	third := issue()
	expect("a token", third, 0)
	now = start.Add(1000 * time.Hour)
	expect("long after it has expired", issue(), 0) // and forgotten
	now = start.Add(2 * time.Hour)
	expect("when it has not expired yet", third, MessageReplayedUnrecoverable)
	fourth := issue()
	expect("a token of before", before, MessageReplayedUnrecoverable)
	expect("its successor", fourth, 0)
	expect("the same message again", fourth, MessageReplayed)
}

// TestPolicyClockSetBackAtOnce: the first that a policy learns of the time may be earlier than that of its making.
func TestPolicyClockSetBackAtOnce(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := &Config{Clock: func() time.Time { return now }}
	before := &MasterToken{Token: Token{Signature: []byte("of an earlier process")}}
	before.RenewalWindow, before.Expiration = tokenTimes(now.Add(-time.Second), c.masterTokenRenewal(), c.masterTokenLifetime())
	p := NewMemoryPolicy(c)
	forgotten := &MasterToken{Token: Token{Signature: []byte("of this one")}, SerialNumber: 1}
	now = now.Add(-48 * time.Hour)
	forgotten.RenewalWindow, forgotten.Expiration = tokenTimes(now, c.masterTokenRenewal(), c.masterTokenLifetime())
	p.Issued("e", forgotten)
	now = now.Add(25 * time.Hour)
	p.Issued("e", forgotten) // expired: it is forgotten soon
	now = now.Add(time.Hour)
	p.Issued("other", forgotten)
	now = now.Add(-20 * time.Hour)
	if got, err := p.NonReplayable(context.Background(), "e", before, 1); got != MessageReplayedUnrecoverable || err != nil {
		t.Errorf("a token of before: %v, %v", got, err)
	}
}

// TestPolicyClockSetBackWhileIssuing: a token may have been issued later than any time that the policy was shown.
func TestPolicyClockSetBackWhileIssuing(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	c := &Config{Clock: func() time.Time { return now }}
	p := NewMemoryPolicy(c)
	issue := func(serial int64, at time.Time) *MasterToken {
		m := &MasterToken{SerialNumber: serial}
		m.RenewalWindow, m.Expiration = tokenTimes(at, c.masterTokenRenewal(), c.masterTokenLifetime())
		p.Issued("e", m)
		return m
	}
	judge := func(m *MasterToken) Code {
		code, err := p.NonReplayable(context.Background(), "e", m, 1)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	ahead := issue(1, start.Add(100*time.Hour))
	if got := judge(ahead); got != 0 {
		t.Errorf("its first message: %v", got)
	}
	now = start.Add(-time.Hour)
	forgotten := issue(2, now)
	now = start.Add(24 * time.Hour)
	if got := judge(forgotten); got == MessageReplayed {
		t.Errorf("a message under a token that has expired: %v", got)
	}
	now = start // earlier than the forgotten one expired: all before is given up
	if got := judge(ahead); got == 0 {
		t.Error("the same message again was accepted")
	}
}
