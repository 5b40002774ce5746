// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }
	arrays := func(n int) string { return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}" }
	text := func(size int) string { return `{"a":"` + strings.Repeat("x", size-8) + `"}` }
	elements := func(n int) string { return `{"a":[` + strings.Repeat("1,", n-2) + "1]}" }
	for name, c := range map[string]struct {
		limits   Limits
		in, over string
	}{
		"depth":           {Limits{}, nested(64), nested(65)},
		"depth of arrays": {Limits{}, arrays(64), arrays(65)},
		"depth 3":         {Limits{Depth: 3}, nested(3), nested(4)},
		"depth 1":         {Limits{Depth: 1}, "{}", arrays(2)},
		"size":            {Limits{}, text(16 << 20), text(16<<20 + 1)},
		"size 100":        {Limits{Size: 100}, text(100), text(101)},
		"members":         {Limits{}, elements(1 << 14), elements(1<<14 + 1)},
		"members 3":       {Limits{Members: 3}, `{"a":1,"b":[2]}`, `{"a":1,"b":[2,3]}`},
		"far too deep":    {Limits{}, "{}", strings.Repeat(`{"a":`, 100_000)},
		"far too many":    {Limits{}, "{}", members(1_000_000)},
	} {
		for doc, want := range map[string]error{c.in: nil, c.over: ErrLimit} {
			_, err := ParseLimited([]byte(doc), c.limits)
			_, errNext := NewDecoder(strings.NewReader(doc), c.limits).Next()
			if !errors.Is(err, want) || !errors.Is(errNext, want) {
				t.Errorf("%s, %d bytes: %v and %v", name, len(doc), err, errNext)
			}
		}
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%x":0`, i)
	}
	return "{" + b.String()[1:] + "}"
}

// What a caller allows may be large: work and memory stay proportional to the input.
func TestLargeObjects(t *testing.T) {
	wide := Limits{Size: 64 << 20, Depth: 1 << 20, Members: 2 << 20}
	for name, c := range map[string]struct {
		doc    string
		factor uint64 // of allocated bytes to bytes of the document
	}{
		"deep":          {strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000), 100},
		"long text":     {`{"a":"` + strings.Repeat("x", 10<<20) + `"}`, 1},
		"escaped text":  {`{"a":"` + strings.Repeat(`\u00e9\\`, 1<<20) + `"}`, 1},
		"many members":  {members(1_000_000), 40},
		"escaped names": {strings.ReplaceAll(members(100_000), `":`, `\u0041":`), 60},
		"long names":    {`{"` + strings.Repeat("x", 5<<20) + `y":1,"` + strings.Repeat("x", 5<<20) + `z":1}`, 1},
		"white space":   {`{` + strings.Repeat(" ", 10<<20) + "}", 1},
		"long number":   {`{"a":` + strings.Repeat("1", 10<<20) + "}", 1},
	} {
		start := time.Now()
		doc := []byte(c.doc)
		n := allocated(func() {
			o, err := ParseLimited(doc, wide)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			o.Has("zz")
		})
		if n > c.factor*uint64(len(doc))+4096 {
			t.Errorf("%s: %d bytes allocated %d", name, len(doc), n)
		}
		t.Logf("%s: %d bytes, %v, %d bytes allocated", name, len(doc), time.Since(start), n)
	}
}

// A stream that comes one byte at a time is not scanned again and again, whatever stands in it.
func TestDribble(t *testing.T) {
	const size = 2 << 20
	for name, doc := range map[string]string{
		"text":        `{"a":"` + strings.Repeat("x", size) + `"}`,
		"name":        `{"` + strings.Repeat("x", size) + `":1}`,
		"escapes":     `{"a":"` + strings.Repeat(`\\`, size/2) + `"}`,
		"unicode":     `{"a":"` + strings.Repeat("é", size/2) + `"}`,
		"number":      `{"a":` + strings.Repeat("1", size) + `}`,
		"white space": strings.Repeat(" ", size) + "{}",
	} {
		start := time.Now()
		d := NewDecoder(iotest.OneByteReader(strings.NewReader(doc+"{}")), Limits{})
		o, err := d.Next()
		if err != nil || string(o.Encoding()) != strings.TrimLeft(doc, " ") {
			t.Errorf("%s: %v", name, err)
		}
		// This takes a tenth of a second, or one under the race detector. A quadratic scan takes minutes.
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("%s: %v", name, d)
		}
		if _, err := d.Next(); err != nil {
			t.Errorf("%s, next: %v", name, err)
		}
	}
}

