// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"iter"
	"math"
	"strconv"
)

// MaxLong is the highest identifier and sequence number, inclusive (§1.4).
const MaxLong = 1 << 53

// An Object is a parsed MSL object (§1.1). It is a value that may be copied, it aliases the bytes that
// it was parsed from, and it is safe for concurrent use as long as nobody changes them. Members that
// nobody asks for are ignored. The zero Object has no members and no encoding.
type Object struct {
	raw     []byte
	members []entry
}

// Parse reads one whole object within the default [Limits]. The first byte must be '{' (§1.2); white
// space may follow the object, and nothing else. All of it is validated, nested values included. The
// error is a [*FieldError] without a name.
func Parse(b []byte) (Object, error) { return ParseLimited(b, Limits{}) }

// ParseLimited is [Parse] within other limits.
func ParseLimited(b []byte, l Limits) (Object, error) { return parseIn(nil, b, l.orDefault()) }

// ParseIn is [Parse] with what the Object itself needs in memory of a, which may be nil.
func ParseIn(a *Arena, b []byte) (Object, error) { return parseIn(a, b, Limits{}.orDefault()) }

func parseIn(a *Arena, b []byte, l Limits) (Object, error) {
	if len(b) == 0 || b[0] != '{' {
		return Object{}, syntaxError("the first byte")
	}
	if len(b) > l.Size {
		return Object{}, limitError("size")
	}
	raw, members, err := parse(a, b, l)
	if err != nil {
		return Object{}, err
	}
	for _, c := range b[len(raw):] {
		if !isSpace(c) {
			return Object{}, syntaxError("bytes after the end")
		}
	}
	return Object{raw: raw, members: members}, nil
}

// parse scans the object or array at the start of b.
func parse(a *Arena, b []byte, l Limits) (raw []byte, members []entry, err error) {
	s := scanner{limits: l, entries: a.members(len(b))}
	complete, err := s.scan(b)
	if err == nil && !complete {
		err = syntaxError("no end")
	}
	if err != nil {
		return nil, nil, err
	}
	return b[:s.pos:s.pos], s.entries, nil
}

// Encoding returns the exact bytes of the object, from brace to brace. They are not a copy.
func (o Object) Encoding() []byte { return o.raw }

// IsZero reports whether o is the zero Object: none, as opposed to an empty one.
func (o Object) IsZero() bool { return o.raw == nil }

// Has reports whether o has a member of that name.
func (o Object) Has(name string) bool {
	return o.find(name) != nil
}

// Members yields each member's name and the exact bytes of its value, in the order of the encoding.
func (o Object) Members() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := range o.members {
			e := &o.members[i]
			if !yield(e.decodedName(o.raw), o.raw[e.value:e.valueEnd:e.valueEnd]) {
				return
			}
		}
	}
}

// Value returns the exact bytes of a member's value, or nil if there is no such member. They are not a copy.
func (o Object) Value(name string) []byte {
	if e := o.find(name); e != nil {
		return o.raw[e.value:e.valueEnd:e.valueEnd]
	}
	return nil
}

func (o Object) find(name string) *entry {
	for i := range o.members {
		e := &o.members[i]
		if !e.nameEscaped && string(o.raw[e.name:e.nameEnd]) == name ||
			e.nameEscaped && e.decodedName(o.raw) == name {
			return e
		}
	}
	return nil
}

// typed returns a member's value if it is of that kind, which is the first byte of its encoding; '0'
// stands for all numbers and 't' for both booleans.
func (o Object) typed(name string, kind byte) (raw []byte, e *entry, err error) {
	e = o.find(name)
	if e == nil {
		return nil, nil, &FieldError{Name: name, Kind: ErrMissing}
	}
	raw = o.raw[e.value:e.valueEnd:e.valueEnd]
	first := raw[0]
	switch {
	case first == '-' || '0' <= first && first <= '9':
		first = '0'
	case first == 'f':
		first = 't'
	}
	if first != kind {
		return nil, nil, &FieldError{Name: name, Kind: ErrType}
	}
	return raw, e, nil
}

