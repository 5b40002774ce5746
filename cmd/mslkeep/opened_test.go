// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/agent"
)

// TestTokensOpened: keys list shows that an old version of the token keys still opens tokens, after a rotation and a new
// start of the agent.
func TestTokensOpened(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.daemon("server", "--manage")
	s := w.serve()
	send := func(store string) {
		t.Helper()
		w.send("device-1", s, "--store", w.path(store), "hello").ok(t)
	}
	keys := func(args ...string) result {
		return w.mslkeep(append([]string{"keys"}, append(args, "--config", w.path("server/serve.toml"), "token-keys")...)...)
	}
	opened := func() (counts [3]uint64) {
		t.Helper()
		for _, k := range decoded[[]agent.Key](t, keys("list", "--json").ok(t)) {
			if k.Name == "token-keys.mac" {
				counts[k.Version] = k.Opened
			}
		}
		return counts
	}
	send("old")
	keys("rotate").ok(t)
	send("new")
	if got := opened(); got != [3]uint64{} {
		t.Errorf("an agent has opened %v of the tokens that it has issued itself", got)
	}
	first.kill()
	w.daemon("server", "--manage")
	send("old")
	send("old")
	if got := opened(); got != [3]uint64{1: 1} {
		t.Errorf("opened %v, not one token of version 1", got)
	}
	send("new")
	if got := opened(); got != [3]uint64{1: 1, 2: 1} {
		t.Errorf("opened %v, not one token of each version", got)
	}
	if out := keys("list").ok(t); !strings.Contains(out, "TOKENS") {
		t.Error(out)
	}
}
