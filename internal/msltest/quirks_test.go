// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msltest_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
)

var (
	quirk     = regexp.MustCompile(`^\| ([EOD]?\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$`)
	decision  = regexp.MustCompile(`\b(matched|refused|tolerated|avoided|improved)\b`)
	testCell  = regexp.MustCompile("^`([a-z/]+)` ([A-Za-z0-9/ -]+)$")
	casesCell = regexp.MustCompile("^`([a-z0-9-]+\\.json) (.+)`$")
)

// TestQuirks: every point in which the reference is odd, or stacks differ, is decided in docs/msl.md, once, and the
// tests and vectors that show it exist. What is matched does not deviate, and what is refused is so here or by all.
func TestQuirks(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "docs", "msl.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range []struct {
		prefix string
		count  int
	}{{"", 58}, {"E", 13}, {"O", 11}, {"D", 17}} {
		for i := range s.count {
			want = append(want, fmt.Sprint(s.prefix, i+1))
		}
	}
	_, section, _ := strings.Cut(string(text), "\n## Every quirk, decided\n")
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| # |") {
			continue
		}
		m := quirk.FindStringSubmatch(line)
		switch {
		case m == nil:
			t.Errorf("not a row: %s", line)
			continue
		case len(want) == 0 || m[1] != want[0]:
			t.Errorf("row %s is not where it should be", m[1])
		default:
			want = want[1:]
		}
		if !decision.MatchString(m[2]) {
			t.Errorf("%s is not decided", m[1])
		}
		for part := range strings.SplitSeq(m[3], "; ") {
			checkShown(t, root, m[1], part, m[2])
		}
	}
	if len(want) > 0 {
		t.Errorf("there is no row %s", want[0])
	}
}

// checkShown looks for the tests or the cases that a part of a cell names.
func checkShown(t *testing.T, root, number, part, decided string) {
	t.Helper()
	if c := testCell.FindStringSubmatch(part); c != nil {
		for name := range strings.FieldsSeq(c[2]) {
			test, sub, _ := strings.Cut(name, "/")
			if !hasTest(t, filepath.Join(root, c[1]), test) || sub != "" && !hasSubtest(t, filepath.Join(root, c[1]), sub) {
				t.Errorf("%s: there is no test %s in %s", number, name, c[1])
			}
		}
		return
	}
	c := casesCell.FindStringSubmatch(part)
	if c == nil {
		t.Errorf("%s: %q is neither tests nor cases", number, part)
		return
	}
	listed := msltest.ListedDeviations(t, c[1])
	for pattern := range strings.FieldsSeq(c[2]) {
		found := false
		for _, v := range msltest.Cases(t, c[1]) {
			id := v.Group + "/" + v.Name
			if ok, err := path.Match(pattern, id); err != nil {
				t.Fatalf("%s: %s: %v", number, pattern, err)
			} else if !ok {
				continue
			}
			found = true
			deviates := msltest.Deviates(listed, id)
			if deviates && strings.HasPrefix(decided, "matched") || !deviates && v.Refused() == nil && strings.HasPrefix(decided, "refused") {
				t.Errorf("%s is %.7s, but %s %s is not", number, decided, c[1], id)
			}
		}
		if !found {
			t.Errorf("%s: there is no case %s in %s", number, pattern, c[1])
		}
	}
}

// hasSubtest looks for a subtest of TestQuirks in the test files of a folder.
func hasSubtest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "quirks*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), fmt.Sprintf("\tt.Run(%q, quirk", name)) {
			return true
		}
	}
	return false
}
