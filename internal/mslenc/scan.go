// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

// A scanner validates one JSON object or array (RFC 8259) that may arrive in pieces, and notes where
// the members of the outermost one are. It looks at every byte a bounded number of times, however
// small the pieces are. Stricter than RFC 8259: names are unique, strings are valid Unicode, and null
// is no value (§1.1, §1.3).
type scanner struct {
	limits  Limits
	pos     int // next byte to look at
	tok     int // where the string or number that is being read starts
	count   int // members and elements so far
	state   state
	escaped bool    // the string that is being read has an escape
	entries []entry // names of all open objects; for the outermost one, with values

	// Open objects and arrays, the outermost first; those past the array are in deep.
	open  [8]frame
	deep  []frame
	depth int
}

type state uint8

const (
	atValue        state = iota // a value must come
	atFirstElement              // a value or ]
	atFirstName                 // a name or }
	atName                      // a name must come
	atColon
	atEnd // of a value: a comma, or the end of the object or array
	inName
	inText
	inNumber
	done
)

// A frame is an open object or array.
type frame struct {
	array bool
	first int32               // index in entries of its first name
	seen  map[string]struct{} // its names, once they are too many to compare one by one
}

func (s *scanner) top() *frame {
	if s.depth <= len(s.open) {
		return &s.open[s.depth-1]
	}
	return &s.deep[s.depth-len(s.open)-1]
}

// An entry is a member of an object or an element of an array. Positions are relative to the start of
// the scanned value, names and strings without their quotes.
type entry struct {
	name, nameEnd   uint32
	value, valueEnd uint32
	nameEscaped     bool
	valueEscaped    bool
}

// Up to this many names, each new one is compared with all before it; from then on a map knows them.
const linearNames = 16

