// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"errors"
	"math/big"
	"testing"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// TestStandardGroups: the primes are prime, and no digit is wrong, since RFC 3526 gives a formula for all.
func TestStandardGroups(t *testing.T) {
	if g, _ := StandardGroup("modp2048"); !bytes.Equal(g.P, fixtureGroup("dh2048").P) {
		t.Error("modp2048 is not that of the fixtures")
	}
	for name, x := range map[string]struct {
		bits uint
		add  int64
	}{"modp2048": {2048, 124476}, "modp3072": {3072, 1690314}, "modp4096": {4096, 240904}, "modp6144": {6144, 929484}, "modp8192": {8192, 4743158}} {
		g, ok := StandardGroup(name)
		if !ok {
			t.Fatal(name)
		}
		// p = 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + add)
		one := big.NewInt(1)
		p := pi(x.bits - 130)
		p.Add(p, big.NewInt(x.add)).Lsh(p, 64)
		p.Add(p, new(big.Int).Lsh(one, x.bits)).Sub(p, new(big.Int).Lsh(one, x.bits-64)).Sub(p, one)
		if p.Cmp(new(big.Int).SetBytes(g.P)) != 0 || !bytes.Equal(g.G, []byte{2}) {
			t.Errorf("%s: wrong digits", name)
		}
		if _, err := newGroup(g, false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := StandardGroup("modp1536"); ok {
		t.Error("a group that is too small has a name")
	}
}

// pi returns floor(2^bits * pi), by Machin's formula.
func pi(bits uint) *big.Int {
	const guard = 64
	arctan := func(x int64) *big.Int { // of 1/x
		term := new(big.Int).Lsh(big.NewInt(1), bits+guard)
		term.Div(term, big.NewInt(x))
		sum, square := new(big.Int).Set(term), big.NewInt(x*x)
		for k := int64(3); term.Sign() > 0; k += 2 {
			term.Div(term, square)
			part := new(big.Int).Div(term, big.NewInt(k))
			if k%4 == 3 {
				part.Neg(part)
			}
			sum.Add(sum, part)
		}
		return sum
	}
	four := big.NewInt(4)
	sum := new(big.Int).Mul(four, arctan(5))
	sum.Sub(sum, arctan(239)).Mul(sum, four)
	return sum.Rsh(sum, guard)
}

func TestBadGroups(t *testing.T) {
	old, good := fixtureGroup("dh768"), fixtureGroup("dh2048")
	changed := func(g Group, by int64) Group {
		return Group{new(big.Int).Add(new(big.Int).SetBytes(g.P), big.NewInt(by)).Bytes(), g.G}
	}
	unsafe := Group{P: dsaPrime().Bytes(), G: []byte{2}}
	for name, x := range map[string]struct {
		group Group
		allow []string
		ok    bool
	}{
		"good":                  {good, nil, true},
		"small, and allowed":    {old, []string{"DIFFIE_HELLMAN/id"}, true},
		"small":                 {old, nil, false},
		"another is allowed":    {old, []string{"DIFFIE_HELLMAN/other"}, false},
		"good, and allowed":     {good, []string{"DIFFIE_HELLMAN/id"}, false},
		"empty":                 {Group{}, nil, false},
		"composite":             {changed(good, 2), nil, false},
		"even":                  {changed(good, 1), nil, false},
		"far too small":         {Group{P: []byte{23}, G: []byte{5}}, []string{"DIFFIE_HELLMAN/id"}, false},
		"not a safe prime":      {unsafe, []string{"DIFFIE_HELLMAN/id"}, false},
		"too large":             {Group{P: bytes.Repeat([]byte{255}, 1025), G: []byte{2}}, nil, false},
		"generator 0":           {Group{P: good.P}, nil, false},
		"generator 1":           {Group{P: good.P, G: []byte{0, 1}}, nil, false},
		"generator p-1":         {Group{P: good.P, G: changed(good, -1).P}, nil, false},
		"generator p":           {Group{P: good.P, G: good.P}, nil, false},
		"zeros before, allowed": {Group{P: append([]byte{0, 0}, good.P...), G: []byte{0, 2}}, nil, true},
	} {
		_, err := New(t.Context(), Config{Provider: newProvider(t), Groups: map[string]Group{"id": x.group}, Allow: x.allow})
		if (err == nil) != x.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dsaPrime returns a prime p of 768 bits such that (p-1)/2 is not prime.
func dsaPrime() *big.Int {
	for p := new(big.Int).SetBit(big.NewInt(1), 767, 1); ; p.Add(p, big.NewInt(2)) {
		half := new(big.Int).Rsh(p, 1)
		if p.ProbablyPrime(10) && !half.ProbablyPrime(10) {
			return p
		}
	}
}

// TestPublicNumbers: behaviour 80, and numbers at both ends of the range.
func TestPublicNumbers(t *testing.T) {
	g, err := newGroup(fixtureGroup("dh768"), true)
	if err != nil {
		t.Fatal(err)
	}
	p := new(big.Int).SetBytes(fixtureGroup("dh768").P)
	plus := func(n int64) []byte { return new(big.Int).Add(p, big.NewInt(n)).Bytes() }
	x := secret.Random(maxExponentSize)
	for _, bad := range [][]byte{nil, {}, {0}, {0, 0, 0}, {1}, {0, 1}, plus(-1), plus(0), plus(1), plus(2), append(plus(-2), 0), bytes.Repeat([]byte{255}, 97)} {
		if keys, err := g.agree(x, bad); err == nil || keys != nil || numberOf(err) != mslKeyxInvalidPublicKey || codeOf(err) != wire.Malformed {
			t.Errorf("%x: %v", bad, err)
		}
	}
	for _, good := range [][]byte{{2}, {0, 0, 2}, plus(-2), append(make([]byte, 500), plus(-2)...)} {
		if _, err := g.agree(x, good); err != nil {
			t.Errorf("%x: %v", good, err)
		}
	}
	// An exponent by which everything ends at 1 or p-1.
	q := new(big.Int).Rsh(p, 1)
	for _, n := range []*big.Int{q, new(big.Int).Sub(p, big.NewInt(1)), new(big.Int)} {
		if _, err := g.agree(secret.Take(n.FillBytes(make([]byte, 96))), []byte{2}); numberOf(err) != mslKeyxInvalidPublicKey {
			t.Errorf("a trivial shared secret: %v", err)
		}
	}
}

// TestAgreements: exponents are fresh, of their size, and wiped; groups are found by their names.
func TestAgreements(t *testing.T) {
	p := newPeer(t, newAgent(t, everything))
	first := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "DIFFIE_HELLMAN", Mechanism: "dh2048"})
	second := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "DIFFIE_HELLMAN", Mechanism: "dh2048"})
	if bytes.Equal(first.KeyData, second.KeyData) {
		t.Error("the same exponent again")
	}
	e := p.pending.acquire(first.Pending)
	pending := e.value.(*pendingAgreement)
	x := secret.Reveal(pending.x)
	p.pending.release(e, 0, 0)
	if len(x) != 32 || pending.public[0] != 0 || pending.public[1] == 0 {
		t.Errorf("an exponent of %d bytes, a public number that begins with %x", len(x), pending.public[:2])
	}
	ask[*wire.ReleaseReply](t, p, &wire.ReleaseRequest{Handles: []wire.Handle{first.Pending}})
	if !bytes.Equal(x, make([]byte, 32)) {
		t.Error("the exponent is still there")
	}
	_, err := try[*wire.BeginExchangeReply](p, &wire.BeginExchangeRequest{Scheme: "DIFFIE_HELLMAN", Mechanism: "zzz"})
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.NotSupported || e.MSL != mslUnknownParameters {
		t.Errorf("an unknown group: %v", err)
	}
	off := newPeer(t, newAgent(t, nil))
	_, err = try[*wire.IssueReply](off, &wire.IssueRequest{Scheme: "DIFFIE_HELLMAN", KeyData: second.KeyData, Identity: "somebody", Expiration: 1})
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.MSL != mslUnknownParameters {
		t.Errorf("without groups: %v", err)
	}
}
