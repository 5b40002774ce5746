// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
)

func TestVectors(t *testing.T) {
	msltest.Vectors(t, "base64.json", map[string]func(msltest.Case) error{
		"encode":     encodes(EncodeBase64),
		"decode":     decodes(DecodeBase64),
		"url-encode": encodes(EncodeBase64URL),
		"url-decode": decodes(DecodeBase64URL),
	})
	msltest.Vectors(t, "json.json", map[string]func(msltest.Case) error{
		"encode-string": func(c msltest.Case) error {
			var b Builder
			b.String("k", c.String("value"))
			return sameBytes(b.Bytes(), c.Bytes("output"))
		},
		"encode-key": func(c msltest.Case) error {
			var b Builder
			b.Int(c.String("value"), 1)
			return sameBytes(b.Bytes(), c.Bytes("output"))
		},
		"encode-value": encodeValue,
		"value":        typedValue,
		"document":     document,
		"stream":       stream,
	})
}

func sameBytes(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%q, want %q", got, want)
	}
	return nil
}

// sameVerdict compares an error with what the reference did. When both refuse, it returns true.
func sameVerdict(c msltest.Case, err error) (refused bool, differs error) {
	switch {
	case c.Refused() == nil && err != nil:
		return false, err
	case c.Refused() != nil && err == nil:
		return false, errors.New("accepted")
	}
	return err != nil, nil
}

func encodes(encode func([]byte) string) func(msltest.Case) error {
	return func(c msltest.Case) error {
		return sameBytes([]byte(encode(c.Bytes("data"))), []byte(c.String("output")))
	}
}

func decodes(decode func(string) ([]byte, error)) func(msltest.Case) error {
	return func(c msltest.Case) error {
		got, err := decode(c.String("input"))
		if refused, err := sameVerdict(c, err); refused || err != nil {
			return err
		}
		return sameBytes(got, c.Bytes("data"))
	}
}

func encodeValue(c msltest.Case) error {
	var b Builder
	switch c.String("type") {
	case "Integer", "Long":
		b.Int("k", c.Int("value"))
	case "Boolean":
		b.Bool("k", c.Bool("value"))
	case "byte[]":
		b.Binary("k", c.Bytes("value"))
	case "SingletonMap":
		var inner Builder
		inner.Int("x", 1)
		b.Object("k", inner.Bytes())
	default:
		if c.Refused() != nil {
			return nil // we have no such values
		}
		return errors.New("no method for it")
	}
	return sameBytes(b.Bytes(), []byte(c.String("output")))
}

// typedValue compares what each getter makes of member k.
func typedValue(c msltest.Case) error {
	o, err := Parse(c.Bytes("document"))
	if refused, err := sameVerdict(c, err); refused || err != nil {
		return err
	}
	if o.Has("k") != c.Bool("has") {
		return errors.New("has")
	}
	text, errText := o.String("k")
	boolean, errBool := o.Bool("k")
	long, errLong := o.Int("k")
	short, errShort := o.Int32("k")
	data, errData := o.Binary("k")
	_, errObject := o.Object("k")
	raw, _, errArray := o.typed("k", '[')
	array := int64(0)
	if errArray == nil {
		_, elements, err := parse(nil, raw, unlimited)
		if err != nil {
			return err
		}
		array = int64(len(elements))
	}
	for _, g := range []struct {
		name string
		err  error
		same bool
	}{
		{"get_string", errText, text == c.String("get_string")},
		{"get_boolean", errBool, boolean == c.Bool("get_boolean")},
		{"get_long", errLong, long == c.Int("get_long")},
		{"get_int", errShort, int64(short) == c.Int("get_int")},
		{"get_bytes", errData, bytes.Equal(data, c.Bytes("get_bytes"))},
		{"get_object", errObject, true},
		{"get_array", errArray, array == c.Int("get_array")},
	} {
		if (g.err == nil) != c.Has(g.name) {
			return fmt.Errorf("%s: %v", g.name, g.err)
		}
		if g.err == nil && !g.same {
			return fmt.Errorf("%s: another value", g.name)
		}
	}
	return nil
}

func document(c msltest.Case) error {
	o, err := Parse(c.Bytes("document"))
	if refused, err := sameVerdict(c, err); refused || err != nil {
		return err
	}
	var want []string
	c.Into("keys", &want)
	var got []string
	for name := range o.Members() {
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("members %q, want %q", got, want)
	}
	if c.Has("string_a") {
		if a, err := o.String("a"); err != nil || a != c.String("string_a") {
			return fmt.Errorf("%q and %v", a, err)
		}
	}
	return nil
}

func stream(c msltest.Case) error {
	d := NewDecoder(bytes.NewReader(c.Bytes("stream")), Limits{})
	var want, got []int64
	c.Into("values", &want)
	o, err := d.NextHeader()
	for err == nil {
		a, errInt := o.Int("a")
		if errInt != nil {
			return errInt
		}
		got = append(got, a)
		o, err = d.Next()
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%d and %v, want %d", got, err, want)
	}
	wantEnd := c.Refused() == nil && c.String("then") == "end"
	if (err == io.EOF && len(got) > 0) != wantEnd {
		return fmt.Errorf("at the end: %v", err)
	}
	return nil
}

// Behaviour 1: the first byte selects the format, and only '{' is one.
func TestFormatIsDetectedByFirstByte(t *testing.T) {
	for c := range 256 {
		doc := string([]byte{byte(c)}) + `"a":1}`
		_, errParse := Parse([]byte(doc))
		_, errNext := NewDecoder(strings.NewReader(doc), Limits{}).NextHeader()
		if (errParse == nil) != (c == '{') || (errNext == nil) != (c == '{') {
			t.Errorf("%q: %v and %v", doc, errParse, errNext)
		}
	}
}
