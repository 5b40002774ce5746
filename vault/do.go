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
	for i := range ops {
		wg.Go(func() { results[i] = providers.Do(ctx, each, ops[i:i+1], false)[0] })
	}
	wg.Wait()
	return results
}
