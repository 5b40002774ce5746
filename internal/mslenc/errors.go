// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import "errors"

// The kinds of [FieldError].
var (
	ErrMissing = errors.New("missing")
	ErrType    = errors.New("wrong type or range")
	ErrSyntax  = errors.New("not a well-formed object")
	ErrLimit   = errors.New("over the limit")
)

// A FieldError says which member of an object could not be read, or, with an empty Name, that a whole
// object could not. Kind is [ErrMissing], [ErrType], [ErrSyntax] or [ErrLimit]. Neither holds anything
// of the input.
type FieldError struct {
	Name string
	Kind error

	detail string // what the kind leaves open; a constant text
}

func (e *FieldError) Error() string {
	s := "mslenc: object: "
	if e.Name != "" {
		s = "mslenc: member " + e.Name + ": "
	}
	s += e.Kind.Error()
	if e.detail != "" {
		s += " (" + e.detail + ")"
	}
	return s
}

// Unwrap returns the kind.
func (e *FieldError) Unwrap() error { return e.Kind }

func syntaxError(detail string) error { return &FieldError{Kind: ErrSyntax, detail: detail} }

func limitError(detail string) error { return &FieldError{Kind: ErrLimit, detail: detail} }
