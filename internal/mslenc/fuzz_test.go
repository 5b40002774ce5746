// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

var seeds = []string{
	`{}`, ` {}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":null}`, `{"a":"\ud83d\ude00","b":"\ud83d"}`,
	`{"mastertoken":{"tokendata":"e30=","signature":"AA=="},"headerdata":"eyJhIjoxfQ==","signature":""}`,
	`{"data":"SGVsbG8sIE1TTA==","messageid":1234567890123,"compressionalgo":"GZIP","endofmsg":true,"sequencenumber":2}`,
	`{"a":[1,-0,1.5e-7,[],{}],"b":"x\/y\n","c":["p","q"],"d":[{"e":1},{}]}{"f":false} {"g":"é"}`,
	"{\"a\":\"\xff\"}", `{"a":"A A E C","b":"AA=A","c":"AB=="}`, `{"a":` + strings.Repeat("[", 70),
}

// What we accept, encoding/json accepts, with the same values; and encoding the values gives an object
// of the same content.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		o, err := Parse(doc)
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%v", err)
			}
			return
		}
		var want map[string]any
		d := json.NewDecoder(bytes.NewReader(doc))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		plain := content(t, o)
		if got := numbers(plain); !reflect.DeepEqual(got, any(want)) {
			t.Fatalf("%v, want %v", got, want)
		}
		var b Builder
		for name, raw := range o.Members() {
			rebuild(t, &b, o, name, raw)
		}
		again, err := Parse(b.Bytes())
		if err != nil || !reflect.DeepEqual(content(t, again), plain) {
			t.Fatalf("%s: %v", b.Bytes(), err)
		}
	})
}

// numbers turns the numbers of content into those of encoding/json.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any)
		for name, e := range v {
			m[name] = numbers(e)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = numbers(e)
		}
		return list
	case number:
		return json.Number(v)
	}
	return v
}

// rebuild calls every getter for a member, and encodes what the right one gave.
func rebuild(t *testing.T, b *Builder, o Object, name string, raw []byte) {
	text, errText := o.String(name)
	yes, errBool := o.Bool(name)
	n, errInt := o.Int(name)
	short, errShort := o.Int32(name)
	data, errData := o.Binary(name)
	inner, errObject := o.Object(name)
	objects, errObjects := o.Objects(name)
	texts, errTexts := o.Strings(name)
	for _, err := range []error{errText, errBool, errInt, errShort, errData, errObject, errObjects, errTexts} {
		if err != nil && !errors.Is(err, ErrType) {
			t.Fatalf("%q: %v", name, err)
		}
	}
	if errShort == nil && int64(short) != n || errData == nil && errText != nil {
		t.Fatalf("%q: getters disagree", name)
	}
	switch {
	case errText == nil:
		if back, err := DecodeBase64(text); (err == nil) != (errData == nil) || !bytes.Equal(back, data) {
			t.Fatalf("%q: base64 %x, want %x", name, back, data)
		}
		b.String(name, text)
	case errBool == nil:
		b.Bool(name, yes)
	case errInt == nil && string(raw) != "-0":
		b.Int(name, n)
	case errObject == nil:
		b.Object(name, inner.Encoding())
	case errObjects == nil && len(objects) > 0:
		encoded := make([][]byte, len(objects))
		for i, e := range objects {
			encoded[i] = e.Encoding()
		}
		b.Objects(name, encoded)
	case errTexts == nil:
		b.Strings(name, texts)
	default:
		b.Object(name, raw) // a fraction or a mixed array, which nobody asks for
	}
}

