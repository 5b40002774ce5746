// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestTPMDocument runs the commands with which docs/tpm.md leads to a device's first message. The second one has the first
// one's session.
func TestTPMDocument(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (apt-get install swtpm)")
	}
	script := strings.Join(blocksOf(t, "docs/tpm.md", 9), "")
	for _, port := range []string{"8080", "8090"} {
		script = onFreePort(t, script, port)
	}
	script = whenReady(script, "startup-clear", "[ -S chip/server ]")
	script = whenReady(script, "serve.toml", serves)
	script = whenReady(script, "endorsement-keys", "grep -q enrolling out.endorsement-keys")
	dir, err := os.MkdirTemp("", "tpm") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	runScript(t, dir, script, nil,
		"tpm: lockout: 0 wrong", "tpm: counter: beside storage", "tpm: algorithms: RSA", `(?s)"key_exchange": true.*"key_exchange": false`)
}
