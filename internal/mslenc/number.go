// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

// number reads on in a number. It checks the form when the whole of it is there.
func (s *scanner) number(b []byte) error {
	for s.pos < len(b) {
		switch c := b[s.pos]; {
		case '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			s.pos++
			continue
		}
		if !validNumber(b[s.tok:s.pos]) {
			return syntaxError("number")
		}
		s.end(s.pos)
		break
	}
	return nil
}

// validNumber reports whether b is a number of RFC 8259, section 6.
func validNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && '0' <= b[n] && b[n] <= '9' {
			n++
		}
		b = b[n:]
		return n > 0
	}
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	if len(b) > 0 && b[0] == '0' {
		b = b[1:]
	} else if !digits() {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
		if !digits() {
			return false
		}
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		b = b[1:]
		if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}
