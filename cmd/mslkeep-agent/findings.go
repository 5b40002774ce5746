// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// The states of a finding.
const (
	stateOK      = "ok"
	stateWarning = "warning" // it works, but less well or less safely than it could
	stateProblem = "problem" // the agent would not start, or would fail later
)

// A finding is one thing that doctor has looked at. Check is a name that stays; What is for people.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	What  string `json:"what"`
	Hint  string `json:"hint,omitempty"`
}

// findings collects them, and prints each at once unless they are to be JSON.
type findings struct {
	list []finding
	out  io.Writer // nil: they are printed by end
}

func (f *findings) add(x finding) {
	x.What = strings.Join(strings.Fields(x.What), " ") // one line
	f.list = append(f.list, x)
	if f.out == nil {
		return
	}
	if x.Hint != "" {
		x.What += "; " + x.Hint
	}
	fmt.Fprintf(f.out, "%-8s %-18s %s\n", x.State, x.Check, x.What)
}

func (f *findings) ok(check, format string, args ...any) {
	f.add(finding{check, stateOK, fmt.Sprintf(format, args...), ""})
}

func (f *findings) warn(a advice, format string, args ...any) {
	f.add(finding{a.check, stateWarning, fmt.Sprintf(format, args...), a.hint})
}

func (f *findings) problem(a advice, format string, args ...any) {
	f.add(finding{a.check, stateProblem, fmt.Sprintf(format, args...), a.hint})
}

// problems counts them.
func (f *findings) problems() (n int) {
	for _, x := range f.list {
		if x.State == stateProblem {
			n++
		}
	}
	return n
}

// end prints JSON, if it is to be that, and fails if there are problems.
func (f *findings) end(out io.Writer) error {
	if f.out == nil {
		if err := json.NewEncoder(out).Encode(f.list); err != nil {
			return err
		}
	}
	if n := f.problems(); n > 0 {
		return fmt.Errorf("problems found: %d", n)
	}
	return nil
}
