// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	// sealingBatches is how many batches of operations go to the provider at once, when many records are sealed.
	sealingBatches = 8
	// sealingPatience is how long that waits for a provider that is away or busy, so that a long work need not be begun
	// again. It is less than a request may take.
	sealingPatience = 15 * time.Second
	// sealingTime is how long a batch is to take at most: much less than the time after which a provider is killed.
	sealingTime = 200 * time.Millisecond
	// firstBatch is how many operations the first batches have.
	firstBatch = 8
)

// A batchSize is how many operations a batch has, which depends on how fast the provider is: some do a hundred thousand
// in a second, some a hundred.
type batchSize struct {
	mu sync.Mutex
	n  int
}

func (b *batchSize) now() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// took learns how long a batch of a size took.
func (b *batchSize) took(size int, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case d > sealingTime:
		b.n = min(b.n, max(size/2, 1))
	case d < sealingTime/4 && size >= b.n: // not the rest at an end
		b.n = min(2*size, providers.MaxBatch)
	}
}

// newestWrappingKey opens the version of the wrapping key that is the newest now. What a provider remembers of its keys may be
// older than a rotation by another process, but a version that it does not know it looks for.
func (a *Agent) newestWrappingKey(ctx context.Context) (key *storageKey, format byte, err error) {
	err = patiently(ctx, func() (err error) {
		if key, _, err = a.wrappingKey(ctx, 0); err != nil {
			return err
		}
		if _, _, err = a.wrappingKey(ctx, key.Info().Version+1); err != nil && codeOf(err) != wire.NoSuchKey {
			return err
		}
		key, format, err = a.wrappingKey(ctx, 0)
		return err
	})
	return key, format, err
}

// sealRecords makes the records of entities, under the newest version of the wrapping key.
func (a *Agent) sealRecords(ctx context.Context, found []*candidate) error {
	if len(found) == 0 {
		return nil
	}
	key, format, err := a.newestWrappingKey(ctx)
	if err != nil {
		return err
	}
	return a.sealUnder(ctx, key, format, found)
}

// sealUnder is sealRecords for one version.
func (a *Agent) sealUnder(ctx context.Context, key *storageKey, format byte, found []*candidate) error {
	plain := make([]byte, 0, len(found)*recordSize()) // it does not grow, so there are no copies
	defer func() { secret.Wipe(plain) }()
	ops := make([]providers.Operation, len(found))
	for n, c := range found {
		ops[n], c.record = a.sealing(key, format, c.identity, c.keys, &plain)
	}
	key.uses.Add(uint64(len(ops)))
	for n, r := range a.doMany(ctx, ops) {
		if r.Err != nil {
			return r.Err
		}
		found[n].record = append(found[n].record, r.Output...)
	}
	return nil
}

// doMany does operations in the provider, many at once.
func (a *Agent) doMany(ctx context.Context, ops []providers.Operation) []providers.Result {
	results := make([]providers.Result, len(ops))
	var mu sync.Mutex
	taken := 0
	take := func() (from, to int) {
		mu.Lock()
		defer mu.Unlock()
		from = taken
		taken = min(taken+a.batches.now(), len(ops))
		return from, taken
	}
	var wg sync.WaitGroup
	for range min(sealingBatches, len(ops)) {
		wg.Go(func() {
			for from, to := take(); from < to; from, to = take() {
				began := time.Now()
				a.doPatiently(ctx, ops[from:to], results[from:to])
				a.batches.took(to-from, time.Since(began))
			}
		})
	}
	wg.Wait()
	return results
}

