// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
)

// Both alphabets require zero bits under the padding (RFC 4648, section 3.5): no encoder writes
// others, and so bytes have one encoding but for white space.
var (
	standard = base64.StdEncoding.Strict()
	urlSafe  = base64.RawURLEncoding.Strict()

	toURLSafe = strings.NewReplacer("+", "-", "/", "_")

	errBase64 = errors.New("mslenc: not base64")
)

// EncodeBase64 returns the padded base64 of the standard alphabet.
func EncodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// DecodeBase64 decodes base64 of the standard alphabet. Padding is mandatory; spaces, tabs, CR and LF
// are skipped (§1.3).
func DecodeBase64(s string) ([]byte, error) { return decodeBase64([]byte(s)) }

// EncodeBase64URL returns base64 of the URL-safe alphabet, without padding.
func EncodeBase64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// DecodeBase64URL decodes base64 of either alphabet, with or without padding (§1.3). No character is
// skipped.
func DecodeBase64URL(s string) ([]byte, error) {
	if len(s)%4 == 0 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	if strings.ContainsAny(s, "\r\n=") {
		return nil, errBase64
	}
	b, err := urlSafe.DecodeString(toURLSafe.Replace(s))
	if err != nil {
		return nil, errBase64
	}
	return b, nil
}

// decodeBase64 decodes into fresh memory. src is left alone.
func decodeBase64(src []byte) ([]byte, error) {
	dst := make([]byte, standard.DecodedLen(len(src)))
	n, err := standard.Decode(dst, src) // skips CR and LF itself
	if err != nil && bytes.ContainsAny(src, " \t") {
		packed := bytes.Map(func(r rune) rune {
			if r == ' ' || r == '\t' {
				return -1
			}
			return r
		}, src)
		n, err = standard.Decode(dst, packed)
		clear(packed) // it may hold a key
	}
	if err != nil {
		return nil, errBase64
	}
	return dst[:n], nil
}
