// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"bytes"
	"io"
	"testing"
)

// A payload with 1 KiB and with 64 KiB of data, and a header's data. Folder jsonbench has a whole
// message, and compares.
var benchSizes = []struct {
	name string
	data []byte
}{{"1KiB", bytes.Repeat([]byte("\x00\x10\x83\xff"), 256)}, {"64KiB", bytes.Repeat([]byte("\x00\x10\x83\xff"), 16384)}}

func benchPayload(data []byte) []byte {
	var b Builder
	b.Int("sequencenumber", 1)
	b.Int("messageid", 1234567890123)
	b.Bool("endofmsg", true)
	b.Binary("data", data)
	return b.Bytes()
}

func BenchmarkBuild(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(size.data)))
			b.ReportAllocs()
			for b.Loop() {
				benchPayload(size.data)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, size := range benchSizes {
		doc := benchPayload(size.data)
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	doc := []byte(`{"sender":"PSK-ESN","messageid":1234567890123,"timestamp":1795289024,"nonreplayable":false,"renewable":true,` +
		`"handshake":false,"capabilities":{"compressionalgos":["GZIP","LZW"],"languages":["en-US"],"encoderformats":["JSON"]}}`)
	b.Run("header", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(doc); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParseAndBinary(b *testing.B) {
	for _, size := range benchSizes {
		doc := benchPayload(size.data)
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				o, err := Parse(doc)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := o.Binary("data"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecoder reads a stream of payloads, in pieces as a network gives them.
func BenchmarkDecoder(b *testing.B) {
	for _, size := range benchSizes {
		doc := benchPayload(size.data)
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			d := NewDecoder(&repeated{doc: doc}, Limits{})
			for b.Loop() {
				if _, err := d.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A repeated reader gives doc for ever, 4 KiB at most at a time.
type repeated struct {
	doc []byte
	at  int
}

func (r *repeated) Read(b []byte) (int, error) {
	if len(r.doc) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 4096)], r.doc[r.at:])
	r.at = (r.at + n) % len(r.doc)
	return n, nil
}
