// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"sync"

	"github.com/mslkeep/mslkeep/providers"
)

// single is a provider that does one operation after the other.
type single struct {
	providers.Provider
	providers.Randomer
}

// Do does operations at the same time, so that those of one key go in one request, unless the first that fails is to
// be the last.
func (p *Provider) Do(ctx context.Context, ops []providers.Operation, stop bool) []providers.Result {
	each := single{p, p}
	if stop || len(ops) < 2 {
		return providers.Do(ctx, each, ops, stop)
	}
	results := make([]providers.Result, len(ops))
	var wg sync.WaitGroup
	for rest := results; len(ops) > 0; {
		n := alike(ops)
		some, out := ops[:n], rest[:n]
		ops, rest = ops[n:], rest[n:]
		wg.Go(func() {
			if !p.doAlike(ctx, some, out) {
				copy(out, providers.Do(ctx, each, some, false))
			}
		})
	}
	wg.Wait()
	return results
}

// alike tells how many operations at the beginning encrypt, or decrypt, with one version of a key. It is at least 1.
func alike(ops []providers.Operation) int {
	first := &ops[0]
	n := 1
	if first.Op != providers.OpEncrypt && first.Op != providers.OpDecrypt {
		return n
	}
	for n < len(ops) && ops[n].Op == first.Op && ops[n].Key == first.Key && ops[n].Version == first.Version {
		n++
	}
	return n
}

// doAlike does such operations together. It does nothing, and returns false, if they are not for a key that encrypts in Vault.
func (p *Provider) doAlike(ctx context.Context, ops []providers.Operation, results []providers.Result) bool {
	if len(ops) == 1 || p.isWrapped(ops[0].Key) {
		return false
	}
	key, err := p.Open(ctx, ops[0].Key, ops[0].Version)
	k, ok := key.(*aeadKey)
	switch {
	case err != nil:
		for n := range results {
			results[n].Err = err
		}
	case ok:
		k.doAll(ctx, ops, results)
	}
	return err != nil || ok
}

// doAll encrypts, or decrypts, with what goes in one request as far as it fits.
func (k *aeadKey) doAll(ctx context.Context, ops []providers.Operation, results []providers.Result) {
	op, endpoint, opens := "encrypting", "encrypt", ops[0].Op == providers.OpDecrypt
	if opens {
		op, endpoint = "decrypting", "decrypt"
	}
	bodies, sizes, which := make([][]byte, 0, len(ops)), make([]int, 0, len(ops)), make([]*providers.Result, 0, len(ops))
	for n := range ops {
		o, r := &ops[n], &results[n]
		var body []byte
		var size int
		i, err := k.begin(ctx, op, o.Mechanism, o.IV, len(o.Input)+len(o.AAD))
		switch {
		case err != nil:
		case opens:
			body, size, err = k.decryption(ctx, op, i, o.Input, o.AAD)
		default:
			body, err = encryption(op, i, k.info.Version, o.Input, o.AAD)
		}
		if r.Err = err; err == nil {
			bodies, sizes, which = append(bodies, body), append(sizes, size), append(which, r)
		}
	}
	for n, i := range k.queue(op, []string{endpoint}, partialIsGood).do(ctx, bodies) {
		r := which[n]
		switch r.Err = k.judge(op, opens, i); {
		case r.Err != nil:
		case opens:
			r.Output, r.Err = decrypted(op, sizes[n], &i.outcome)
		default:
			r.Output, r.Err = encrypted(op, k.info.Version, &i.outcome)
		}
	}
}
