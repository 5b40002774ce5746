// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msltest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package, and returns the exit code of the process: that of the tests, or a failure if goroutines
// of ours are left over when all have ended.
func Main(m *testing.M) int {
	code := m.Run()
	if left := Leaked(10 * time.Second); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left over when all tests have ended:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		return 1
	}
	return code
}

// Leaked waits until no goroutine but the caller's runs code of this module, at most for so long, and returns the stacks of
// those that still do.
func Leaked(wait time.Duration) []string {
	for pause, deadline := time.Millisecond, time.Now().Add(wait); ; pause = min(2*pause, 100*time.Millisecond) {
		left := ours()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(pause)
	}
}

// ours returns the stacks of all goroutines of this module but the caller's.
func ours() (stacks []string) {
	buf := make([]byte, 1<<20)
	for n := runtime.Stack(buf, true); ; n = runtime.Stack(buf, true) {
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for i, s := range strings.Split(string(buf), "\n\n") {
		if i > 0 && strings.Contains(s, "github.com/mslkeep/mslkeep/") { // the caller's is the first
			stacks = append(stacks, s)
		}
	}
	return stacks
}
