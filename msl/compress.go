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

// minGZIP is the least data that GZIP can make shorter: its frame alone is 18 bytes.
const minGZIP = 22

// The fastest level takes a quarter of the default's time for small payloads, and comes close in length.
var (
	gzipWriters = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		return w
	}}
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
)

// compress returns data compressed with algo, or nil where that would not be shorter, or so much
// shorter that the receiver would refuse it.
func compress(algo string, data []byte) []byte {
	var out []byte
	switch {
	case len(data) == 0 || algo == GZIP && len(data) < minGZIP:
		return nil
	case algo == GZIP:
		buf := bytes.NewBuffer(make([]byte, 0, len(data)/2))
		w := gzipWriters.Get().(*gzip.Writer)
		w.Reset(buf)
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
	r := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(r)
	if err := r.Reset(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(make([]byte, 0, min(limit, 4*len(data))+bytes.MinRead))
	n, err := out.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err == nil && n > int64(limit) {
		err = errInflated
	}
	return out.Bytes(), err
}

// compression reads the name of an algorithm, or "" if there is none, and refuses names that §4.10 lacks.
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
