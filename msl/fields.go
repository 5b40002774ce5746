// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "github.com/mslkeep/mslkeep/internal/mslenc"

// fields reads the members of one object in the order of the specification, and keeps the first
// error: members that are read after it are zero.
type fields struct {
	obj  mslenc.Object
	what string // the structure, for errors
	code Code   // the error for members that are missing or of another type
	err  error
}

// parseFields parses an encoded object whose members will be read.
func parseFields(encoded []byte, what string, code Code) fields {
	return parseFieldsIn(nil, encoded, what, code)
}

// parseFieldsIn is parseFields with memory of a, which may be nil.
func parseFieldsIn(a *mslenc.Arena, encoded []byte, what string, code Code) fields {
	obj, err := mslenc.ParseIn(a, encoded)
	f := fields{obj: obj, what: what, code: code}
	f.note(err)
	return f
}

func (f *fields) note(err error) {
	if f.err == nil && err != nil {
		f.err = fail(f.code, f.what, err)
	}
}

// refuse keeps an error of another code than the usual one.
func (f *fields) refuse(c Code, name string) {
	if f.err == nil {
		f.err = fail(c, f.what+" "+name, nil)
	}
}

// has reports whether there is a member to be read: false after an error.
func (f *fields) has(name string) bool { return f.err == nil && f.obj.Has(name) }

func (f *fields) text(name string) (v string) {
	if f.err == nil {
		var err error
		v, err = f.obj.String(name)
		f.note(err)
	}
	return v
}

func (f *fields) boolean(name string) (v bool) {
	if f.err == nil {
		var err error
		v, err = f.obj.Bool(name)
		f.note(err)
	}
	return v
}

func (f *fields) number(name string) (v int64) {
	if f.err == nil {
		var err error
		v, err = f.obj.Int(name)
		f.note(err)
	}
	return v
}

// id reads a number between 0 and 2^53 (§1.4).
func (f *fields) id(name string, outOfRange Code) int64 {
	v := f.number(name)
	if f.err == nil && (v < 0 || v > mslenc.MaxLong) {
		f.refuse(outOfRange, name)
		return 0
	}
	return v
}

// optionalID is id, or -1 if the member is absent.
func (f *fields) optionalID(name string, outOfRange Code) int64 {
	if !f.has(name) {
		return -1
	}
	return f.id(name, outOfRange)
}

func (f *fields) binary(name string) (v []byte) { return f.binaryIn(nil, name) }

// binaryIn is binary with the bytes in memory of a, which may be nil.
func (f *fields) binaryIn(a *mslenc.Arena, name string) (v []byte) {
	if f.err == nil {
		var err error
		v, err = f.obj.BinaryIn(a, name)
		f.note(err)
	}
	return v
}

// object returns the fields of a nested object.
func (f *fields) object(name, what string) fields {
	if f.err != nil {
		return fields{what: what, code: f.code, err: f.err}
	}
	obj, err := f.obj.Object(name)
	f.note(err)
	return fields{obj: obj, what: what, code: f.code, err: f.err}
}

// objects returns the members of an optional array, at most limit.
func (f *fields) objects(name string, limit int) (v []mslenc.Object) {
	if f.has(name) {
		var err error
		v, err = f.obj.Objects(name)
		f.note(err)
		if f.err == nil && len(v) > limit {
			f.refuse(f.code, name)
		}
	}
	if f.err != nil {
		return nil
	}
	return v
}

// optionalStrings returns an array of texts. A member of another type counts as absent (§1.3), an
// array with something else in it is an error.
func (f *fields) optionalStrings(name string) []string {
	if !f.has(name) {
		return nil
	}
	v, err := f.obj.Strings(name)
	if err == nil {
		return v
	}
	for member, raw := range f.obj.Members() {
		if member == name && raw[0] == '[' {
			f.note(err)
		}
	}
	return nil
}
