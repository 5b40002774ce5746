// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// Limits of single fields, checked on both sides before anything is allocated.
const (
	maxText  = 64 << 10 // bytes of a name or text
	maxItems = 64 << 10 // elements of a list
)

// A message is a request, a reply or an error. Each has one encoding only: fixed-width big-endian
// numbers, and 32-bit lengths before bytes, texts and lists, in the order in which fields visits them.
type message interface {
	code() uint8
	fields(c *coder)
}

// A coder measures, encodes or decodes a message, as its mode says, so that one list of fields per
// message serves all three and they cannot come to differ. It writes to the message only when it
// decodes, so that one message may be sent by many at once.
type coder struct {
	mode mode
	bad  bool   // a limit was exceeded, or the encoding is not valid
	n    int    // measuring: bytes so far
	b    []byte // encoding: what was written; decoding: what is left to read
	refs *batch // encoding: large fields go there; nil if they are to be copied
}

type mode uint8

const (
	measuring mode = iota
	encoding
	decoding
)

// measure returns the number of bytes that m encodes to, or ok false if a field exceeds its limit.
func (c *coder) measure(m message) (n int, ok bool) {
	*c = coder{mode: measuring}
	m.fields(c)
	return c.n, !c.bad
}

// encode appends the encoding of m, which measure accepted, to b.
func (c *coder) encode(b []byte, m message) []byte {
	*c = coder{mode: encoding, b: b, refs: c.refs}
	m.fields(c)
	b, c.b = c.b, nil
	return b
}

// decode fills the zero message m from b, all of it. Fields of bytes alias b; texts do not.
func (c *coder) decode(b []byte, m message) (ok bool) {
	*c = coder{mode: decoding, b: b}
	m.fields(c)
	ok = !c.bad && len(c.b) == 0
	c.b = nil
	return ok
}

// take returns the next n bytes that are to be decoded, or nil.
func (c *coder) take(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	b := c.b[:n:n]
	if n == len(c.b) {
		b = c.b // nothing comes behind it, so it may have the rest of the memory; see Recycle
	}
	c.b = c.b[n:]
	return b
}

func (c *coder) u8(p *uint8) {
	switch c.mode {
	case measuring:
		c.n++
	case encoding:
		c.b = append(c.b, *p)
	case decoding:
		if b := c.take(1); b != nil {
			*p = b[0]
		}
	}
}

func (c *coder) u32(p *uint32) {
	switch c.mode {
	case measuring:
		c.n += 4
	case encoding:
		c.b = binary.BigEndian.AppendUint32(c.b, *p)
	case decoding:
		if b := c.take(4); b != nil {
			*p = binary.BigEndian.Uint32(b)
		}
	}
}

func (c *coder) u64(p *uint64) {
	switch c.mode {
	case measuring:
		c.n += 8
	case encoding:
		c.b = binary.BigEndian.AppendUint64(c.b, *p)
	case decoding:
		if b := c.take(8); b != nil {
			*p = binary.BigEndian.Uint64(b)
		}
	}
}

func (c *coder) i32(p *int32) {
	u := uint32(*p)
	c.u32(&u)
	if c.mode == decoding {
		*p = int32(u)
	}
}

func (c *coder) i64(p *int64) {
	u := uint64(*p)
	c.u64(&u)
	if c.mode == decoding {
		*p = int64(u)
	}
}

func (c *coder) flag(p *bool) {
	var u uint8
	if *p {
		u = 1
	}
	c.u8(&u)
	if c.mode == decoding {
		*p = u == 1
		c.bad = c.bad || u > 1
	}
}

func (c *coder) handle(p *Handle) {
	switch c.mode {
	case measuring:
		c.n += len(p)
	case encoding:
		c.b = append(c.b, p[:]...)
	case decoding:
		copy(p[:], c.take(len(p)))
	}
}

// length codes n, the length of something whose elements encode to at least least bytes each.
func (c *coder) length(n, most, least int) int {
	if c.mode == measuring && n > most {
		c.bad = true
	}
	u := uint32(n)
	c.u32(&u)
	if c.mode == decoding && (int64(u) > int64(most) || int64(u)*int64(least) > int64(len(c.b))) {
		c.bad, c.b = true, nil
		return 0
	}
	return int(u)
}

func (c *coder) bytes(p *[]byte) {
	n := c.length(len(*p), maxFrameLimit, 1)
	switch c.mode {
	case measuring:
		c.n += n
	case encoding:
		if c.refs != nil && n >= refSize {
			c.refs.refs = append(c.refs.refs, ref{len(c.b), *p})
			c.refs.size += n
			return
		}
		c.b = append(c.b, *p...)
	case decoding:
		if n > 0 {
			*p = c.take(n)
		}
	}
}

func (c *coder) text(p *string) {
	n := c.length(len(*p), maxText, 1)
	switch c.mode {
	case measuring:
		c.n += n
	case encoding:
		c.b = append(c.b, *p...)
	case decoding:
		*p = string(c.take(n))
	}
}

// list codes a list whose elements encode to at least least bytes each.
func list[T any](c *coder, p *[]T, least int, element func(*coder, *T)) {
	n := c.length(len(*p), maxItems, least)
	if c.mode == decoding && n > 0 {
		if n <= cap(*p) { // of a message that is used again
			*p = (*p)[:n]
			clear(*p)
		} else {
			*p = make([]T, n)
		}
	}
	for i := range *p {
		element(c, &(*p)[i])
	}
}

func (c *coder) byteStrings(p *[][]byte) { list(c, p, 4, (*coder).bytes) }
func (c *coder) parts(p *[]Part)         { list(c, p, 8, (*coder).part) }
func (c *coder) keys(p *[]Key)           { list(c, p, 36, (*coder).key) }

func (c *coder) part(p *Part) {
	c.bytes(&p.Signature)
	c.bytes(&p.Data) // last, for Recycle
}

func (c *coder) token(t *Token) {
	c.bytes(&t.Data)
	c.bytes(&t.Signature)
}

func (c *coder) key(k *Key) {
	c.text(&k.Name)
	c.u32(&k.Version)
	c.text(&k.Type)
	c.i64(&k.Created)
	c.u64(&k.Uses)
	c.u64(&k.Opened)
}

func (c *coder) entity(e *Entity) {
	c.text(&e.Identity)
	c.bytes(&e.Record)
}

func (c *coder) badLine(l *BadLine) {
	c.u64(&l.Line)
	c.text(&l.Why)
}

func (c *coder) finding(f *Finding) {
	c.text(&f.Name)
	c.flag(&f.OK)
	c.text(&f.Detail)
}
