// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package deps

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// restricted are the packages of which nothing is in the protocol process's binary.
var restricted = []string{
	"internal/custody", "internal/jose", "internal/secret", "internal/aeskw", "internal/memscan", "providers", "providers/internal/pb", "providers/software",
}

// TestSymbols: no function, variable or type of a restricted package is in the built mslkeep. All of them
// are somewhere in the other two binaries, so the test sees what it looks for.
func TestSymbols(t *testing.T) {
	openFolders(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", dir, module+"cmd/mslkeep", module+"cmd/mslkeep-agent", module+"cmd/mslkeep-scan")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	symbols := func(binary string) string {
		out, err := exec.Command("go", "tool", "nm", filepath.Join(dir, binary)).Output()
		if err != nil {
			t.Fatalf("go tool nm %s: %v", binary, err)
		}
		return string(out)
	}
	protocol, others := symbols("mslkeep"), symbols("mslkeep-agent")+symbols("mslkeep-scan")
	for _, p := range restricted {
		if i := strings.Index(protocol, module+p+"."); i >= 0 {
			line, _, _ := strings.Cut(protocol[i:], "\n")
			t.Errorf("mslkeep contains %s", line)
		}
		if !strings.Contains(others, module+p+".") {
			t.Errorf("the test does not see the symbols of %s in the agent", p)
		}
	}
	for _, p := range []string{"msl", "agent"} {
		if !strings.Contains(protocol, module+p+".") {
			t.Errorf("the test does not see the symbols of %s in mslkeep", p)
		}
	}
}
