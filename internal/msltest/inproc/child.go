// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/mslkeep/mslkeep/agent"
)

// agentBinary builds mslkeep-agent once for the process.
var agentBinary = sync.OnceValues(func() (b [2]string, err error) {
	dir, err := os.MkdirTemp("", "mslkeep-agent")
	if err != nil {
		return b, err
	}
	built.dir = dir
	b[0] = filepath.Join(dir, "mslkeep-agent")
	build := exec.Command("go", "build", "-o", b[0], "github.com/mslkeep/mslkeep/cmd/mslkeep-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return b, fmt.Errorf("building the agent: %w: %s", err, out)
	}
	data, err := os.ReadFile(b[0])
	sum := sha256.Sum256(data)
	b[1] = hex.EncodeToString(sum[:])
	return b, err
})

// RemoveBinaries removes what AgentBinary has built, when all tests are done.
func RemoveBinaries() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

// built is where the agent is, if it was built.
var built struct{ dir string }

// AgentBinary returns the path of an mslkeep-agent built from this tree, and its SHA-256.
func AgentBinary(t testing.TB) (path, sum string) {
	t.Helper()
	b, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b[0], b[1]
}

// Child starts an agent as a process of its own, with the keys of the vectors. It ends with the test.
func Child(t testing.TB) *agent.Client {
	t.Helper()
	path, sum := AgentBinary(t)
	file, err := keyFile()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"keys": file[0], "unlock": file[1],
		"agent.toml": []byte("keys = \"keys\"\nkey-source = \"file:unlock\"\ntoken-keys = \"msl\"\nstorage-key = \"storage\"\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := agent.Start(t.Context(), agent.Config{Path: path, SHA256: sum, Args: []string{"--config", filepath.Join(dir, "agent.toml")}, Log: os.Stderr, Env: []string{"GOMAXPROCS", "GOGC"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
