// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msltest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	row  = regexp.MustCompile(`^\| (\d+) \| [^|]+ \| ([^|]+) \|$`)
	cell = regexp.MustCompile("^`([a-z/]+)` ([A-Za-z0-9 ]+)$")
)

// TestBehaviours: each behaviour of the reference that docs/behaviours.md lists has a test, which exists.
func TestBehaviours(t *testing.T) {
	const root, count = "../..", 120
	list, err := os.ReadFile(filepath.Join(root, "docs", "behaviours.md"))
	if err != nil {
		t.Fatal(err)
	}
	next := 1
	for line := range strings.Lines(string(list)) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if m[1] != strconv.Itoa(next) {
			t.Errorf("behaviour %s stands where %d should", m[1], next)
		}
		next++
		for part := range strings.SplitSeq(m[2], "; ") {
			c := cell.FindStringSubmatch(part)
			if c == nil {
				t.Errorf("behaviour %s: %q is no folder and its tests", m[1], part)
				continue
			}
			for name := range strings.FieldsSeq(c[2]) {
				if !hasTest(t, filepath.Join(root, c[1]), name) {
					t.Errorf("behaviour %s: there is no test %s in %s", m[1], name, c[1])
				}
			}
		}
	}
	if next != count+1 {
		t.Errorf("%d behaviours, not %d", next-1, count)
	}
}

// hasTest looks for a test, or a fuzz target with its seeds, in the test files of a folder.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+name+"(") && (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz")) {
			return true
		}
	}
	return false
}
