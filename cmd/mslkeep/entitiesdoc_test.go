// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

// TestEntitiesDoc runs the commands of docs/entities.md.
func TestEntitiesDoc(t *testing.T) {
	t.Parallel()
	runScript(t, t.TempDir(), blocksOf(t, "docs/entities.md", 1)[0], nil,
		"3 entities imported", "added device-4", "device-1  records  1", "1 removed", "3 sealed anew, 0 were already")
}