// String returns a text member.
func (o Object) String(name string) (string, error) {
	raw, e, err := o.typed(name, '"')
	if err != nil {
		return "", err
	}
	return decodeText(raw[1:len(raw)-1], e.valueEscaped), nil
}

// HasText reports whether o has a text member of that name.
func (o Object) HasText(name string) bool {
	_, _, err := o.typed(name, '"')
	return err == nil
}

// Bool returns a boolean member.
func (o Object) Bool(name string) (bool, error) {
	raw, _, err := o.typed(name, 't')
	return err == nil && raw[0] == 't', err
}

// Int returns a member that is a plain integer: without fraction or exponent, and of 64 bits.
func (o Object) Int(name string) (int64, error) {
	raw, _, err := o.typed(name, '0')
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return 0, &FieldError{Name: name, Kind: ErrType, detail: "not an integer of 64 bits"}
	}
	return v, nil
}

// Int32 is [Object.Int] for integers of 32 bits.
func (o Object) Int32(name string) (int32, error) {
	v, err := o.Int(name)
	if err != nil {
		return 0, err
	}
	if v < math.MinInt32 || v > math.MaxInt32 {
		return 0, &FieldError{Name: name, Kind: ErrType, detail: "not an integer of 32 bits"}
	}
	return int32(v), nil
}

// Binary returns the bytes of a base64 member, in fresh memory.
func (o Object) Binary(name string) ([]byte, error) { return o.BinaryIn(nil, name) }

// BinaryIn is [Object.Binary] with the bytes in memory of a, which may be nil.
func (o Object) BinaryIn(a *Arena, name string) ([]byte, error) {
	return o.BinaryTo(a.Take(o.BinarySize(name)), name)
}

// BinarySize returns how many bytes [Object.BinaryTo] needs for a member at most.
func (o Object) BinarySize(name string) int {
	if e := o.find(name); e != nil {
		return standard.DecodedLen(int(e.valueEnd - e.value))
	}
	return 0
}

// BinaryTo is [Object.Binary] with the bytes in the memory of dst, if there is room for BinarySize.
func (o Object) BinaryTo(dst []byte, name string) ([]byte, error) {
	raw, e, err := o.typed(name, '"')
	if err != nil {
		return nil, err
	}
	text := raw[1 : len(raw)-1]
	if e.valueEscaped {
		text = unescape(text)
		defer clear(text) // it may hold a key
	}
	b, err := decodeBase64(dst, text)
	if err != nil {
		return nil, &FieldError{Name: name, Kind: ErrType, detail: "not base64"}
	}
	return b, nil
}

// Object returns a member that is an object.
func (o Object) Object(name string) (Object, error) {
	raw, _, err := o.typed(name, '{')
	if err != nil {
		return Object{}, err
	}
	raw, members, err := parse(nil, raw, unlimited)
	return Object{raw: raw, members: members}, err
}

// Objects returns a member that is an array of objects.
func (o Object) Objects(name string) ([]Object, error) {
	raw, _, err := o.typed(name, '[')
	if err != nil {
		return nil, err
	}
	raw, elements, err := parse(nil, raw, unlimited)
	if err != nil {
		return nil, err
	}
	objects := make([]Object, len(elements))
	for i, e := range elements {
		if raw[e.value] != '{' {
			return nil, &FieldError{Name: name, Kind: ErrType, detail: "an element is not an object"}
		}
		b, members, err := parse(nil, raw[e.value:e.valueEnd], unlimited)
		if err != nil {
			return nil, err
		}
		objects[i] = Object{raw: b, members: members}
	}
	return objects, nil
}

// Strings returns a member that is an array of texts.
func (o Object) Strings(name string) ([]string, error) {
	raw, _, err := o.typed(name, '[')
	if err != nil {
		return nil, err
	}
	raw, elements, err := parse(nil, raw, unlimited)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		if raw[e.value] != '"' {
			return nil, &FieldError{Name: name, Kind: ErrType, detail: "an element is not text"}
		}
		texts[i] = decodeText(raw[e.value+1:e.valueEnd-1], e.valueEscaped)
	}
	return texts, nil
}
