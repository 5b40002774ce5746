// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"strconv"
	"unicode/utf8"
)

// A Builder encodes one object. The zero Builder is ready. Members appear in the order in which they
// are added; names must differ, which is not checked.
type Builder struct {
	buf  []byte // the encoding without its last brace
	base int    // where the object begins in buf
}

// Reset begins a new object in the memory of buf, whose content is lost.
func (b *Builder) Reset(buf []byte) { b.buf, b.base = buf[:0], 0 }

// After begins a new object behind buf, which Bytes then returns with it.
func (b *Builder) After(buf []byte) { b.buf, b.base = buf, len(buf) }

// Bytes returns the encoding. It aliases the Builder, and is valid until the next call of a method.
func (b *Builder) Bytes() []byte {
	if len(b.buf) == b.base {
		b.buf = append(b.buf, '{')
	}
	b.buf = append(b.buf, '}')
	closed := b.buf
	b.buf = b.buf[:len(b.buf)-1]
	return closed
}

// String adds text. Bytes that are not UTF-8 become U+FFFD.
func (b *Builder) String(name, v string) {
	b.name(name, len(v))
	b.buf = appendText(b.buf, v)
}

// Bool adds a boolean.
func (b *Builder) Bool(name string, v bool) {
	b.name(name, 0)
	b.buf = strconv.AppendBool(b.buf, v)
}

// Int adds an integer.
func (b *Builder) Int(name string, v int64) {
	b.name(name, 0)
	b.buf = strconv.AppendInt(b.buf, v, 10)
}

// Binary adds bytes as base64.
func (b *Builder) Binary(name string, v []byte) {
	b.name(name, len(v)/3*4)
	b.buf = append(b.buf, '"')
	b.buf = AppendBase64(b.buf, v)
	b.buf = append(b.buf, '"')
}

// Object adds an object that is encoded already, and not checked.
func (b *Builder) Object(name string, encoded []byte) {
	b.name(name, len(encoded))
	b.buf = append(b.buf, encoded...)
}

// Objects adds an array of objects that are encoded already, and not checked.
func (b *Builder) Objects(name string, encoded [][]byte) {
	b.name(name, 0)
	b.buf = append(b.buf, '[')
	for i, e := range encoded {
		if i > 0 {
			b.buf = append(b.buf, ',')
		}
		b.buf = append(b.buf, e...)
	}
	b.buf = append(b.buf, ']')
}

// Strings adds an array of texts.
func (b *Builder) Strings(name string, v []string) {
	b.name(name, 0)
	b.buf = append(b.buf, '[')
	for i, s := range v {
		if i > 0 {
			b.buf = append(b.buf, ',')
		}
		b.buf = appendText(b.buf, s)
	}
	b.buf = append(b.buf, ']')
}

// name begins a member whose value will take about size bytes.
func (b *Builder) name(name string, size int) {
	if b.buf == nil {
		b.buf = make([]byte, 0, size+256)
	}
	if len(b.buf) == b.base {
		b.buf = append(b.buf, '{')
	} else if len(b.buf) > b.base+1 {
		b.buf = append(b.buf, ',')
	}
	b.buf = appendText(b.buf, name)
	b.buf = append(b.buf, ':')
}

// Merge returns the encoding of an object that has the members of both; where both have one, it is
// second's. Either may be the zero Object; of two, Merge returns nil.
func Merge(first, second Object) []byte {
	if first.IsZero() && second.IsZero() {
		return nil
	}
	var b Builder
	for name, value := range first.Members() {
		if !second.Has(name) {
			b.Object(name, value)
		}
	}
	for name, value := range second.Members() {
		b.Object(name, value)
	}
	return b.Bytes()
}

// appendText appends a JSON string, escaped as the reference escapes (§1.3): what RFC 8259 demands, a
// slash after '<', U+0080 to U+009F, and U+2000 to U+20FF.
func appendText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start, i := 0, 0
	for i < len(s) && ' ' <= s[i] && s[i] < utf8.RuneSelf && s[i] != '"' && s[i] != '\\' && s[i] != '/' {
		i++ // most texts are plain to their end
	}
	for i < len(s) {
		c := s[i]
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
		}
		invalid := r == utf8.RuneError && n == 1
		if !invalid && !escapes(r, i > 0 && s[i-1] == '<') {
			i += n
			continue
		}
		dst = append(dst, s[start:i]...)
		switch {
		case invalid:
			dst = append(dst, "\uFFFD"...)
		case r == '"' || r == '\\' || r == '/':
			dst = append(dst, '\\', c)
		case r == '\b':
			dst = append(dst, `\b`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\f':
			dst = append(dst, `\f`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		default:
			dst = append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += n
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// escapes reports whether r is escaped.
func escapes(r rune, afterLess bool) bool {
	return r < ' ' || r == '"' || r == '\\' || r == '/' && afterLess ||
		0x80 <= r && r < 0xa0 || 0x2000 <= r && r < 0x2100
}
