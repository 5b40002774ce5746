// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"sync"

	"github.com/mslkeep/mslkeep/internal/lzw"
)

// The compression algorithms of §4.10.
const (
	GZIP = "GZIP"
	LZW  = "LZW"
)

// deflateRatio is how many times its size compressed data may have after uncompression.
const deflateRatio = 200

var errInflated = errors.New("too much data after uncompression")

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.DefaultCompression)
	return w
}}

// compress returns data compressed with algo, or nil where that would not be shorter, or so much
// shorter that the receiver would refuse it.
func compress(algo string, data []byte) []byte {
	var out []byte
	switch {
	case len(data) == 0:
		return nil
	case algo == GZIP:
		var buf bytes.Buffer
		w := gzipWriters.Get().(*gzip.Writer)
		w.Reset(&buf)
		_, err := w.Write(data)
		err = errors.Join(err, w.Close())
		gzipWriters.Put(w)
		if err != nil {
			return nil
		}
		out = buf.Bytes()
	case algo == LZW:
		out = lzw.Compress(data)
	default:
		return nil
	}
	if len(out) >= len(data) || len(data) > deflateRatio*len(out) {
		return nil
	}
	return out
}

// uncompress undoes compress. The result has at most limit bytes, and 200 times those of data.
func uncompress(algo string, data []byte, limit int) ([]byte, error) {
	limit = min(limit, deflateRatio*len(data))
	var out []byte
	var err error
	switch algo {
	case GZIP:
		out, err = gunzip(data, limit)
	case LZW:
		out, err = lzw.Decompress(data, limit)
	default:
		return nil, fail(UnsupportedCompression, "uncompression", nil)
	}
	if err != nil {
		return nil, fail(UncompressionError, "uncompression", err)
	}
	return out, nil
}

func gunzip(data []byte, limit int) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1))
	if err == nil && n > int64(limit) {
		err = errInflated
	}
	return out.Bytes(), err
}

// checkCompression refuses names that §4.10 lacks.
func (f *fields) compression(name string) string {
	if !f.has(name) {
		return ""
	}
	algo := f.text(name)
	if f.err == nil && algo != GZIP && algo != LZW {
		f.refuse(UnidentifiedCompression, name)
		return ""
	}
	return algo
}
