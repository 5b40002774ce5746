// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"encoding/json"
	"unicode/utf8"
)

// A line of an export is a JSON object: {"identity":"…","record":"…"}, the record in base64. It holds no key.
type exported struct {
	Identity *string `json:"identity"`
	Record   []byte  `json:"record"`
}

// MaxLine bounds a line of an export, in bytes.
const MaxLine = 16 << 10

// AppendLine appends the line of an export.
func (r Record) AppendLine(dst []byte) ([]byte, error) {
	line, err := json.Marshal(exported{&r.Identity, r.Sealed})
	if err != nil {
		return dst, failed("exporting a record", err)
	}
	return append(append(dst, line...), '\n'), nil
}

// ParseLine parses a line of an export.
func ParseLine(line []byte) (Record, error) {
	var e exported
	if len(line) > MaxLine || !utf8.Valid(line) || json.Unmarshal(line, &e) != nil || e.Identity == nil {
		return Record{}, failed("reading a record", ErrInvalid)
	}
	r := Record{Identity: *e.Identity, Sealed: e.Record}
	if err := check(r); err != nil {
		return Record{}, failed("reading a record", err)
	}
	return r, nil
}
