// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"
	"strings"
)

// A uri is a PKCS #11 URI (RFC 7512) with the attributes that choose a token or a key, and the source of
// the PIN. An attribute that is not there is empty. Attributes that depend on how the library was started,
// such as slot-id, are refused, and so is pin-value.
type uri struct {
	token, manufacturer, model, serial string // of the token
	object, class                      string // of a key: its label, and secret-key or private
	id                                 string // raw bytes of CKA_ID
	pinSource                          string
}

const maxURI = 4096 // bytes

var errURI = errors.New("not a PKCS #11 URI (RFC 7512)")

// fields lists the attributes with their places.
func (u *uri) fields() []field {
	return []field{{"token", &u.token}, {"manufacturer", &u.manufacturer}, {"model", &u.model}, {"serial", &u.serial},
		{"object", &u.object}, {"type", &u.class}, {"id", &u.id}}
}

type field struct {
	name  string
	value *string
}

// parseURI parses a URI. Attributes that it does not know are an error, as is one that comes twice.
func parseURI(text string) (uri, error) {
	var u uri
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok || len(text) > maxURI {
		return uri{}, errURI
	}
	path, query, _ := strings.Cut(rest, "?")
	if err := parseAttributes(path, ";", pathMarks, u.fields()); err != nil {
		return uri{}, err
	}
	if err := parseAttributes(query, "&", queryMarks, []field{{"pin-source", &u.pinSource}}); err != nil {
		return uri{}, err
	}
	if u.class != "" && u.class != "secret-key" && u.class != "private" {
		return uri{}, fmt.Errorf("%w: type must be secret-key or private", errURI)
	}
	return u, nil
}

// The characters that need no escape, beside letters, digits and "-._~" (RFC 7512 §2.3).
const (
	pathMarks  = ":[]@!$'()*+,=&"
	queryMarks = ":[]@!$'()*+,=/?|"
)

func parseAttributes(text, separator, marks string, fields []field) error {
	if text == "" {
		return nil
	}
	seen := make(map[string]bool)
	for attribute := range strings.SplitSeq(text, separator) {
		name, raw, ok := strings.Cut(attribute, "=")
		if !ok {
			return fmt.Errorf("%w: an attribute without a value", errURI)
		}
		value, ok := unescape(raw, marks)
		if !ok {
			return fmt.Errorf("%w: a character that must be escaped", errURI)
		}
		if name == "pin-value" {
			return fmt.Errorf("%w: a PIN does not belong here; use pin-source", errURI)
		}
		found := false
		for _, f := range fields {
			if f.name == name {
				found, *f.value = true, value
			}
		}
		if !found || seen[name] || value == "" {
			return fmt.Errorf("%w: an attribute that is unknown here, empty, or there twice", errURI)
		}
		seen[name] = true
	}
	return nil
}

// unescape decodes percent-encoding.
func unescape(s, marks string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			high, ok1 := hexDigit(s[i+1])
			low, ok2 := hexDigit(s[i+2])
			if !ok1 || !ok2 {
				return "", false
			}
			b, i = append(b, high<<4|low), i+2
			continue
		}
		if !plain(c, marks) {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}

func plain(c byte, marks string) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("-._~", c) >= 0 ||
		strings.IndexByte(marks, c) >= 0
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// String returns the URI without the source of the PIN.
func (u uri) String() string {
	var b strings.Builder
	b.WriteString("pkcs11:")
	separator := ""
	for _, f := range u.fields() {
		if *f.value == "" {
			continue
		}
		b.WriteString(separator + f.name + "=")
		separator = ";"
		for _, c := range []byte(*f.value) {
			if f.name != "id" && plain(c, "") {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}
