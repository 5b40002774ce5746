// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	encoding "encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// attributeNames are the attribute types that RFC 2253 §2.3 gives a name. All others are written as numbers.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
}

// Types of text whose bytes are not UTF-8. The reference takes them for it, so that different names may
// become the same; here they are refused.
const (
	t61String     = asn1.Tag(20)
	generalString = asn1.Tag(27)
	bmpString     = asn1.Tag(30)
)

var errName = errors.New("not a name that can be an identity")

// distinguishedName renders a name in DER as Java's X500Principal.getName does, which is RFC 2253 with
// some liberties (§5.3). Different names, as they are encoded, never look the same, except that the type
// of a text is not told. An empty name is refused.
func distinguishedName(der []byte) (string, error) {
	var sequence, set cryptobyte.String
	input := cryptobyte.String(der)
	if !input.ReadASN1(&sequence, asn1.SEQUENCE) || !input.Empty() || sequence.Empty() {
		return "", errName
	}
	var parts []string
	for !sequence.Empty() {
		if !sequence.ReadASN1(&set, asn1.SET) || set.Empty() {
			return "", errName
		}
		var pairs []string
		for !set.Empty() {
			pair, err := readAttribute(&set)
			if err != nil {
				return "", err
			}
			pairs = append(pairs, pair)
		}
		parts = append(parts, strings.Join(pairs, "+"))
	}
	slices.Reverse(parts)
	return strings.Join(parts, ","), nil
}

// readAttribute reads one attribute and its value.
func readAttribute(set *cryptobyte.String) (string, error) {
	var pair, element, value cryptobyte.String
	var oid encoding.ObjectIdentifier
	var tag asn1.Tag
	if !set.ReadASN1(&pair, asn1.SEQUENCE) || !pair.ReadASN1ObjectIdentifier(&oid) ||
		!pair.ReadAnyASN1Element(&element, &tag) || !pair.Empty() {
		return "", errName
	}
	rest := element
	if !rest.ReadAnyASN1(&value, &tag) {
		return "", errName
	}
	name, named := attributeNames[oid.String()]
	switch {
	case !named:
		return oid.String() + "=#" + hex.EncodeToString(element), nil
	case tag == t61String || tag == generalString || tag == bmpString:
		return "", errName
	case tag == asn1.PrintableString || tag == asn1.UTF8String || tag == asn1.IA5String:
		return name + "=" + escapeValue(string(value)), nil
	}
	return name + "=#" + hex.EncodeToString(element), nil
}

// escapeValue escapes the characters that RFC 2253 §2.4 names, as well as = and # anywhere, NUL, and carriage
// returns and spaces at both ends.
func escapeValue(value string) string {
	var b strings.Builder
	first := len(value) - len(strings.TrimLeft(value, " \r"))
	last := len(strings.TrimRight(value, " \r"))
	for i := range len(value) {
		c := value[i]
		switch {
		case c == 0:
			b.WriteString(`\00`)
			continue
		case i < first || i >= last || strings.IndexByte(`,=+<>#;"\`, c) >= 0:
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
