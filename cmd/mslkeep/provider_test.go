// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestProviderCommand: the agent's binary does the work.
func TestProviderCommand(t *testing.T) {
	w := newWorld(t)
	section := w.mslkeep("provider", "hash", filepath.Join(binaries, "mslkeep-agent")).ok(t)
	if !strings.Contains(section, "[[providers]]") || strings.Count(section, "\n") != 4 {
		t.Errorf("hash printed %q", section)
	}
	if out := w.mslkeep("provider", "check", "--config", w.path("server/serve.toml")).ok(t); out != "" {
		t.Errorf("check found %q where there is no provider", out)
	}
	// The agent is no provider: it wants a configuration of its own.
	w.write("server/agent.toml", w.read("server/agent.toml")+"\n"+strings.Replace(section, `name = ""`, `name = "none"`, 1))
	if out := w.mslkeep("provider", "list", "--agent-config", w.path("server/agent.toml")).ok(t); !strings.HasPrefix(out, "none\t") {
		t.Errorf("list printed %q", out)
	}
	r := w.mslkeep("provider", "check", "--agent-config", w.path("server/agent.toml"))
	if r.code != exitFailure || !strings.Contains(r.out, "none: FAILED: ") || !strings.Contains(r.out, "--config is missing") {
		t.Errorf("check of a binary that is no provider: %+v", r)
	}
	w.mslkeep("serve", "--config", w.path("server/serve.toml")).oneLine(t, exitAgent, "provider none", "provider check")
	for _, args := range [][]string{{}, {"fly", "--agent-config", "x"}, {"hash"}, {"check"}, {"list", "x", "--agent-config", "y"}} {
		w.mslkeep(append([]string{"provider"}, args...)...).oneLine(t, exitUsage)
	}
}
