// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package lzw

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
)

func TestVectors(t *testing.T) {
	msltest.Vectors(t, "compression.json", map[string]func(msltest.Case) error{
		"lzw":        vector,
		"compress":   nil, // both belong to package msl
		"uncompress": nil,
	})
}

func vector(c msltest.Case) error {
	data := vectorData(c)
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.String("sha256") {
		return errors.New("cannot build the input")
	}
	packed := Compress(data)
	if c.Has("output") {
		if !bytes.Equal(packed, c.Bytes("output")) {
			return errors.New("other output")
		}
	} else if sum := sha256.Sum256(packed); hex.EncodeToString(sum[:]) != c.String("output_sha256") {
		return errors.New("other output")
	}
	if back, err := Decompress(packed, len(data)); err != nil || !bytes.Equal(back, data) {
		return fmt.Errorf("not the same when decoded: %v", err)
	}
	return nil
}

// vectorData returns the input of a case, which for long ones is made as Java's generator makes it.
func vectorData(c msltest.Case) []byte {
	if c.Has("data") {
		return c.Bytes("data")
	}
	data := make([]byte, c.Int("length"))
	seed := uint64(5 ^ 0x5deece66d)
	for i := range data {
		if i%4 == 0 {
			seed = (seed*0x5deece66d + 0xb) & (1<<48 - 1)
		}
		data[i] = byte(seed >> 16 >> (i % 4 * 8))
	}
	return data
}

// Behaviour 12: short inputs have fixed outputs; further, the examples of annex B.
func TestShortInputs(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"\x1f":                     "1f",
		"\x66\x67":                 "663380",
		"\x61\xd7\xb1":             "616bac40",
		"TOBEORNOTTOBEORTOBEORNOT": "54279088a4f291389e548040a090981c160e",
		strings.Repeat("a", 32):    "618040605038241604",
	} {
		packed := Compress([]byte(in))
		if hex.EncodeToString(packed) != want {
			t.Errorf("%q gives %x, not %s", in, packed, want)
		}
		if back, err := Decompress(packed, len(in)); err != nil || string(back) != in {
			t.Errorf("%x gives %q and %v, not %q", packed, back, err, in)
		}
	}
}

// Behaviour 13: a long text, here one with the statistics of words, comes back.
func TestLongText(t *testing.T) {
	text := words(1 << 20)
	packed := Compress(text)
	if len(packed) > len(text)/2 {
		t.Errorf("%d bytes became %d", len(text), len(packed))
	}
	if back, err := Decompress(packed, len(text)); err != nil || !bytes.Equal(back, text) {
		t.Errorf("not the same: %v", err)
	}
}

// Behaviour 14: the output is complete without any end mark, for every length of input.
func TestEveryLength(t *testing.T) {
	text := words(2000)
	for n := range text {
		if back, err := Decompress(Compress(text[:n]), n); err != nil || !bytes.Equal(back, text[:n]) {
			t.Fatalf("%d bytes: not the same: %v", n, err)
		}
	}
}

func TestLimit(t *testing.T) {
	data := make([]byte, 10_000_000)
	packed := Compress(data)
	for _, max := range []int{0, 1, 256, len(data) - 1, -1, math.MinInt} {
		if _, err := Decompress(packed, max); !errors.Is(err, ErrTooLong) {
			t.Errorf("limit %d: %v", max, err)
		}
	}
	if back, err := Decompress(packed, math.MaxInt); err != nil || len(back) != len(data) {
		t.Errorf("%d bytes and %v", len(back), err)
	}
	// What a refused output allocates depends on the limit, not on the output.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decompress(packed, 1000); err == nil {
		t.Error("over the limit")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 10_000 {
		t.Errorf("limit 1000: allocated %d bytes", n)
	}
}

func TestUndefinedCodes(t *testing.T) {
	for _, in := range []string{"61ffffff", "618080"} {
		packed, _ := hex.DecodeString(in)
		if _, err := Decompress(packed, 1000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// A cut-off input gives the start of the output: the format cannot show it.
func TestCutOff(t *testing.T) {
	text := words(5000)
	packed := Compress(text)
	for n := range packed {
		back, err := Decompress(packed[:n], len(text))
		if err != nil || !bytes.HasPrefix(text, back) || len(back) == len(text) {
			t.Fatalf("%d of %d bytes: %d bytes and %v", n, len(packed), len(back), err)
		}
	}
}

func words(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	list := strings.Fields("handshake capability wrap sequence message exchange renew token entity expire the of and")
	var out []byte
	for len(out) < n {
		out = append(out, list[r.IntN(len(list))]...)
		out = append(out, " ,.\n"[r.IntN(4)])
	}
	return out[:n]
}

func FuzzLZW(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte("TOBEORNOTTOBEORTOBEORNOT"), 24)
	f.Add([]byte("\x61\xff\xff\xff"), 100)
	f.Add(bytes.Repeat([]byte("a"), 600), 10)
	f.Fuzz(func(t *testing.T, in []byte, max int) {
		packed := Compress(in)
		if back, err := Decompress(packed, len(in)); err != nil || !bytes.Equal(back, in) {
			t.Fatalf("not the same: %v", err)
		}
		if len(in) > 0 {
			if _, err := Decompress(packed, len(in)-1); !errors.Is(err, ErrTooLong) {
				t.Fatalf("one byte under the limit: %v", err)
			}
		}
		max &= 1<<20 - 1
		out, err := Decompress(in, max)
		if len(out) > max || err != nil && out != nil {
			t.Fatalf("%d bytes and %v, limit %d", len(out), err, max)
		}
		want, ok := naive(in, max)
		if ok != (err == nil) || ok && !bytes.Equal(out, want) {
			t.Fatalf("%x and %v, want %x and %v", out, err, want, ok)
		}
	})
}

// naive is the decoder of §4.11, word for word.
func naive(in []byte, max int) (out []byte, ok bool) {
	var dict []string
	for i := range 256 {
		dict = append(dict, string([]byte{byte(i)}))
	}
	pos, width, prev := 0, 8, ""
	for pos+width <= len(in)*8 {
		code := 0
		for range width {
			code = code<<1 | int(in[pos/8]>>(7-pos%8)&1)
			pos++
		}
		var s string
		switch {
		case code < len(dict):
			s = dict[code]
		case code == len(dict) && prev != "":
			s = prev + prev[:1]
		default:
			return nil, false
		}
		if prev == "" {
			width = 9
		} else {
			dict = append(dict, prev+s[:1])
			if len(dict) == 1<<width {
				width++
			}
		}
		if prev = s; len(out)+len(s) > max {
			return nil, false
		}
		out = append(out, s...)
	}
	return out, true
}

func BenchmarkCompress(b *testing.B) {
	text := words(50 << 10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		Compress(text)
	}
}

func BenchmarkCompressRandom(b *testing.B) {
	data := make([]byte, 50<<10)
	r := rand.NewChaCha8([32]byte{})
	r.Read(data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		Compress(data)
	}
}

func BenchmarkDecompress(b *testing.B) {
	text := words(50 << 10)
	packed := Compress(text)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decompress(packed, len(text)); err != nil {
			b.Fatal(err)
		}
	}
}
