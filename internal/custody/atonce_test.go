// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A batchProvider takes batches, and counts what it is asked.
type batchProvider struct {
	*countedProvider
	batches atomic.Int64
	fail    atomic.Int64 // code with which batches fail; 0: none
}

func (p *batchProvider) Do(ctx context.Context, ops []providers.Operation, stop bool) []providers.Result {
	p.batches.Add(1)
	if code := p.fail.Load(); code != 0 && ops[0].Op != providers.OpCount && ops[0].Op != providers.OpCountUp {
		return []providers.Result{{Err: &providers.Error{Code: providers.Code(code), Op: "failing"}}}
	}
	return providers.Do(ctx, p.Provider, ops, stop)
}

// fixtureBatches is the fixture's provider, and the part of it that can rotate.
func fixtureBatches(t *testing.T) (*batchProvider, providers.Rotator) {
	software := fixtureProvider(t)
	return &batchProvider{countedProvider: &countedProvider{Provider: software}}, software
}

// TestTokensAtOnce: tokens of the newest keys take one round trip, older ones open too, and nothing that is
// tampered with.
func TestTokensAtOnce(t *testing.T) {
	p, rotator := fixtureBatches(t)
	clock := newClock()
	a := newAgent(t, func(c *Config) { c.Provider, c.Now = p, clock.Now })
	issued, _ := exchanged(t, newPeer(t, a))
	open := func(token wire.Token) *wire.OpenMasterTokenReply {
		return ask[*wire.OpenMasterTokenReply](t, newPeer(t, a), &wire.OpenMasterTokenRequest{Token: token})
	}
	p.operations.Store(0)
	p.batches.Store(0)
	if !open(issued.Token).Verified || p.batches.Load() != 1 || p.operations.Load() != 0 {
		t.Errorf("%d batches, and %d operations beside", p.batches.Load(), p.operations.Load())
	}
	for i := range issued.Token.Data {
		bad := wire.Token{Data: slices.Clone(issued.Token.Data), Signature: issued.Token.Signature}
		bad.Data[i] ^= 1
		if r, err := try[*wire.OpenMasterTokenReply](newPeer(t, a), &wire.OpenMasterTokenRequest{Token: bad}); err == nil && r.Verified {
			t.Fatalf("a token whose byte %d was changed was taken", i)
		}
	}
	for i := range issued.Token.Signature {
		bad := wire.Token{Data: issued.Token.Data, Signature: slices.Clone(issued.Token.Signature)}
		bad.Signature[i] ^= 1
		if r, err := try[*wire.OpenMasterTokenReply](newPeer(t, a), &wire.OpenMasterTokenRequest{Token: bad}); err == nil && r.Verified {
			t.Fatalf("a token whose signature's byte %d was changed was taken", i)
		}
	}
	for _, m := range keySetMembers {
		if _, err := rotator.Rotate(t.Context(), "tokens"+m.suffix); err != nil {
			t.Fatal(err)
		}
	}
	a.ring.forget()
	if !open(issued.Token).Verified {
		t.Error("a token of an older version was not taken")
	}
	for code, want := range map[providers.Code]wire.Code{providers.Transient: wire.Transient, providers.Device: wire.Device} {
		p.fail.Store(int64(code))
		_, err := try[*wire.OpenMasterTokenReply](newPeer(t, a), &wire.OpenMasterTokenRequest{Token: issued.Token})
		if codeOf(err) != want {
			t.Errorf("a batch failed with %v: %v", code, err)
		}
	}
}

// TestCallsWithBatches: all else works through a provider that takes batches, and a forger costs it one MAC.
func TestCallsWithBatches(t *testing.T) {
	p, _ := fixtureBatches(t)
	a := newAgent(t, func(c *Config) { c.Provider = p })
	if err := everyOperation(newPeer(t, a)); err != nil {
		t.Error(err)
	}
	issued, _ := exchanged(t, newPeer(t, a))
	forged := wire.Token{Data: issued.Token.Data, Signature: slices.Clone(issued.Token.Signature)}
	forged.Signature[5] ^= 1
	newest := a.usesOf("tokens"+macSuffix, 1)
	p.operations.Store(0)
	before := newest.Load()
	if r := ask[*wire.OpenMasterTokenReply](t, newPeer(t, a), &wire.OpenMasterTokenRequest{Token: forged}); r.Verified {
		t.Error("a forged token was taken")
	}
	if n := newest.Load() - before; n != 1 || p.operations.Load() != 0 {
		t.Errorf("a forged token cost %d MACs, and %d operations beside", n, p.operations.Load())
	}
}