// A stream gives the same objects as its parts, wherever it is cut.
func FuzzDecoder(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s+s), []byte{1, 5, 0, 200})
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		limits := Limits{Size: 1000, Depth: 10, Members: 50}
		whole := NewDecoder(bytes.NewReader(stream), limits)
		pieces := NewDecoder(&cutReader{data: stream, cuts: cuts}, limits)
		at := 0
		for {
			ready := whole.Ready()
			o, err := whole.Next()
			p, errPieces := pieces.Next()
			if err == nil != (errPieces == nil) || !bytes.Equal(o.Encoding(), p.Encoding()) || ready && errors.Is(err, io.EOF) {
				t.Fatalf("whole: %q and %v; in pieces: %q and %v", o.Encoding(), err, p.Encoding(), errPieces)
			}
			if err != nil {
				sameEnd(t, stream[at:], limits, err, errPieces)
				return
			}
			at += bytes.IndexByte(stream[at:], '{')
			alone, err := ParseLimited(stream[at:at+len(o.Encoding())], limits)
			if err != nil || !bytes.Equal(alone.Encoding(), o.Encoding()) || !reflect.DeepEqual(content(t, alone), content(t, p)) {
				t.Fatalf("alone: %q and %v", alone.Encoding(), err)
			}
			at += len(o.Encoding())
		}
	})
}

// sameEnd checks that rest, where a stream failed with both errors, is no object either when parsed.
func sameEnd(t *testing.T, rest []byte, l Limits, err1, err2 error) {
	for _, kind := range []error{io.EOF, io.ErrUnexpectedEOF, ErrSyntax, ErrLimit} {
		if errors.Is(err1, kind) != errors.Is(err2, kind) {
			t.Fatalf("%v and %v", err1, err2)
		}
	}
	if _, err := ParseLimited(bytes.TrimLeft(rest, " \r\n\t"), l); err == nil {
		t.Fatalf("%v, but %q is an object", err1, rest)
	}
}

// A cutReader gives as many bytes at a time as cuts says, over and over.
type cutReader struct {
	data, cuts []byte
	reads      int
}

func (c *cutReader) Read(b []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := 1
	if len(c.cuts) > 0 {
		n = int(c.cuts[c.reads%len(c.cuts)]%32) + 1
		c.reads++
	}
	n = copy(b, c.data[:min(n, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

// Base64 is what the letter of §1.3 says, less the laxities that docs/msl.md lists.
func FuzzBase64(f *testing.F) {
	for _, s := range []string{"", "AA==", "AAE=", "AAEC", " A A\tE\r\nC ", "AA=A", "AB==", "AA=\n=", "====", "--__", "AAAA\n", "AA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := DecodeBase64(s)
		want, ok := naiveBase64(s)
		if (err == nil) != ok || !bytes.Equal(got, want) {
			t.Fatalf("%q: %x and %v, want %x and %v", s, got, err, want, ok)
		}
		if ok && EncodeBase64(got) != strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace(s) {
			t.Fatalf("%q: encoded again: %q", s, EncodeBase64(got))
		}
		url, err := DecodeBase64URL(s)
		if err == nil {
			padded := strings.NewReplacer("-", "+", "_", "/").Replace(s) + strings.Repeat("=", -len(s)&3)
			if want, ok := naiveBase64(padded); !ok || !bytes.Equal(url, want) || strings.ContainsAny(s, " \t\r\n") {
				t.Fatalf("%q: URL-safe gives %x, want %x and %v", s, url, want, ok)
			}
		}
	})
}

// naiveBase64 decodes as §1.3 says, bit by bit.
func naiveBase64(s string) (out []byte, ok bool) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	var bits, value, pads, n int
	for _, c := range []byte(s) {
		if c == ' ' || c == '\t' || c == '\r' || c == '\n' {
			continue
		}
		n++
		if c == '=' {
			pads++
			continue
		}
		v := strings.IndexByte(alphabet, c)
		if v < 0 || pads > 0 {
			return nil, false
		}
		value, bits = value<<6|v, bits+6
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(value>>bits))
			value &= 1<<bits - 1
		}
	}
	if n%4 != 0 || pads*2 != bits || pads > 2 || value != 0 {
		return nil, false
	}
	return out, true
}
