// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package msltest is what tests share: the reference's vectors, in-process wiring, tampering. Nothing
// outside tests imports it.
package msltest

import (
	"bufio"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

//go:embed testdata/vectors/*.json
var vectorFiles embed.FS

// A Case is one case of a vector file. A member that is null is absent.
type Case struct {
	Group, Name string
	fields      map[string]json.RawMessage
}

// Has reports whether the case has a member of that name that is not null.
func (c Case) Has(name string) bool {
	raw, ok := c.fields[name]
	return ok && string(raw) != "null"
}

// Into decodes a member into v, which is left alone if the member is absent.
func (c Case) Into(name string, v any) {
	if !c.Has(name) {
		return
	}
	if err := json.Unmarshal(c.fields[name], v); err != nil {
		panic(fmt.Sprintf("vector %s/%s, member %s: %v", c.Group, c.Name, name, err))
	}
}

// Raw returns the JSON of a member, or nil.
func (c Case) Raw(name string) json.RawMessage { return c.fields[name] }

// String returns a text member, or "".
func (c Case) String(name string) (s string) { c.Into(name, &s); return }

// Int returns a number, or 0.
func (c Case) Int(name string) (n int64) { c.Into(name, &n); return }

// Bool returns a boolean, or false.
func (c Case) Bool(name string) (b bool) { c.Into(name, &b); return }

// Bytes returns a base64 member, or nil if absent.
func (c Case) Bytes(name string) []byte {
	if !c.Has(name) {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(c.String(name))
	if err != nil {
		panic(fmt.Sprintf("vector %s/%s, member %s: %v", c.Group, c.Name, name, err))
	}
	return b
}

// Hex returns a hexadecimal member, or nil if absent.
func (c Case) Hex(name string) []byte {
	if !c.Has(name) {
		return nil
	}
	b, err := hex.DecodeString(c.String(name))
	if err != nil {
		panic(fmt.Sprintf("vector %s/%s, member %s: %v", c.Group, c.Name, name, err))
	}
	return b
}

// A RefError is the error with which the reference refused a case.
type RefError struct {
	Name      string // "" where the reference failed with a plain Java exception
	Code      int    // with the base of 100000
	Response  string
	MessageID *int64 `json:"message_id"`
	Cause     string // name of the MSL error that it wraps, if any
}

// Refused returns the reference's error, or nil if it accepted the case.
func (c Case) Refused() *RefError {
	if !c.Has("error") {
		return nil
	}
	e := new(RefError)
	c.Into("error", e)
	return e
}

// Cases returns all cases of a vector file.
func Cases(t testing.TB, file string) []Case {
	t.Helper()
	data, err := vectorFiles.ReadFile("testdata/vectors/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Cases []map[string]json.RawMessage }
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	cases := make([]Case, len(doc.Cases))
	for i, f := range doc.Cases {
		cases[i].fields = f
		cases[i].Group, cases[i].Name = cases[i].String("group"), cases[i].String("name")
	}
	return cases
}

// VectorFile decodes a vector file that has no cases, such as fixtures.json, into v.
func VectorFile(t testing.TB, file string, v any) {
	t.Helper()
	data, err := vectorFiles.ReadFile("testdata/vectors/" + file)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Vectors runs the cases of a vector file whose group is in checks. A check returns nil if we do in
// every respect what the reference did, and otherwise says what differs. A case that differs must be
// listed in docs/msl.md, and a listed one must differ. Cases of groups that are in no check must be
// listed there as pending or belong to another package: pass those groups with a nil check.
//
// It prints one line: how many passed and how many deviate, as the docs say.
func Vectors(t *testing.T, file string, checks map[string]func(Case) error) {
	t.Helper()
	listed := listedDeviations(t, file)
	used := make(map[string]bool)
	var passed, deviating, pending, total int
	seen := make(map[string]bool)
	for _, c := range Cases(t, file) {
		check, known := checks[c.Group]
		seen[c.Group] = true
		if known && check == nil {
			continue
		}
		total++
		id := c.Group + "/" + c.Name
		kind, pattern := find(listed, id)
		switch {
		case kind == "pending":
			used[pattern] = true
			pending++
			continue
		case !known:
			t.Errorf("%s %s: no check for this group, and docs/msl.md does not list it as pending", file, id)
			continue
		}
		err := runCheck(check, c)
		switch {
		case err == nil && kind == "deviating":
			t.Errorf("%s %s: docs/msl.md lists a deviation, but there is none", file, id)
		case err == nil:
			passed++
		case kind == "deviating":
			used[pattern] = true
			deviating++
		default:
			t.Errorf("%s %s: %v", file, id, err)
		}
	}
	for group := range checks {
		if !seen[group] {
			t.Errorf("%s has no group %q", file, group)
		}
	}
	for pattern := range listed {
		group, _, _ := strings.Cut(pattern, "/")
		if check, known := checks[group]; !used[pattern] && (!known || check != nil) {
			t.Errorf("docs/msl.md lists %s %s, which is not a deviation", file, pattern)
		}
	}
	line := fmt.Sprintf("vectors %s: %d passed, %d deviating of %d", file, passed, deviating, total)
	if pending > 0 {
		line += fmt.Sprintf(" (%d pending)", pending)
	}
	fmt.Println(line)
}

// runCheck turns a panic into a failure of the one case.
func runCheck(check func(Case) error, c Case) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return check(c)
}

func find(listed map[string]string, id string) (kind, pattern string) {
	for pattern, kind := range listed {
		if ok, _ := path.Match(pattern, id); ok {
			return kind, pattern
		}
	}
	return "", ""
}

// listedDeviations reads the cases of file that docs/msl.md lists. They stand in code blocks that are
// fenced as "vectors deviating" or "vectors pending", one a line: FILE GROUP/NAME, where * matches
// any characters but a slash.
func listedDeviations(t testing.TB, file string) map[string]string {
	t.Helper()
	_, self, _, _ := runtime.Caller(0)
	f, err := os.Open(filepath.Join(filepath.Dir(self), "..", "..", "docs", "msl.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed := make(map[string]string)
	kind := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		switch {
		case strings.HasPrefix(line, "```vectors "):
			kind = strings.TrimPrefix(line, "```vectors ")
		case strings.HasPrefix(line, "```"):
			kind = ""
		case kind != "":
			if name, id, ok := strings.Cut(line, " "); ok && name == file {
				listed[id] = kind
			}
		}
	}
	return listed
}
