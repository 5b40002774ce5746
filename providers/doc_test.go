// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDoc compiles the provider of docs/providers.md.
func TestDoc(t *testing.T) {
	text, err := os.ReadFile("../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```go\n")
	code, _, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 || !strings.Contains(code, "providers.Serve") {
		t.Fatal("the document has no provider")
	}
	path := filepath.Join(t.TempDir(), "main.go")
	program := "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\n\t\"github.com/mslkeep/mslkeep/plugin\"\n\t\"github.com/mslkeep/mslkeep/providers\"\n)\n\n" +
		code + "\nfunc open(string) (providers.Provider, error) { return nil, nil }\n"
	if err := os.WriteFile(path, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
