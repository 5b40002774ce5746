// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestSuperviseEnds: when all ends, no child is started again, which would use up a PIN's try, or what can be used once.
func TestSuperviseEnds(t *testing.T) {
	leakCheck(t)
	count, err := os.Create(filepath.Join(t.TempDir(), "count"))
	if err != nil {
		t.Fatal(err)
	}
	defer count.Close()
	const runs = 20
	for range runs {
		ctx, cancel := context.WithCancel(t.Context())
		s := spec(t, "count")
		s.Extra = []*os.File{count}
		if err := Supervise(ctx, s, func(context.Context, *Process) { cancel() }); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if b, err := os.ReadFile(count.Name()); err != nil || len(b) != runs {
		t.Errorf("%d starts in %d runs, %v", len(b), runs, err)
	}
}
