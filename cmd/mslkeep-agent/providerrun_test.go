// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestProviderRun: a command of a provider's own gets its settings, and what it says at its end is the error.
func TestProviderRun(t *testing.T) {
	t.Chdir(t.TempDir()) // where tee writes
	config := func(program, more string) string {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(t.Context(), []string{"provider", "hash", path, "--name", "vault"}, &out); err != nil {
			t.Fatal(err)
		}
		return configured(t, out.String()+more)
	}
	provider := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"provider"}, args...), &out)
		return out.String(), err
	}
	for _, command := range []string{"policy", "check-policy"} {
		for more, want := range map[string]string{"": "{}", "[providers.settings]\nmount = \"x\"\n": `{"mount":"x"}`} {
			if out, err := provider(command, "vault", "--config", config("tee", more)); err != nil || out != want {
				t.Errorf("%s printed %q, %v", command, out, err)
			}
		}
	}
	if _, err := provider("policy", "vault", "--config", config("rmdir", "")); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a provider that fails: %v", err)
	}
	for _, args := range [][]string{{"policy"}, {"policy", "--config", "x"}, {"policy", "vault"}, {"policy", "none", "--config", config("tee", "")},
		{"policy", "vault", "--config", config("tee", ""), "--name", "x"}, {"policy", "vault", "--config", t.TempDir()}} {
		if out, err := provider(args...); err == nil || out != "" {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
}