// scan reads on in b, which is the value from its first byte to the last that has arrived. It reports
// whether the value is complete; then s.pos is the first position after it.
func (s *scanner) scan(b []byte) (complete bool, err error) {
	for s.pos < len(b) {
		switch s.state {
		case done:
			return true, nil
		case inName, inText:
			if more, err := s.text(b); more || err != nil {
				return false, err
			}
			continue
		case inNumber:
			if err := s.number(b); err != nil {
				return false, err
			}
			continue
		}
		c := b[s.pos]
		if isSpace(c) {
			s.pos++
			continue
		}
		more, err := s.token(b, c)
		if more || err != nil {
			return false, err
		}
	}
	return s.state == done, nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// token handles the byte c at s.pos, outside strings and numbers.
func (s *scanner) token(b []byte, c byte) (more bool, err error) {
	switch s.state {
	case atFirstElement:
		if c == ']' {
			return false, s.close(true)
		}
		return s.value(b, c)
	case atValue:
		return s.value(b, c)
	case atFirstName, atName:
		if c == '}' && s.state == atFirstName {
			return false, s.close(false)
		}
		if c != '"' {
			return false, syntaxError("a member name must come")
		}
		s.begin(inName)
	case atColon:
		if c != ':' {
			return false, syntaxError("a colon must come")
		}
		s.pos++
		s.state = atValue
	case atEnd:
		switch c {
		case ',':
			s.pos++
			s.state = atName
			if s.top().array {
				s.state = atValue
			}
		case '}', ']':
			return false, s.close(c == ']')
		default:
			return false, syntaxError("a comma or the end must come")
		}
	}
	return false, nil
}

// begin starts a string at its quote.
func (s *scanner) begin(st state) {
	s.pos++
	s.tok = s.pos
	s.escaped = false
	s.state = st
}

// value starts the value whose first byte is c.
func (s *scanner) value(b []byte, c byte) (more bool, err error) {
	start := s.pos
	word := ""
	switch {
	case c == '{' || c == '[':
		if s.depth >= s.limits.Depth {
			return false, limitError("nesting")
		}
	case c == '"' || c == '-' || '0' <= c && c <= '9':
	case c == 't':
		word = "true"
	case c == 'f':
		word = "false"
	case c == 'n':
		return false, syntaxError("null")
	default:
		return false, syntaxError("a value must come")
	}
	if word != "" {
		have := b[start:min(start+len(word), len(b))]
		if string(have) != word[:len(have)] {
			return false, syntaxError("a value must come")
		}
		if len(have) < len(word) {
			return true, nil
		}
	}
	if err := s.note(start); err != nil {
		return false, err
	}
	switch {
	case word != "":
		s.pos += len(word)
		s.end(s.pos)
	case c == '"':
		s.begin(inText)
	case c == '{':
		s.push(false, atFirstName)
	case c == '[':
		s.push(true, atFirstElement)
	default:
		s.tok = start
		s.state = inNumber
	}
	return false, nil
}

// note counts a value, and notes where it starts if it is the outermost object's or array's.
func (s *scanner) note(start int) error {
	if s.count++; s.count > s.limits.Members+1 { // the outermost value is not counted
		return limitError("members")
	}
	if s.depth == 1 {
		if s.open[0].array {
			s.entries = append(s.entries, entry{})
		}
		s.entries[len(s.entries)-1].value = uint32(start)
	}
	return nil
}

func (s *scanner) push(array bool, next state) {
	s.pos++
	if s.depth++; s.depth > len(s.open) {
		s.deep = append(s.deep, frame{})
	}
	*s.top() = frame{array: array, first: int32(len(s.entries))}
	s.state = next
}

// close ends the innermost object or array.
func (s *scanner) close(array bool) error {
	top := s.top()
	if top.array != array {
		return syntaxError("wrong bracket")
	}
	s.pos++
	if s.depth == 1 {
		s.state = done
		return nil
	}
	s.entries = s.entries[:top.first]
	top.seen = nil
	if s.depth--; s.depth >= len(s.open) {
		s.deep = s.deep[:s.depth-len(s.open)]
	}
	s.end(s.pos)
	return nil
}

// end ends a value before position end.
func (s *scanner) end(end int) {
	if s.depth == 1 {
		e := &s.entries[len(s.entries)-1]
		e.valueEnd = uint32(end)
		e.valueEscaped = s.escaped
	}
	s.state = atEnd
}

// text reads on in a string.
func (s *scanner) text(b []byte) (more bool, err error) {
	pos, verdict := scanText(b, s.pos, &s.escaped)
	s.pos = pos
	switch verdict {
	case textMore:
		return true, nil
	case textBad:
		return false, syntaxError("text")
	}
	if s.state == inText {
		s.end(s.pos)
		return false, nil
	}
	s.state = atColon
	return false, s.name(b, entry{name: uint32(s.tok), nameEnd: uint32(s.pos - 1), nameEscaped: s.escaped})
}

// name adds a member's name, which must be new in its object.
func (s *scanner) name(b []byte, e entry) error {
	top := s.top()
	names := s.entries[top.first:]
	duplicate := false
	switch {
	case top.seen == nil && len(names) < linearNames:
		for i := range names {
			duplicate = duplicate || e.sameName(&names[i], b)
		}
	case top.seen == nil:
		top.seen = make(map[string]struct{}, 2*linearNames)
		for i := range names {
			top.seen[names[i].decodedName(b)] = struct{}{}
		}
		fallthrough
	default:
		name := e.decodedName(b)
		_, duplicate = top.seen[name]
		top.seen[name] = struct{}{}
	}
	if duplicate {
		return syntaxError("duplicate member name")
	}
	s.entries = append(s.entries, e)
	return nil
}

func (e *entry) decodedName(b []byte) string {
	return decodeText(b[e.name:e.nameEnd], e.nameEscaped)
}

func (e *entry) sameName(other *entry, b []byte) bool {
	if e.nameEscaped || other.nameEscaped {
		return e.decodedName(b) == other.decodedName(b)
	}
	return string(b[e.name:e.nameEnd]) == string(b[other.name:other.nameEnd])
}
