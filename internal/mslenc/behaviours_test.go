// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// The reference's behaviours of encoding and I/O, by number. Number 1 stands with the vectors.

// Behaviour 2: what is built is parsed to the same values.
func TestBuiltObjectIsParsed(t *testing.T) {
	var inner Builder
	inner.Int("least", math.MinInt64)
	var b Builder
	b.String("text", "a\"\\/<\x00\u0080\u2028😀")
	b.Bool("yes", true)
	b.Int("most", math.MaxInt64)
	b.Binary("data", []byte{0, 255, 62})
	b.Binary("nothing", nil)
	b.Object("inner", inner.Bytes())
	b.Objects("objects", [][]byte{inner.Bytes(), []byte("{}")})
	b.Strings("texts", []string{"", "b"})
	o := mustParse(t, string(b.Bytes()))
	text, err1 := o.String("text")
	yes, err2 := o.Bool("yes")
	most, err3 := o.Int("most")
	data, err4 := o.Binary("data")
	nothing, err5 := o.Binary("nothing")
	nested, err6 := o.Object("inner")
	least, err7 := nested.Int("least")
	objects, err8 := o.Objects("objects")
	texts, err9 := o.Strings("texts")
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Fatal(err)
	}
	if text != "a\"\\/<\x00\u0080\u2028😀" || !yes || most != math.MaxInt64 || least != math.MinInt64 ||
		!bytes.Equal(data, []byte{0, 255, 62}) || nothing == nil || len(nothing) != 0 ||
		len(objects) != 2 || !reflect.DeepEqual(texts, []string{"", "b"}) {
		t.Errorf("%s", b.Bytes())
	}
	if string(nested.Encoding()) != string(inner.Bytes()) || string(objects[0].Encoding()) != string(inner.Bytes()) {
		t.Error("a nested object does not keep its bytes")
	}
}

// A Builder can be used again, in the memory that it had.
func TestBuilderReset(t *testing.T) {
	var b Builder
	if string(b.Bytes()) != "{}" {
		t.Errorf("empty: %s", b.Bytes())
	}
	b.Int("a", 1)
	first := b.Bytes()
	b.Reset(first)
	b.Int("b", 2)
	if got := b.Bytes(); string(got) != `{"b":2}` || &got[0] != &first[0] {
		t.Errorf("%s", got)
	}
}