// doPatiently does a batch, and again what fails for the moment.
func (a *Agent) doPatiently(ctx context.Context, ops []providers.Operation, results []providers.Result) {
	left := make([]int, len(ops))
	for n := range left {
		left[n] = n
	}
	_ = patiently(ctx, func() (err error) {
		batch := make([]providers.Operation, len(left))
		for i, n := range left {
			batch[i] = ops[n]
			results[n] = providers.Result{Err: &fault{code: wire.Device, number: noNumber, what: "reading the results of a batch"}}
		}
		var again []int
		for i, r := range providers.Do(ctx, a.provider, batch, false) {
			if results[left[i]] = r; codeOf(r.Err) == wire.Transient {
				again, err = append(again, left[i]), r.Err
			}
		}
		left = again
		return err
	})
}

// patiently calls do again while its failure is transient, for some time.
func patiently(ctx context.Context, do func() error) error {
	end := time.Now().Add(sealingPatience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := do()
		if codeOf(err) != wire.Transient || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// rewrap seals records under the newest version of the wrapping key. Those that have it already stay as they are.
func (a *Agent) rewrap(ctx context.Context, r *wire.RewrapRequest) (*wire.RewrapReply, error) {
	if len(r.Entities) > maxImportBatch {
		return nil, malformed(noNumber, "sealing so many records at once")
	}
	key, format, err := a.newestWrappingKey(ctx)
	if err != nil {
		return nil, err
	}
	out := &wire.RewrapReply{Entities: make([]wire.Entity, len(r.Entities))}
	var old []int
	for n, e := range r.Entities {
		out.Entities[n].Identity = strings.Clone(e.Identity)
		if head, _ := recordHead(format, a.cfg.RecordKey, key.Info().Version, e.Identity); bytes.HasPrefix(e.Record, head) {
			out.Entities[n].Record = bytes.Clone(e.Record)
		} else {
			old = append(old, n)
		}
	}
	found, err := a.unsealRecords(ctx, r.Entities, old)
	defer func() {
		for _, c := range found {
			secret.Wipe(c.keys)
		}
	}()
	if err == nil {
		err = a.sealUnder(ctx, key, format, found)
	}
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		out.Entities[c.line].Record = c.record
	}
	return out, nil
}

// unsealRecords opens some of the records of entities, and leaves out those that cannot be opened. The line of what it
// returns is the number of the entity. The caller wipes the keys, also with an error.
func (a *Agent) unsealRecords(ctx context.Context, all []wire.Entity, some []int) (found []*candidate, err error) {
	formats := make(map[uint32]byte) // by version of the wrapping key; 0: it is gone
	var ops []providers.Operation
	for _, n := range some {
		e := &all[n]
		op, format, err := a.unsealing(e.Identity, e.Record)
		if err != nil {
			continue
		}
		can, known := formats[op.Version]
		if !known {
			err := patiently(ctx, func() (err error) {
				_, can, err = a.wrappingKey(ctx, op.Version)
				return err
			})
			if err != nil && codeOf(err) != wire.NoSuchKey {
				return nil, err
			}
			formats[op.Version] = can
		}
		if can == format {
			a.usesOf(a.cfg.RecordKey, op.Version).Add(1)
			ops, found = append(ops, op), append(found, &candidate{line: uint64(n), identity: e.Identity})
		}
	}
	results := a.doMany(ctx, ops)
	good := found[:0]
	for n, r := range results {
		switch codeOf(r.Err) {
		case 0:
			c, ok := found[n], false
			if c.keys, ok = joinKeys(r.Output); ok {
				good = append(good, c)
			}
			secret.Wipe(r.Output)
		case wire.VerificationFailed, wire.NoSuchKey:
		default:
			err = r.Err
		}
	}
	return good, err
}

// joinKeys returns the keys of a record's plaintext as Kenc || Khmac || Kwrap.
func joinKeys(plain []byte) (keys []byte, ok bool) {
	keys = make([]byte, 0, len(plain))
	for _, m := range keySetMembers {
		key, rest, ok := cutKey(plain)
		if !ok || len(key) != m.size {
			secret.Wipe(keys)
			return nil, false
		}
		keys, plain = append(keys, key...), rest
	}
	return keys, true
}
