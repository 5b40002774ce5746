// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTPMDocument runs the commands with which docs/tpm.md leads to a device's first message, as they stand there, but for ports.
func TestTPMDocument(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (apt-get install swtpm)")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "tpm.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("trap 'kill $(jobs -p); wait' EXIT\n")
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	for _, block := range blocks {
		script.WriteString(block[1])
	}
	if n := len(blocks); n != 9 {
		t.Errorf("%d blocks of commands", n)
	}
	commands := script.String()
	for port, example := range map[string]string{":8080": "--example | sed", ":8090": ""} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, free, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		commands = strings.ReplaceAll(commands, port, ":"+free)
		if example != "" {
			commands = strings.ReplaceAll(commands, example, example+" s/"+port+"/:"+free+"/ | sed")
		}
	}
	// A person does not type the next command before the last one is ready.
	for end, wait := range map[string]string{"startup-clear &\n": "until [ -S chip/server ]; do sleep 0.01; done\n",
		"serve.toml &\n": "until grep -q http out; do sleep 0.01; done\n", "endorsement-keys &\n": "until grep -q enrolling out; do sleep 0.01; done\n"} {
		commands = strings.ReplaceAll(commands, end, strings.Replace(end, "&", "> out &", 1)+wait)
	}
	dir, err := os.MkdirTemp("", "tpm") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", commands)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"tpm: lockout: 0 wrong", "tpm: counter: beside storage", "tpm: algorithms: RSA"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %q in:\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`(?s)"key_exchange": true.*"key_exchange": false`).Match(out) {
		t.Errorf("the session was not kept:\n%s", out)
	}
	if regexp.MustCompile(`(?m)^problem `).Match(out) {
		t.Errorf("doctor found problems:\n%s", out)
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", out)
	}
}
