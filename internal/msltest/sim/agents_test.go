// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// A host is an agent in this process. It may be away, or started anew, which loses its sessions.
type host struct {
	s       *schedule
	custody *custody.Agent

	mu   sync.Mutex
	peer *custody.Peer
	away bool
}

// Call lets the schedule interfere, but not where the protocol holds a lock, or where maps with random seeds decide
// what is called.
func (h *host) Call(ctx context.Context, req wire.Request, reply wire.Reply) error {
	name := ""
	switch r := req.(type) {
	case *wire.SealRequest:
		name = fmt.Sprintf("seal %x", sumOf(r.Plain)) // chunks of one message may be sealed at once
	case *wire.IssueRequest:
		name = "issue"
	case *wire.IssueUserIDTokenRequest:
		name = "issue user"
	case *wire.OpenUserIDTokenRequest:
		name = "open user"
	case *wire.BeginExchangeRequest:
		name = "begin"
	case *wire.FinishExchangeRequest:
		name = "finish"
	}
	if name != "" {
		if f := h.s.wait(labelOf(ctx)+" "+name, atCall); f.what == failure {
			return wire.Fail(wire.Transient, "simulation")
		}
	}
	h.mu.Lock()
	peer, away := h.peer, h.away
	h.mu.Unlock()
	if away {
		return wire.Fail(wire.Transient, "simulation")
	}
	return wire.Direct{Handler: peer}.Call(ctx, req, reply)
}

// forget starts the agent anew.
func (h *host) forget() {
	h.mu.Lock()
	old := h.peer
	h.peer = h.custody.NewPeer()
	h.mu.Unlock()
	old.Close()
}

func sumOf(parts [][]byte) uint32 {
	sum := fnv.New32a()
	for _, p := range parts {
		sum.Write(p)
	}
	return sum.Sum32()
}

func (h *host) setAway(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = away
}

// host starts an agent, and returns it with the protocol's side of it.
func (s *schedule) host(a *custody.Agent) (*host, *agent.Client) {
	h := &host{s: s, custody: a, peer: a.NewPeer()}
	return h, agent.New(h)
}

// newCustody returns what agents of one machine share: the keys of all devices, and token keys of their own.
func newCustody(t testing.TB, devices map[string]inproc.KeySet, sessions int) *custody.Agent {
	t.Helper()
	extra := map[string]inproc.KeySet{"own": randomKeys()}
	for name, keys := range devices {
		extra["psk/"+name] = keys
	}
	a, err := custody.New(context.Background(), custody.Config{
		Provider: inproc.Provider(t, extra), TokenKeys: "own", StorageKey: "storage", Groups: map[string]custody.Group{"dh2048": dh2048()},
		Now:    func() time.Time { return inproc.Time },
		Limits: custody.Limits{Sessions: sessions, Pending: 2 * sessions, PairUses: 1 << 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func randomKeys() inproc.KeySet {
	k := inproc.KeySet{EncryptionKey: make([]byte, 16), HMACKey: make([]byte, 32), WrappingKey: make([]byte, 16)}
	rand.Read(k.EncryptionKey)
	rand.Read(k.HMACKey)
	rand.Read(k.WrappingKey)
	return k
}

func dh2048() custody.Group {
	x := inproc.Fixtures().DHParameters["dh2048"]
	p, ok1 := new(big.Int).SetString(x.P, 16)
	g, ok2 := new(big.Int).SetString(x.G, 16)
	if !ok1 || !ok2 {
		panic("dh2048")
	}
	return custody.Group{P: p.Bytes(), G: g.Bytes()}
}
