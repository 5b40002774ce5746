// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// A forgetfulProvider remembers the newest version of the records' key until it is asked for one that it does not know, as
// one that asks a server does. Decrypting e7 finds that its version has just been withdrawn.
type forgetfulProvider struct {
	*software.Provider
	mu      sync.Mutex
	newest  uint32
	batches []int
}

func (p *forgetfulProvider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == "records" && version == 0 {
		version = p.newest
	}
	k, err := p.Provider.Open(ctx, name, version)
	if err != nil || name != "records" {
		return k, err
	}
	if version > p.newest {
		newest, err := p.Provider.Open(ctx, name, 0)
		if err != nil {
			return nil, err
		}
		p.newest = newest.Info().Version
	}
	return withdrawnKey{k, k.(providers.Encrypter), k.(providers.Decrypter)}, nil
}

// Do does what a provider in a process of its own does.
func (p *forgetfulProvider) Do(ctx context.Context, ops []providers.Operation, stop bool) []providers.Result {
	p.mu.Lock()
	p.batches = append(p.batches, len(ops))
	p.mu.Unlock()
	return providers.Do(ctx, struct{ providers.Provider }{p}, ops, stop)
}

type withdrawnKey struct {
	providers.Key
	providers.Encrypter
	providers.Decrypter
}

func (k withdrawnKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	if bytes.HasSuffix(aad, []byte("withdrawn")) {
		return nil, &providers.Error{Code: providers.NoSuchKey, Op: "decrypting"}
	}
	return k.Decrypter.Decrypt(ctx, m, iv, ciphertext, aad)
}

// TestRewrapAtOnce: a rewrap that begins right after rotations by another process seals under what they have made, in
// batches, and a record whose version is withdrawn at that moment does not hinder the others.
func TestRewrapAtOnce(t *testing.T) {
	keys := &forgetfulProvider{Provider: fixtureProvider(t), newest: 1}
	if _, err := keys.Generate(t.Context(), "records", providers.AES256); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, func(c *Config) { c.Provider, c.RecordKey = keys, "records" })
	p := newPeer(t, a)
	const total = 5*providers.MaxBatch + 1
	var lines strings.Builder
	for i := range total {
		fmt.Fprintf(&lines, "e%d,%s\n", i, testPSK)
	}
	records, _ := imported(t, p, "csv", 0, lines.String(), "withdrawn,"+testPSK)
	newest := uint32(1)
	for _, rotations := range []int{1, 2, 0} {
		for range rotations {
			if _, err := keys.Rotate(t.Context(), "records"); err != nil {
				t.Fatal(err)
			}
			newest++
		}
		req := new(wire.RewrapRequest)
		for identity, record := range records {
			req.Entities = append(req.Entities, wire.Entity{Identity: identity, Record: record})
		}
		keys.batches = nil
		for _, e := range ask[*wire.RewrapReply](t, p, req).Entities {
			head, _ := recordHead(recordGCM, "records", newest, "")
			if gone := e.Identity == "withdrawn"; bytes.HasPrefix(e.Record, head) == gone || gone && len(e.Record) != 0 {
				t.Fatalf("%d rotations: the record of %s is not of version %d", rotations, e.Identity, newest)
			}
			if e.Record != nil {
				records[e.Identity] = e.Record
			}
		}
		most := 2 * (total/firstBatch + 1)
		if rotations == 0 {
			most = 1 // the one that cannot be opened
		}
		if n := len(keys.batches); n == 0 || n > most {
			t.Errorf("%d batches, not up to %d", n, most)
		}
	}
	if _, err := entityFrom(newPeer(t, a), "withdrawn", records["withdrawn"]); codeOf(err) != wire.VerificationFailed {
		t.Errorf("under a version that is withdrawn: %v", err)
	}
}

// A slowProvider is a device that does one operation after the other.
type slowProvider struct {
	*software.Provider
	each    time.Duration
	turn    chan struct{}
	mu      sync.Mutex
	longest time.Duration
	batches int
}

func (p *slowProvider) Do(ctx context.Context, ops []providers.Operation, stop bool) []providers.Result {
	began := time.Now()
	for range ops {
		p.turn <- struct{}{}
		time.Sleep(p.each)
		<-p.turn
	}
	p.mu.Lock()
	p.longest = max(p.longest, time.Since(began))
	p.batches++
	p.mu.Unlock()
	return providers.Do(ctx, struct{ providers.Provider }{p.Provider}, ops, stop)
}

// TestSealingSuitsTheDevice: a slow device gets so little at once that it answers each time long before it would be killed
// for not answering, and a fast one gets much.
func TestSealingSuitsTheDevice(t *testing.T) {
	software := fixtureProvider(t)
	if _, err := software.Generate(t.Context(), "records", providers.AES256); err != nil {
		t.Fatal(err)
	}
	for _, each := range []time.Duration{10 * time.Millisecond, time.Millisecond, 10 * time.Microsecond} {
		synctest.Test(t, func(t *testing.T) {
			p := &slowProvider{Provider: software, each: each, turn: make(chan struct{}, 1)}
			a := newAgent(t, func(c *Config) { c.Provider, c.RecordKey = p, "records" })
			found := make([]*candidate, 2000)
			for n := range found {
				found[n] = &candidate{identity: fmt.Sprint(n), keys: make([]byte, 64)}
			}
			if err := a.sealRecords(t.Context(), found); err != nil {
				t.Fatal(err)
			}
			if p.longest > 1300*time.Millisecond {
				t.Errorf("%v each: a batch took %v", each, p.longest)
			}
			if fast := len(found)/providers.MaxBatch + 3*sealingBatches; each < time.Millisecond && p.batches > fast {
				t.Errorf("%v each: %d batches, not up to %d", each, p.batches, fast)
			}
			t.Logf("%v each: %d batches, the longest %v", each, p.batches, p.longest)
		})
	}
}
