// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// opened returns how many tokens versions 1 and 2 of the token keys have opened lately.
func opened(t *testing.T, p *Peer) (counts [2]uint64) {
	t.Helper()
	for _, k := range ask[*wire.KeysReply](t, p, &wire.KeysRequest{Prefix: "tokens."}).Keys {
		switch {
		case k.Name == "tokens.wrap" && k.Opened != 0:
			t.Errorf("tokens.wrap has opened %d tokens", k.Opened)
		case k.Name == "tokens.mac":
			counts[k.Version-1] += k.Opened
		case k.Name == "tokens.enc":
			defer func() {
				if counts[k.Version-1] != k.Opened {
					t.Errorf("the keys of version %d have opened %d and %d tokens", k.Version, k.Opened, counts[k.Version-1])
				}
			}()
		}
	}
	return counts
}

// TestOpenedLately: after a rotation, tokens of the old version that come to an agent that was started again are
// counted with it, for an hour.
func TestOpenedLately(t *testing.T) {
	software, clock := fixtureProvider(t), newClock()
	start := func() *Peer {
		return newPeer(t, newAgent(t, func(c *Config) { c.Provider, c.Now = software, clock.Now }))
	}
	p := start()
	var old, young []wire.Token
	for range 3 {
		issued, _ := exchanged(t, p)
		old = append(old, issued.Token)
	}
	ask[*wire.ChangedKeysReply](t, p, &wire.RotateKeyRequest{Name: "tokens"})
	for range 2 {
		issued, _ := exchanged(t, p)
		young = append(young, issued.Token)
	}
	if got := opened(t, p); got != [2]uint64{} {
		t.Errorf("tokens that were issued, not opened: %v", got)
	}
	p = start()
	for _, token := range slices.Concat(old, young, old) { // the old ones twice, of which their sessions answer one
		if !ask[*wire.OpenMasterTokenReply](t, p, &wire.OpenMasterTokenRequest{Token: token}).Verified {
			t.Fatal("a token does not open")
		}
	}
	forged := wire.Token{Data: old[0].Data, Signature: make([]byte, 32)}
	if ask[*wire.OpenMasterTokenReply](t, p, &wire.OpenMasterTokenRequest{Token: forged}).Verified {
		t.Fatal("a forged token opens")
	}
	if got := opened(t, p); got != [2]uint64{3, 2} {
		t.Errorf("opened %v", got)
	}
	clock.advance(59 * time.Minute)
	if got := opened(t, p); got != [2]uint64{3, 2} {
		t.Errorf("after 59 minutes %v", got)
	}
	clock.advance(time.Minute)
	if got := opened(t, p); got != [2]uint64{} {
		t.Errorf("after an hour %v", got)
	}
}

// TestOpeningsBounded: however many versions there are, a bounded number is counted, the newest.
func TestOpeningsBounded(t *testing.T) {
	var o openings
	now := time.Unix(1700000000, 0)
	for v := uint32(1); v <= 3*openedVersions; v++ {
		o.add(v, now)
	}
	if len(o.versions) != openedVersions || o.of(3*openedVersions, now) != 1 || o.of(1, now) != 0 {
		t.Errorf("%d versions, %d", len(o.versions), o.of(3*openedVersions, now))
	}
}

// silent is a provider that cannot list its keys.
type silent struct{ providers.Provider }

func (silent) Keys(context.Context) ([]providers.KeyInfo, error) {
	return nil, &providers.Error{Code: providers.Transient}
}

// TestKeysOfSome: when a provider is away, the keys of the others are listed, and it is named.
func TestKeysOfSome(t *testing.T) {
	j := &providers.Joined{Main: fixtureProvider(t), Named: map[string]providers.Provider{"hsm": silent{newProvider(t)}, "other": newProvider(t)}}
	p := newPeer(t, newAgent(t, func(c *Config) { c.Provider = j }))
	ask[*wire.ChangedKeysReply](t, p, &wire.GenerateKeyRequest{Name: "other:x", Type: "aes-128"})
	for prefix, failed := range map[string]int{"": 1, "h": 1, "hsm:": 1, "hsm:x": 1, "other:": 0, "tokens": 0} {
		r := ask[*wire.KeysReply](t, p, &wire.KeysRequest{Prefix: prefix})
		if len(r.Failed) != failed || failed == 1 && (r.Failed[0].Name != "hsm" || r.Failed[0].OK || r.Failed[0].Detail != wire.Transient.Error()) {
			t.Errorf("%q: %+v", prefix, r.Failed)
		}
		if want := prefix == "" || prefix == "other:"; want != slices.ContainsFunc(r.Keys, func(k wire.Key) bool { return k.Name == "other:x" }) {
			t.Errorf("%q: %+v", prefix, r.Keys)
		}
	}
}
