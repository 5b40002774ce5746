// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// NFC returns s in Unicode normalisation form C. It is for what is created from user input; received
// text is never normalised (§1.5).
func NFC(s string) string { return norm.NFC.String(s) }

type verdict uint8

const (
	textDone verdict = iota // the closing quote was read
	textMore                // the text does not end in these bytes
	textBad
)

// scanText validates the inside of a JSON string from position i on: UTF-8, escapes with whole
// surrogate pairs, no control characters. It returns the position after the closing quote, or where
// to go on, and sets *escaped if it meets a backslash.
func scanText(b []byte, i int, escaped *bool) (int, verdict) {
	for {
		i += plainLen(b[i:])
		if i >= len(b) {
			return i, textMore
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, textDone
		case c == '\\':
			*escaped = true
			n, v := escapeLen(b[i:])
			if v != textDone {
				return i, v
			}
			i += n
		case c < ' ':
			return i, textBad
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				if utf8.FullRune(b[i:]) {
					return i, textBad
				}
				return i, textMore
			}
			i += n
		}
	}
}

// plainLen returns how many bytes at the start of b are printable ASCII, quote and backslash excepted.
func plainLen(b []byte) int {
	rest := b
	for len(rest) >= 32 {
		if plainBits(rest)&plainBits(rest[8:])&plainBits(rest[16:])&plainBits(rest[24:]) != highBits {
			break
		}
		rest = rest[32:]
	}
	for len(rest) >= 8 {
		// No byte's verdict depends on one after it, so the first that is not plain is exact.
		if other := plainBits(rest) ^ highBits; other != 0 {
			return len(b) - len(rest) + bits.TrailingZeros64(other)/8
		}
		rest = rest[8:]
	}
	for i, c := range rest {
		if c < ' ' || c >= 0x80 || c == '"' || c == '\\' {
			return len(b) - len(rest) + i
		}
	}
	return len(b)
}

const highBits = 0x8080808080808080

// plainBits tells of eight bytes at once whether they are plain, each by its high bit. For a byte x
// below 0x80, x+0x7f sets it unless x is 0, and x+0x60 sets it if x is a space or above.
func plainBits(b []byte) uint64 {
	const ones = highBits >> 7
	w := binary.LittleEndian.Uint64(b)
	return ((w ^ ones*'"') + ones*0x7f) & ((w ^ ones*'\\') + ones*0x7f) & (w + ones*0x60) &^ w & highBits
}

// escapeLen returns the length of the escape at the start of b. A surrogate pair is one escape.
func escapeLen(b []byte) (int, verdict) {
	if len(b) < 2 {
		return 0, textMore
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, textDone
	case 'u':
	default:
		return 0, textBad
	}
	r, v := hexUnit(b)
	if v != textDone || !utf16.IsSurrogate(r) {
		return 6, v
	}
	if r >= 0xdc00 || len(b) > 6 && b[6] != '\\' || len(b) > 7 && b[7] != 'u' {
		return 0, textBad
	}
	if len(b) < 8 {
		return 0, textMore
	}
	low, v := hexUnit(b[6:])
	if v == textDone && (low < 0xdc00 || low > 0xdfff) {
		v = textBad
	}
	return 12, v
}

// hexUnit returns the UTF-16 unit of the \uHHHH at the start of b.
func hexUnit(b []byte) (r rune, v verdict) {
	for i := 2; i < 6; i++ {
		if i >= len(b) {
			return 0, textMore
		}
		c := b[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, textBad
		}
		r = r<<4 | rune(c)
	}
	return r, textDone
}

// decodeText returns the text of the inside of a valid JSON string.
func decodeText(b []byte, escaped bool) string {
	if !escaped {
		return string(b)
	}
	return string(unescape(b))
}

// unescape returns the UTF-8 of the inside of a valid JSON string, in fresh memory.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		if b[i] != '\\' {
			out = append(out, b[i])
			i++
			continue
		}
		n, _ := escapeLen(b[i:])
		switch c := b[i+1]; c {
		case 'u':
			r, _ := hexUnit(b[i:])
			if n == 12 {
				low, _ := hexUnit(b[i+6:])
				r = utf16.DecodeRune(r, low)
			}
			out = utf8.AppendRune(out, r)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, c)
		}
		i += n
	}
	return out
}