// Behaviour 3, and the strictness of §1.3.
func TestNotAnObject(t *testing.T) {
	for _, doc := range []string{
		"", " {}", "\ufeff{}", "[]", `"a"`, "1", "true", "{", "}", "{}{}", "{} x", `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`,
		`{"a":1 "b":2}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1}`, `{"a":{]}`, `{"a":1]`, `{a:1}`, `{'a':1}`, `{1:1}`,
		`{"a":null}`, `{"a":[null]}`, `{"a":{"b":null}}`, `{"a":truf}`, `{"a":truee}`, `{"a":falsy}`, `{"a":TRUE}`,
		`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.1}`, `{"a":1e}`, `{"a":+1}`, `{"a":1e+}`, `{"a":--1}`, `{"a":0x1}`, `{"a":-01}`,
		"{\"a\":\"\x00\"}", "{\"a\":\"\n\"}", "{\"a\":\"\x1f\"}", `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"}`, `{"a":"\"}`,
		`{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\ud800\u0041"}`, `{"a":"\ud800\ud800"}`, `{"a":"\ud800x"}`, `{"a":"\udc00\ud800"}`,
		"{\"a\":\"\xff\"}", "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xe4\xb8\"}", "{\"\xff\":1}", "{\"a\":1,\x00\"b\":2}",
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"\u0061":1,"a":2}`, `{"é":1,"\u00e9":2}`, `{"b":{"a":1,"a":2}}`, `{"b":[{"a":1,"a":2}]}`,
	} {
		if _, err := Parse([]byte(doc)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", doc, err)
		}
	}
	for _, doc := range []string{
		"{}", "{} \r\n\t", `{"":1}`, `{"a":{"a":{"a":[[],[{}],{}]}}}`, `{"a":"\ud83d\ude00"}`, "{\"a\":\"\x7f\"}", `{"a":"\u0000"}`,
		`{"a":-0,"b":0.5,"c":1E+2,"d":-1.5e-7,"e":123456789012345678901234567890}`, "{ \"a\"\t:\r[\n1 ,2 ] }", `{"a":1,"A":2}`,
		`{"a":{"x":1},"b":{"x":1},"x":[{"x":1},{"x":1}]}`,
	} {
		if o, err := Parse([]byte(doc)); err != nil || string(o.Encoding()) != strings.TrimRight(doc, " \r\n\t") {
			t.Errorf("%q: %q and %v", doc, o.Encoding(), err)
		}
	}
}

// Behaviour 4: what is missing, and what is of another type, is an error of its own.
func TestMissingAndMistypedMembers(t *testing.T) {
	o := mustParse(t, `{"text":"a b","number":5,"fraction":1.5,"big":4294967296,"bool":true,"object":{},"array":[1]}`)
	getters := map[string]func(string) error{
		"text":   func(n string) error { _, err := o.String(n); return err },
		"number": func(n string) error { _, err := o.Int(n); return err },
		"small":  func(n string) error { _, err := o.Int32(n); return err },
		"bool":   func(n string) error { _, err := o.Bool(n); return err },
		"object": func(n string) error { _, err := o.Object(n); return err },
		"binary": func(n string) error { _, err := o.Binary(n); return err },
		"texts":  func(n string) error { _, err := o.Strings(n); return err },
		"array":  func(n string) error { _, err := o.Objects(n); return err },
	}
	right := map[string]string{"text": "text", "number": "number big", "small": "number", "bool": "bool", "object": "object"}
	for name, get := range getters {
		if err := get("none"); !errors.Is(err, ErrMissing) {
			t.Errorf("%s of nothing: %v", name, err)
		}
		for _, member := range strings.Fields("text number fraction big bool object array") {
			err := get(member)
			if wanted := strings.Contains(" "+right[name]+" ", " "+member+" "); wanted != (err == nil) {
				t.Errorf("%s of %s: %v", name, member, err)
			}
			var field *FieldError
			if err != nil && (!errors.As(err, &field) || field.Name != member || field.Kind != ErrType) {
				t.Errorf("%s of %s: %v", name, member, err)
			}
		}
	}
	if !(Object{}).IsZero() || o.IsZero() || (Object{}).Has("x") {
		t.Error("zero object")
	}
}

// Behaviour 5: arrays give just their elements, and one of another type is an error.
func TestArrays(t *testing.T) {
	o := mustParse(t, `{"none":[],"texts":["a","\u0062",""],"objects":[{"a":1},{ }],"mixed":["a",{}],"deep":[["a"]]}`)
	for _, name := range []string{"none", "texts"} {
		texts, err := o.Strings(name)
		if err != nil || texts == nil || strings.Join(texts, "|") != map[string]string{"none": "", "texts": "a|b|"}[name] {
			t.Errorf("%s: %q and %v", name, texts, err)
		}
	}
	objects, err := o.Objects("objects")
	if err != nil || len(objects) != 2 || string(objects[1].Encoding()) != "{ }" {
		t.Errorf("%v and %v", objects, err)
	}
	for _, name := range []string{"mixed", "deep"} {
		_, err1 := o.Strings(name)
		_, err2 := o.Objects(name)
		if !errors.Is(err1, ErrType) || !errors.Is(err2, ErrType) {
			t.Errorf("%s: %v and %v", name, err1, err2)
		}
	}
}

// Behaviour 6: objects have the same content whatever the order of their members and the escapes in
// them.
func TestSameContent(t *testing.T) {
	a := mustParse(t, `{"a":1,"b":{"c":["x/y"],"d":true}}`)
	for doc, same := range map[string]bool{
		`{ "b" : {"d":true,"c":["x\/y"]}, "\u0061":1}`:     true,
		`{"a":1,"b":{"c":["x/y"],"d":false}}`:              false,
		`{"a":1,"b":{"c":["x/y","z"],"d":true}}`:           false,
		`{"a":1,"b":{"c":["x/y"],"d":true},"e":"further"}`: false,
	} {
		if got := reflect.DeepEqual(content(t, a), content(t, mustParse(t, doc))); got != same {
			t.Errorf("%s: %v", doc, got)
		}
	}
}

// Behaviour 7.
func TestMerge(t *testing.T) {
	a, b := mustParse(t, `{"a":1,"b":"x\/y","c":[1]}`), mustParse(t, `{"\u0062":{"z":2},"d":4}`)
	for _, c := range []struct {
		first, second Object
		want          string
	}{
		{a, b, `{"a":1,"c":[1],"b":{"z":2},"d":4}`},
		{b, a, `{"d":4,"a":1,"b":"x\/y","c":[1]}`},
		{a, Object{}, `{"a":1,"b":"x\/y","c":[1]}`},
		{Object{}, a, `{"a":1,"b":"x\/y","c":[1]}`},
		{Object{}, mustParse(t, "{}"), `{}`},
		{Object{}, Object{}, ``},
	} {
		if got := Merge(c.first, c.second); string(got) != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// Behaviour 8.
func TestBase64URLRoundTrip(t *testing.T) {
	for n := range 70 {
		in := bytes.Repeat([]byte{0xfb, 0xff, byte(n)}, n)[:n]
		text := EncodeBase64URL(in)
		out, err := DecodeBase64URL(text)
		padded, errPadded := DecodeBase64URL(EncodeBase64(in))
		if err != nil || errPadded != nil || !bytes.Equal(in, out) || !bytes.Equal(in, padded) || strings.ContainsAny(text, "+/=") {
			t.Errorf("%d bytes: %q, %v, %v", n, text, err, errPadded)
		}
	}
	for _, bad := range []string{"A", "AA=", "A===", "====", "=", "AA==AA==", "AAA=A", "A A", "AAAA\n", "\r\nAA", "AA\r\n==", "A*AA", "é"} {
		if _, err := DecodeBase64URL(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// Behaviour 9: as a member, where escapes may stand in the text.
func TestBase64Member(t *testing.T) {
	for text, want := range map[string]string{
		``: "", ` `: "", `AAEC`: "\x00\x01\x02", `A\u0041EC`: "\x00\x01\x02", ` A\tAE\r\nC `: "\x00\x01\x02", `\/\/\/\/`: "\xff\xff\xff",
		`A A = =`: "\x00", `AA==\n`: "\x00", `AA=\n=`: "\x00",
	} {
		got, err := mustParse(t, `{"a":"`+text+`"}`).Binary("a")
		if err != nil || string(got) != want {
			t.Errorf("%q: %x and %v", text, got, err)
		}
	}
	for _, text := range []string{`A`, `AA`, `AAA`, `AAA-`, `AA_A`, `=AAA`, `A=AA`, `AA=A`, `AA==AA==`, `AAAA=`, `AAA==`, `\u00e9AAA`, `A\fAEC`, `AB==`, `AA A`} {
		if _, err := mustParse(t, `{"a":"`+text+`"}`).Binary("a"); !errors.Is(err, ErrType) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Behaviour 10, with readers that give much, little, and one byte at a time.
func TestObjectsFromOneStream(t *testing.T) {
	long := `{"data":"` + strings.Repeat("QUJD", 10000) + `"}`
	docs := []string{`{"a":1}`, `{"b":"}{"}`, long, `{}`, `{"c":[{"d":"\\\"é😀"}]}`, long, `{"e":-12.5e3}`}
	for _, between := range []string{"", " ", "\r\n\t "} {
		text := strings.Join(docs, between)
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(text), "one byte": iotest.OneByteReader(strings.NewReader(text)),
			"half": iotest.HalfReader(strings.NewReader(text)), "end with data": iotest.DataErrReader(strings.NewReader(text)),
		} {
			d := NewDecoder(r, Limits{})
			for i, want := range docs {
				o, err := d.Next()
				ready := d.Ready()
				if err != nil || string(o.Encoding()) != want {
					t.Fatalf("%s, object %d: %.50q and %v", name, i, o.Encoding(), err)
				}
				if wantReady := name == "whole" && i+1 < 2; wantReady && !ready || name == "one byte" && ready {
					t.Errorf("%s, object %d: ready is %v", name, i, ready)
				}
			}
			if _, err := d.Next(); err != io.EOF {
				t.Errorf("%s: %v at the end", name, err)
			}
		}
	}
}

// Behaviour 11: the text of all lengths of UTF-8 sequences, valid or not, is judged as the platform
// does, also when it comes byte by byte.
func TestUTF8AsPlatform(t *testing.T) {
	sequences := []string{"\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff",
		"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc3(", "\xe0\x80\x80", "\xe0\xa0", "\xe1\x80(", "\xed\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
		"\xee\x80\x80", "\xf0\x80\x80\x80", "\xf0\x90\x80", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff"}
	for _, s := range sequences {
		for _, pad := range []string{"", "a", "abcdefg", "abcdefghijkl"} {
			doc := `{"a":"` + pad + s + pad + `"}`
			o, err := Parse([]byte(doc))
			if (err == nil) != utf8.ValidString(s) {
				t.Errorf("%q: %v", doc, err)
			}
			if got, _ := o.String("a"); err == nil && got != pad+s+pad {
				t.Errorf("%q: %q", doc, got)
			}
			_, errSlow := NewDecoder(iotest.OneByteReader(strings.NewReader(doc)), Limits{}).Next()
			if (errSlow == nil) != (err == nil) {
				t.Errorf("%q byte by byte: %v", doc, errSlow)
			}
		}
	}
}

func TestNFC(t *testing.T) {
	if NFC("e\u0301") != "\u00e9" {
		t.Error("not composed")
	}
}

func mustParse(t testing.TB, doc string) Object {
	t.Helper()
	o, err := Parse([]byte(doc))
	if err != nil {
		t.Fatalf("%.100q: %v", doc, err)
	}
	return o
}

// A number is kept as it stands.
type number string

// content is what an object says, read with its getters only.
func content(t testing.TB, o Object) map[string]any {
	t.Helper()
	m := make(map[string]any)
	for name, raw := range o.Members() {
		value, err := any(nil), error(nil)
		switch raw[0] {
		case '"':
			value, err = o.String(name)
		case '{':
			var inner Object
			if inner, err = o.Object(name); err == nil {
				value = content(t, inner)
			}
		case '[':
			_, elements, errParse := parse(nil, raw, unlimited)
			list := make([]any, len(elements))
			for i, e := range elements {
				one := fmt.Sprintf(`{"e":%s}`, raw[e.value:e.valueEnd])
				list[i] = content(t, mustParse(t, one))["e"]
			}
			value, err = list, errParse
		case 't', 'f':
			value, err = o.Bool(name)
		default:
			value = number(raw)
		}
		if err != nil {
			t.Fatalf("member %q: %v", name, err)
		}
		m[name] = value
	}
	return m
}