// The limit on size holds while reading: a decoder does not read on past it.
func TestDecoderReadsNoFurtherThanSize(t *testing.T) {
	for doc, more := range map[string]endless{`{"a":"`: 'x', `{"`: 'x', `{"a":1`: '1', `{`: ' '} {
		r := &countingReader{r: io.MultiReader(strings.NewReader(doc), more)}
		d := NewDecoder(r, Limits{Size: 100_000})
		if _, err := d.Next(); !errors.Is(err, ErrLimit) {
			t.Errorf("%s…: %v", doc, err)
		}
		if r.n > 300_000 {
			t.Errorf("%s…: read %d bytes", doc, r.n)
		}
	}
	r := &countingReader{r: endless(' ')}
	if _, err := NewDecoder(r, Limits{Size: 100_000}).Next(); !errors.Is(err, ErrLimit) || r.n > 300_000 {
		t.Errorf("white space: %v after %d bytes", err, r.n)
	}
}

type endless byte

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(e)
	}
	return len(b), nil
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

func TestDecoderLetsLargeBufferGo(t *testing.T) {
	huge := `{"a":"` + strings.Repeat("x", 8<<20) + `"}`
	d := NewDecoder(strings.NewReader(huge+`{"b":2}`+"{}"), Limits{})
	if o, err := d.Next(); err != nil || len(o.Encoding()) != len(huge) {
		t.Fatal(err)
	}
	o, err := d.Next()
	if b, errInt := o.Int("b"); err != nil || errInt != nil || b != 2 {
		t.Fatal(err, errInt)
	}
	if cap(d.buf) > keptBuffer {
		t.Errorf("the buffer has %d bytes", cap(d.buf))
	}
}

func TestDecoderErrors(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		r    io.Reader
		good int
		want error
	}{
		"nothing":            {strings.NewReader(""), 0, io.EOF},
		"clean end":          {strings.NewReader(`{"a":1}{}`), 2, io.EOF},
		"white space at end": {strings.NewReader("{} "), 1, io.ErrUnexpectedEOF},
		"inside":             {strings.NewReader(`{"a":1}{"a"`), 1, io.ErrUnexpectedEOF},
		"not an object":      {strings.NewReader(`{}[]`), 1, ErrSyntax},
		"separator":          {strings.NewReader(`{},{}`), 1, ErrSyntax},
		"reader fails":       {io.MultiReader(strings.NewReader(`{}{"a":`), iotest.ErrReader(broken)), 1, broken},
		"nothing ever":       {io.MultiReader(strings.NewReader(`{}{"a":`), stuck{}), 1, io.ErrNoProgress},
	} {
		d := NewDecoder(c.r, Limits{})
		for i := range c.good {
			if _, err := d.Next(); err != nil {
				t.Errorf("%s, object %d: %v", name, i, err)
			}
		}
		for range 2 {
			if o, err := d.Next(); !errors.Is(err, c.want) || !o.IsZero() {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// A syntax error is seen as soon as its byte arrives: the peer may be waiting for the answer.
func TestDecoderRefusesAtOnce(t *testing.T) {
	for _, doc := range []string{"x", "[", `{a`, `{"a"1`, `{"a":n`, `{"a":1]`, `{"a":[}`, `{"a":"\q`, `{"a":"\ud800x`, "{\"a\":\"\xff", `{"a":tx`, `{"a":1,"a"`} {
		d := NewDecoder(io.MultiReader(strings.NewReader(doc), mustNotRead{t}), Limits{})
		if _, err := d.Next(); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", doc, err)
		}
	}
	d := NewDecoder(io.MultiReader(strings.NewReader(" "), mustNotRead{t}), Limits{})
	if _, err := d.NextHeader(); !errors.Is(err, ErrSyntax) {
		t.Errorf("white space before a header: %v", err)
	}
}

type mustNotRead struct{ t *testing.T }

func (r mustNotRead) Read([]byte) (int, error) {
	r.t.Error("read on")
	return 0, io.EOF
}

func TestDecoderReady(t *testing.T) {
	d := NewDecoder(strings.NewReader(`{"a":1} {"b":2}{"c"`), Limits{})
	if d.Ready() {
		t.Error("ready before reading")
	}
	a, err := d.NextHeader()
	if err != nil || !d.Ready() || string(a.Encoding()) != `{"a":1}` {
		t.Errorf("%q, %v", a.Encoding(), err)
	}
	b, err := d.Next()
	if err != nil || d.Ready() || string(b.Encoding()) != `{"b":2}` {
		t.Errorf("%q, %v", b.Encoding(), err)
	}
	if v, err := b.Int("b"); err != nil || v != 2 {
		t.Errorf("after Ready: %d and %v", v, err)
	}
}
