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
		want := 2 * (total/providers.MaxBatch + 1)
		if rotations == 0 {
			want = 1 // the one that cannot be opened
		}
		if len(keys.batches) != want {
			t.Errorf("%d batches, not %d", len(keys.batches), want)
		}
	}
	if _, err := entityFrom(newPeer(t, a), "withdrawn", records["withdrawn"]); codeOf(err) != wire.VerificationFailed {
		t.Errorf("under a version that is withdrawn: %v", err)
	}
}
