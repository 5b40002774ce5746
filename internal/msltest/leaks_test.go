// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msltest

import (
	"strings"
	"testing"
	"time"
)

// TestLeaked: a goroutine is found as long as it runs.
func TestLeaked(t *testing.T) {
	stop := make(chan struct{})
	go lingering(stop)
	if left := Leaked(0); len(left) != 1 || !strings.Contains(left[0], "TestLeaked") {
		t.Errorf("found %d: %s", len(left), strings.Join(left, "\n\n"))
	}
	close(stop)
	if left := Leaked(5 * time.Second); len(left) > 0 {
		t.Errorf("still there: %s", left)
	}
}

func lingering(stop chan struct{}) { <-stop }
