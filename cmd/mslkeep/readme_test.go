// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

// TestReadme runs the commands that the README gives to a newcomer.
func TestReadme(t *testing.T) {
	t.Parallel()
	script := onFreePort(t, blocksOf(t, "README.md", 1)[0], "8080")
	runScript(t, t.TempDir(), whenReady(script, "serve.toml", serves), nil, "hello")
}
