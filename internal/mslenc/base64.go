// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	vector "github.com/segmentio/asm/base64"
)

// Both alphabets require zero bits under the padding (RFC 4648, section 3.5): no encoder writes
// others, and so bytes have one encoding but for white space.
var (
	standard = base64.StdEncoding.Strict()
	urlSafe  = base64.RawURLEncoding.Strict()

	toURLSafe = strings.NewReplacer("+", "-", "/", "_")

	errBase64 = errors.New("mslenc: not base64")
)

// vectorBytes is from how many bytes on base64 is coded by vector instructions. It is a fifth of all
// the work on a message otherwise.
const vectorBytes = 96

// EncodeBase64 returns the padded base64 of the standard alphabet.
func EncodeBase64(b []byte) string { return string(AppendBase64(nil, b)) }

// AppendBase64 appends the padded base64 of the standard alphabet.
func AppendBase64(dst, b []byte) []byte {
	if len(b) < vectorBytes {
		return base64.StdEncoding.AppendEncode(dst, b)
	}
	n := base64.StdEncoding.EncodedLen(len(b))
	dst = slices.Grow(dst, n)
	vector.StdEncoding.Encode(dst[len(dst):len(dst)+n], b)
	return dst[:len(dst)+n]
}

// DecodeBase64 decodes base64 of the standard alphabet. Padding is mandatory; spaces, tabs, CR and LF
// are skipped (§1.3).
func DecodeBase64(s string) ([]byte, error) {
	return decodeBase64(nil, []byte(s))
}

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

// decodeStandard decodes strictly, skipping only CR and LF. All but the end goes by vector instructions,
// if there is nothing to skip and nothing wrong there.
func decodeStandard(dst, src []byte) (int, error) {
	const end = 32 // bytes of src, with the padding
	done := 0
	if cut := (len(src) - end) &^ 3; len(src) >= vectorBytes {
		n, err := vector.StdEncoding.Decode(dst, src[:cut])
		if err == nil && n == cut/4*3 {
			done = n
			src = src[cut:]
		}
	}
	n, err := standard.Decode(dst[done:], src)
	return done + n, err
}

// decodeBase64 decodes into the memory of dst if it is large enough. src is left alone.
func decodeBase64(dst, src []byte) ([]byte, error) {
	if size := standard.DecodedLen(len(src)); size > cap(dst) {
		dst = make([]byte, size)
	}
	dst = dst[:cap(dst)]
	n, err := decodeStandard(dst, src)
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
