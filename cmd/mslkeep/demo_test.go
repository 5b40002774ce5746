// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// TestDemo runs the main job: the demo succeeds, and says that it has found no key where none may be.
// Then a process that does hold one of its keys is searched in the same way, and shows it.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := newWorld(t).path("kept")
	out := execute(t.Context(), nil, "mslkeep", "demo", "--keep", dir).ok(t)

	lastLine := regexp.MustCompile(`(?m)^(\d+) keys looked for; (\d+) found in the protocol processes, (\d+) in the agents\.$`)
	n := lastLine.FindStringSubmatch(out)
	if n == nil || n[1] == "0" || n[2] != "0" || n[3] == "0" {
		t.Errorf("its last line is %q", n)
	}
	rows := regexp.MustCompile(`(?m)^  (.+?) +process +\d+: (\d+) keys(?: +agent +\d+: +(\d+) keys .*)?$`).FindAllStringSubmatch(out, -1)
	if len(rows) != 5 {
		t.Errorf("it has searched %d protocol processes", len(rows))
	}
	for _, r := range rows {
		if r[2] != "0" || r[3] == "0" || r[3] == "" && r[1] != "this demo" {
			t.Errorf("%q", r)
		}
	}
	if strings.Count(out, "\n") > 25 {
		t.Errorf("more than a screenful:\n%s", out)
	}

	log := filepath.Join(dir, "device-1", "key.log")
	for _, c := range []struct {
		holds string
		want  bool
	}{{log, true}, {os.DevNull, false}} {
		pid := startHolder(t, c.holds)
		out := execute(t.Context(), nil, "mslkeep-scan", "--json", "--keys", log, "--process", fmt.Sprintf("holder=%d", pid)).ok(t)
		s := decoded[struct{ Processes []found }](t, out)
		if len(s.Processes) != 1 || (s.Processes[0].Found > 0) != c.want {
			t.Errorf("a process that holds a key of %s: found %+v", c.holds, s.Processes)
		}
	}
}

// startHolder starts a process that holds the first key of a log, and returns its id.
func startHolder(t *testing.T, log string) int {
	t.Helper()
	p := start(t, func(cmd *exec.Cmd) {
		cmd.Path, cmd.Err = os.Args[0], nil
		cmd.Env = append(os.Environ(), holdKey+"="+log)
	}, "")
	if line, err := p.out.ReadString('\n'); err != nil || line != "holding\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return p.pid()
}

// hold holds the first key of a key log until standard input ends.
func hold(path string) {
	log, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	line, _, _ := bytes.Cut(log, []byte("\n"))
	_, text, _ := bytes.Cut(line, []byte(" "))
	key, err := hex.DecodeString(string(text))
	if err != nil {
		panic(err)
	}
	clear(log)
	fmt.Println("holding")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(key)
}
