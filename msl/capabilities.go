// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// Capabilities say what a side can read (§4.6).
type Capabilities struct {
	Compression []string // GZIP, LZW
	Languages   []string // BCP 47, the preferred one first
	Formats     []string // JSON

	encoded []byte // if it is known already
}

// Intersect returns what both sides can do: languages in the order of c. It is nil if either is.
func (c *Capabilities) Intersect(o *Capabilities) *Capabilities {
	if c == nil || o == nil {
		return nil
	}
	both := &Capabilities{
		Compression: common(c.Compression, o.Compression),
		Languages:   common(c.Languages, o.Languages),
		Formats:     common(c.Formats, o.Formats),
	}
	if len(both.Compression) == len(c.Compression) && len(both.Languages) == len(c.Languages) && len(both.Formats) == len(c.Formats) {
		return c
	}
	return both
}

func common(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// compression returns the algorithm that a sender uses: the first of GZIP and LZW, or "".
func (c *Capabilities) compression() string {
	if c != nil {
		for _, algo := range [...]string{GZIP, LZW} {
			if slices.Contains(c.Compression, algo) {
				return algo
			}
		}
	}
	return ""
}

func (c *Capabilities) encode() []byte {
	if c.encoded != nil {
		return c.encoded
	}
	var b mslenc.Builder
	b.Strings("compressionalgos", c.Compression)
	b.Strings("languages", c.Languages)
	b.Strings("encoderformats", c.Formats)
	return b.Bytes()
}

// ready returns a copy whose encoding is known.
func (c *Capabilities) ready() *Capabilities {
	r := *c
	r.encoded = r.encode()
	return &r
}

// parseCapabilities drops names that it does not know. A member that is not an array counts as absent;
// an element that is not a string is an error.
func parseCapabilities(o mslenc.Object) (*Capabilities, error) {
	f := fields{obj: o, what: "capabilities", code: MSLParseError}
	c := &Capabilities{
		Compression: known(f.optionalStrings("compressionalgos"), GZIP, LZW),
		Languages:   f.optionalStrings("languages"),
		Formats:     known(f.optionalStrings("encoderformats"), "JSON"),
	}
	return c, f.err
}

func known(names []string, all ...string) []string {
	var k []string
	for _, n := range all {
		if slices.Contains(names, n) {
			k = append(k, n)
		}
	}
	return k
}
