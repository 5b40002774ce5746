// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestRecordKeyInHSM: with the wrapping key in an HSM, which another process rotates, records are imported, used and sealed
// anew.
func TestRecordKeyInHSM(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	w.write("server/agent.toml", "record-key = \"hsm:records\"\npsk-prefix = \"other/\"\n"+w.read("server/agent.toml"))
	w.write("device-1/agent.toml", w.read("device-1/agent.toml")+"psk-prefix = \"other/\"\n")
	execute(t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(t)
	w.write("server/serve.toml", w.read("server/serve.toml")+"[entities]\ndatabase = \"sqlite:entities.db\"\n")
	w.enrol("device-1", "device-1")
	const bulk = 3000
	var lines strings.Builder
	for i := range bulk {
		lines.WriteString(lineOf("csv", fmt.Sprintf("bulk-%05d", i), newPSK()))
	}
	all := decoded[imported](t, w.entities(lines.String(), "import", "-").ok(t))
	t.Logf("%.0f records in a second", all.PerSecond)
	s := w.serve()
	w.send("device-1", s, "hello").ok(t)
	w.daemon("server", "--manage") // which uses the old version until it is rotated
	for version := 2; version <= 3; version++ {
		w.mslkeep("keys", "rotate", "--agent-config", w.path("server/agent.toml"), "hsm:records").ok(t)
		if again := decoded[rewrapped](t, w.entities("", "rewrap").ok(t)); again.Sealed != bulk+1 {
			t.Errorf("to version %d: %+v", version, again)
		}
		for _, l := range decoded[[]listed](t, w.entities("", "list").ok(t)) {
			if l.Version != uint32(version) {
				t.Fatalf("after the rewrap to version %d: %+v", version, l)
			}
		}
		w.send("device-1", s, "hello").ok(t)
	}
}
