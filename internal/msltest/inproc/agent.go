// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"testing"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// Agent returns an agent in this process, without frames in between, with all keys of the vectors.
func Agent(t testing.TB) *agent.Client { return withKeys(t, nil) }

func withKeys(t testing.TB, extra map[string]KeySet) *agent.Client {
	p := newEngine(t, extra).NewPeer()
	t.Cleanup(p.Close)
	return agent.New(wire.Direct{Handler: p})
}
