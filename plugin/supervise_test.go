// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
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

// A failureLog calls failed with each line that says that a child cannot be started again.
type failureLog struct{ failed func() }

func (l failureLog) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("cannot start again")) {
		l.failed()
	}
	return len(b), nil
}

// TestRefusedPassword: a child whose password is refused when it starts again does not try it again and again.
func TestRefusedPassword(t *testing.T) {
	leakCheck(t)
	starts := func(refused int, failed func(end func())) int {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		count, err := os.Create(filepath.Join(t.TempDir(), "count"))
		if err != nil {
			t.Fatal(err)
		}
		defer count.Close()
		s := spec(t, "count", "refused")
		s.Extra = []*os.File{count}
		s.Refused, s.LongestDelay, s.Log = refused, time.Millisecond, failureLog{func() { failed(cancel) }}
		if err := Supervise(ctx, s, func(context.Context, *Process) {}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(count.Name())
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	failures := 0
	other := starts(8, func(end func()) { // the child's exit code is 9
		if failures++; failures == 3 {
			end()
		}
	})
	if other < 4 {
		t.Errorf("%d starts of a child that fails for another reason", other)
	}
	if n := starts(9, func(end func()) { time.AfterFunc(time.Second, end) }); n != 2 {
		t.Errorf("%d starts of a child whose password is refused the second time", n)
	}
}

// TestDelays: the first restart is immediate, and the next ones wait twice as long each, up to a limit, and not all the same.
func TestDelays(t *testing.T) {
	var delay time.Duration
	for _, want := range []time.Duration{0, 50, 100, 200, 400, 800, 1000, 1000} {
		if want *= time.Millisecond; delay != want {
			t.Errorf("a delay of %v, want %v", delay, want)
		}
		seen := make(map[time.Duration]bool)
		for range 100 {
			j := jittered(delay)
			if seen[j] = true; j < delay/2 || j > delay {
				t.Errorf("%v became %v", delay, j)
			}
		}
		if delay > 0 && len(seen) < 50 {
			t.Errorf("100 delays of %v are only %d", delay, len(seen))
		}
		delay = longer(delay, time.Second)
	}
}
