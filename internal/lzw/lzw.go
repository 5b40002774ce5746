// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package lzw is MSL's own LZW (§4.11): codes of variable width, the most significant bit first, from
// 8 bits upwards without end; no clear code, no end code, and a dictionary that is never reset.
//
// Code number n of a stream, counted from 0, has as many bits as 255+n needs, because the encoder has
// defined n codes beyond the 256 single bytes when it writes it.
package lzw

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

var (
	// ErrCorrupt means that the input uses a code that is not defined at that point.
	ErrCorrupt = errors.New("lzw: undefined code")
	// ErrTooLong means that the output would be longer than the caller allows.
	ErrTooLong = errors.New("lzw: output over the limit")
)

const literals = 256 // codes that stand for single bytes

func width(n int) int { return bits.Len(uint(literals - 1 + n)) }

// Compress returns the encoding of src, empty for nothing. Beside the output, its memory is up to some
// 40 bytes for each code that it writes, of which there are at most as many as bytes in src.
func Compress(src []byte) []byte {
	if len(src) == 0 {
		return nil
	}
	w := bitWriter{out: make([]byte, 0, len(src)/2+8)}
	d := newDictionary(len(src))
	n := 0 // codes written
	code := uint64(src[0])
	for _, c := range src[1:] {
		longer, known := d.code(code, c)
		if known {
			code = longer
			continue
		}
		w.write(code, width(n))
		n++
		code = uint64(c)
	}
	w.write(code, width(n))
	return w.flush()
}

// Decompress returns the decoding of src if it is at most max bytes, and otherwise [ErrTooLong]. An
// undefined code is [ErrCorrupt]. Bits after the last whole code are ignored: the format has no end
// mark, so padding and a cut-off end look the same. Beside the output, its memory is up to 16 bytes for
// each byte of src.
func Decompress(src []byte, max int) ([]byte, error) {
	r := bitReader{in: src}
	var out []byte
	// starts[n] is where code number n was decoded to. The code literals+n stands for that and the
	// byte after it, so the output itself is the dictionary.
	var starts []uint32
	max = min(max, math.MaxUint32)
	for n := 0; ; n++ {
		code, ok := r.read(width(n))
		if !ok {
			return out, nil
		}
		if code >= uint64(literals+n) {
			return nil, ErrCorrupt
		}
		at, start, end := len(out), 0, 1
		if code >= literals {
			i := int(code) - literals
			start, end = int(starts[i]), at+1
			if i+1 < n {
				end = int(starts[i+1]) + 1
			}
		}
		if max-at < end-start {
			return nil, ErrTooLong
		}
		starts = append(starts, uint32(at))
		if code < literals {
			out = append(out, byte(code))
			continue
		}
		// The code just being defined ends with the first byte of itself.
		out = append(out, out[start:min(end, at)]...)
		if end > at {
			out = append(out, out[start])
		}
	}
}

// A bitWriter packs codes, the most significant bit first.
type bitWriter struct {
	out  []byte
	acc  uint64 // the lowest have bits are still to be written
	have int
}

func (w *bitWriter) write(code uint64, width int) {
	w.acc = w.acc<<width | code
	w.have += width
	if w.have >= 32 {
		w.have -= 32
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(w.acc>>w.have))
	}
}

// flush pads the last byte with zero bits.
func (w *bitWriter) flush() []byte {
	for w.have > 0 {
		w.out = append(w.out, byte(w.acc<<8>>w.have))
		w.have -= 8
	}
	return w.out
}

// A bitReader takes codes apart.
type bitReader struct {
	in   []byte
	acc  uint64 // the lowest have bits are not read yet
	have int
}

// read returns the next width bits, or false if there are fewer.
func (r *bitReader) read(width int) (code uint64, ok bool) {
	for r.have < width {
		if len(r.in) == 0 {
			return 0, false
		}
		r.acc = r.acc<<8 | uint64(r.in[0])
		r.in = r.in[1:]
		r.have += 8
	}
	r.have -= width
	return r.acc >> r.have & (1<<width - 1), true
}
