// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	opToken = "using a PKCS #11 token"
	// quickPace is how long an operation of a token takes at most that gains nothing from several sessions at once:
	// one in software, whose threads wait for each other. A device that is asked over a bus or a network takes longer.
	quickPace = 100 * time.Microsecond
	// laneTime is how long batches wait for those before them, which take some milliseconds unless one hangs.
	laneTime = 50 * time.Millisecond
)

// A lent session is in the context of what its worker does with it, several operations one after the other.
type lent struct{}

// Do does a batch with one session.
func (p *Provider) Do(ctx context.Context, ops []providers.Operation, stop bool) []providers.Result {
	return p.DoMany(ctx, []providers.Batch{{Ops: ops, Stop: stop}})[0]
}

// DoMany does batches: one after the other with one session if the token is quick, and else at once.
func (p *Provider) DoMany(ctx context.Context, batches []providers.Batch) [][]providers.Result {
	quick := areQuick(batches)
	if quick && time.Duration(p.pace.Load()) < quickPace && p.enterLane(ctx) {
		defer func() { <-p.lane }()
		return p.inTurn(ctx, batches, true)
	}
	results := make([][]providers.Result, len(batches))
	var all sync.WaitGroup
	for i := range batches {
		all.Go(func() { results[i] = p.inTurn(ctx, batches[i:i+1], quick)[0] })
	}
	all.Wait()
	return results
}

// areQuick tells whether all is done with AES and HMAC keys.
func areQuick(batches []providers.Batch) bool {
	for _, b := range batches {
		for i := range b.Ops {
			switch b.Ops[i].Op {
			case providers.OpEncrypt, providers.OpDecrypt, providers.OpMAC, providers.OpVerifyMAC:
			default:
				return false
			}
		}
	}
	return true
}

// enterLane waits until the batches before are done. It reports false if it took too long, or ctx has ended.
func (p *Provider) enterLane(ctx context.Context) bool {
	select {
	case p.lane <- struct{}{}:
		return true
	default:
	}
	late := time.NewTimer(laneTime)
	defer late.Stop()
	select {
	case p.lane <- struct{}{}:
		return true
	case <-late.C:
		p.pace.Store(int64(quickPace)) // so that fewer wait for what may be hanging
		return false
	case <-ctx.Done():
		return false
	}
}

// inTurn does batches with one session.
func (p *Provider) inTurn(ctx context.Context, batches []providers.Batch, measured bool) [][]providers.Result {
	keys := p.openAll(ctx, batches)
	mine, memory := copied(batches)
	var results [][]providers.Result
	err := p.wait(ctx, &job{ctx: ctx, done: make(chan error, 1), run: func(*session) error { return nil }, then: func(s *session) {
		ctx, began, n := context.WithValue(ctx, lent{}, s), time.Now(), 0
		for _, b := range mine {
			r := providers.Do(ctx, keys, b.Ops, b.Stop)
			results = append(results, r)
			n += len(r)
		}
		secret.Wipe(memory)
		if measured && n > 0 {
			p.pace.Store((7*p.pace.Load() + int64(time.Since(began))/int64(n)) / 8)
		}
	}})
	if err != nil { // then results may be in use yet
		return failed(batches, err)
	}
	return results
}

// own copies what a use reads that may go on after its caller has given up. What is in a batch was copied already.
func own(ctx context.Context, b []byte) []byte {
	if _, inBatch := ctx.Value(lent{}).(*session); inBatch {
		return b
	}
	return bytes.Clone(b)
}

// copied copies batches, and returns the memory of what they hold: what is still done for somebody who has given up reads
// nothing of his.
func copied(batches []providers.Batch) (mine []providers.Batch, memory []byte) {
	n, size := 0, 0
	for _, b := range batches {
		n += len(b.Ops)
		for i := range b.Ops {
			o := &b.Ops[i]
			size += len(o.IV) + len(o.Input) + len(o.AAD) + len(o.MAC)
		}
	}
	mine, memory = slices.Clone(batches), make([]byte, 0, size)
	ops := make([]providers.Operation, 0, n)
	for i := range mine {
		begin := len(ops)
		ops = append(ops, mine[i].Ops...)
		mine[i].Ops = ops[begin:]
		for j := range mine[i].Ops {
			o := &mine[i].Ops[j]
			for _, field := range []*[]byte{&o.IV, &o.Input, &o.AAD, &o.MAC} {
				memory = append(memory, *field...)
				*field = memory[len(memory)-len(*field) : len(memory) : len(memory)]
			}
		}
	}
	return mine, memory
}

// An opening is what came of opening a key.
type opening struct {
	key providers.Key
	err error
}

// A keyring has opened its keys already: who has a session must not wait for others to look for one.
type keyring struct {
	*single
	opened map[string]map[uint32]opening // by name and version
}

// single hides that a Provider does batches.
type single struct {
	providers.Provider
	providers.Randomer
}

// openAll opens the keys of batches.
func (p *Provider) openAll(ctx context.Context, batches []providers.Batch) keyring {
	r := keyring{&single{p, p}, make(map[string]map[uint32]opening)}
	for _, b := range batches {
		for i := range b.Ops {
			o := &b.Ops[i]
			versions := r.opened[o.Key]
			if _, done := versions[o.Version]; done || o.Op == providers.OpRandom {
				continue
			}
			if versions == nil {
				versions = make(map[uint32]opening)
				r.opened[o.Key] = versions
			}
			k, err := p.Open(ctx, o.Key, o.Version)
			versions[o.Version] = opening{k, err}
		}
	}
	return r
}

// Open returns a key that was opened.
func (r keyring) Open(_ context.Context, name string, version uint32) (providers.Key, error) {
	o := r.opened[name][version]
	return o.key, o.err
}

// failed is the result of batches that may not have been begun.
func failed(batches []providers.Batch, err error) [][]providers.Result {
	err = coded(opToken, err, useOther)
	results := make([][]providers.Result, len(batches))
	for i, b := range batches {
		results[i] = slices.Repeat([]providers.Result{{Err: err}}, len(b.Ops))
		if b.Stop {
			results[i] = results[i][:min(1, len(b.Ops))]
		}
	}
	return results
}
