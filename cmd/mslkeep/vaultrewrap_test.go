// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// newVaultRecordWorld is recordWorld with the wrapping key in Vault. The agent, which manages keys, is a process of its own.
func newVaultRecordWorld(t *testing.T) (*world, *vaulttest.Server, *process) {
	t.Helper()
	v := newVault(t)
	v.Do("POST", "sys/mounts/transit", `{"type":"transit"}`, nil)
	v.Do("POST", "transit/keys/entities", `{"type":"aes256-gcm96"}`, nil)
	w := emptyRecordWorld(t, "sqlite:entities.db")
	w.edit("server/agent.toml", `record-key = "records"`, `record-key = "vault:entities"`)
	section := w.mslkeep("provider", "hash", "--name", "vault", filepath.Join(binaries, "mslkeep-provider-vault")).ok(t)
	w.write("token", v.Token+"\n")
	w.write("server/agent.toml", w.read("server/agent.toml")+section+fmt.Sprintf(`[providers.settings]
address = %q
ca = %q
keys = { entities = "aes-256" }
[providers.settings.auth]
method = "token"
token = "file:%s"
`, v.Address, v.CA, w.path("token")))
	w.enrol("device-1", "device-1")
	return w, v, w.daemon("server", "--manage")
}

// TestVaultRewrap: a rewrap that begins right after somebody else has rotated the key seals everything anew, so that the old
// version can be withdrawn at once, while clients begin sessions all the time, through the same agent, which has used the
// old version a moment ago. A record that was changed is told, and hinders none.
func TestVaultRewrap(t *testing.T) {
	t.Parallel()
	w, v, _ := newVaultRecordWorld(t)
	const bulk = 3000
	var lines strings.Builder
	for i := range bulk {
		lines.WriteString(lineOf("csv", fmt.Sprintf("bulk-%05d", i), newPSK()))
	}
	w.write("many", lines.String())
	w.entities("", "import", w.path("many")).ok(t)
	s := w.serve()
	var stop atomic.Bool
	var sent atomic.Int64
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for !stop.Load() {
				if r := w.send("device-1", s, "--count", "4", "--concurrency", "2", "--key-exchange", "JWE_LADDER/PSK", "--json", "hello"); r.code != 0 {
					t.Error(r.err + r.out)
					return
				}
				sent.Add(4)
			}
		})
	}
	for version := 2; version <= 4; version++ {
		at := sent.Load()
		eventually(t, patience, "messages are sent", func() bool { return sent.Load() > at || t.Failed() })
		v.Do("POST", "transit/keys/entities/rotate", "{}", nil)
		if all := decoded[rewrapped](t, w.entities("", "rewrap").ok(t)); all.Sealed != bulk+1 || all.Newest != 0 || all.Changed != 0 {
			t.Errorf("version %d: %+v", version, all)
		}
		v.Do("POST", "transit/keys/entities/config", fmt.Sprintf(`{"min_decryption_version":%d}`, version), nil)
		for _, l := range decoded[[]listed](t, w.entities("", "list").ok(t)) {
			if l.Version != uint32(version) || l.Key != "vault:entities" {
				t.Fatalf("after the rewrap to version %d: %+v", version, l)
			}
		}
	}
	at := sent.Load()
	eventually(t, patience, "messages are sent", func() bool { return sent.Load() > at || t.Failed() })
	stop.Store(true)
	clients.Wait()

	// What is under a version that is withdrawn is as if it were gone; others are not hindered.
	old := w.entities("", "export").ok(t)
	v.Do("POST", "transit/keys/entities/rotate", "{}", nil)
	w.entities("", "rewrap").ok(t)
	v.Do("POST", "transit/keys/entities/config", `{"min_decryption_version":5}`, nil)
	var kept []string
	for line := range strings.Lines(old) {
		if strings.Contains(line, `"bulk-00007"`) {
			kept = append(kept, line)
		}
	}
	w.entities(strings.Join(kept, ""), "import", "--records", "-").ok(t)
	r := w.entities("", "rewrap")
	if all := decoded[rewrapped](t, r.out); r.code != exitFailure || !slices.Equal(all.First, []string{"bulk-00007"}) || all.Newest != bulk {
		t.Errorf("%+v, %s", all, r.err)
	}
	w.send("device-1", s, "hello").ok(t)
}

// TestVaultImportKilled: an import whose keys Vault wraps is killed in the middle, goes on where it was, and what it has
// made opens. The keys are in the agent only.
func TestVaultImportKilled(t *testing.T) {
	t.Parallel()
	w, v, agent := newVaultRecordWorld(t)
	const many = 60_000
	var lines, keys strings.Builder
	for i := range many {
		key := newPSK()
		lines.WriteString(lineOf("csv", fmt.Sprintf("bulk-%05d", i), key))
		fmt.Fprintf(&keys, "%d %s\n", i, key)
	}
	w.write("many", lines.String())
	w.write("sought", keys.String())
	args := []string{"entities", "import", "--config", w.path("server/serve.toml"), "--json", w.path("many")}
	kills := 0
	for range 2 {
		had := w.count()
		p := start(t, nil, "mslkeep", args...)
		eventually(t, patience, "something is imported", func() bool { return w.count() > had })
		if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		out := execute(t.Context(), nil, "mslkeep-scan", "--json", "--keys", w.path("sought"),
			"--process", fmt.Sprintf("import=%d", p.pid()), "--process", fmt.Sprintf("agent=%d", agent.pid())).ok(t)
		scan := decoded[struct{ Processes []struct{ Found int } }](t, out)
		if len(scan.Processes) != 2 || scan.Processes[0].Found != 0 || scan.Processes[1].Found == 0 {
			t.Errorf("of the keys of the file, so many are in the process that imports, and in the agent: %+v", scan)
		}
		if p.kill(); w.count() < many {
			kills++
		}
	}
	if kills == 0 {
		t.Error("it was never killed in the middle")
	}
	all := decoded[imported](t, w.mslkeep(args...).ok(t))
	if n := w.count(); n != many+1 || all.From == 1 || all.Imported >= many {
		t.Errorf("%d entities, %+v", n, all)
	}
	v.Do("POST", "transit/keys/entities/rotate", "{}", nil)
	if all := decoded[rewrapped](t, w.entities("", "rewrap").ok(t)); all.Sealed != many+1 {
		t.Errorf("%+v", all)
	}
}
