// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
)

// A finding is one thing that doctor has looked at, as the agent's doctor writes it.
type finding struct {
	Check string `json:"check"` // a name that stays
	State string `json:"state"` // ok, warning, problem
	What  string `json:"what"`
	Hint  string `json:"hint,omitempty"`
}

// findings collects them, and prints each at once unless they are to be JSON.
type findings struct {
	*cli
	json bool
	list []finding
}

func (f *findings) add(x finding) {
	f.list = append(f.list, x)
	if f.json {
		return
	}
	if x.Hint != "" {
		x.What += "; " + x.Hint
	}
	fmt.Fprintf(f.out, "%-8s %-18s %s\n", x.State, x.Check, strings.Join(strings.Fields(x.What), " "))
}

func (f *findings) ok(check, format string, args ...any) {
	f.add(finding{Check: check, State: "ok", What: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(check, what, hint string) { f.add(finding{check, "warning", what, hint}) }

// problem takes the hint of an error that has one.
func (f *findings) problem(check string, err error) {
	x := finding{Check: check, State: "problem", What: err.Error()}
	var e *exitError
	if errors.As(err, &e) {
		x.What, x.Hint = e.err.Error(), e.hint
	}
	f.add(x)
}

func (f *findings) problems() (n int) {
	for _, x := range f.list {
		if x.State == "problem" {
			n++
		}
	}
	return n
}
