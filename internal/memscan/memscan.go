// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package memscan looks for keys in the memory of processes. With it, tests and the demo show that a
// protocol process holds none, and that the same search does find them in a key agent.
//
// It looks for each key in the forms in which a Go program holds one: see forms. It finds whole keys
// that lie in one mapping, including garbage that was not overwritten yet. It does not see pages that
// were swapped out and are unreadable, or registers.
package memscan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// A Key is what to look for.
type Key struct {
	Label string
	Bytes []byte
}

// A Hit is one form of one key that was found. Mapping tells in what kind of memory, for instance
// "[heap]", "[anon: Go: heap]" or "anonymous".
type Hit struct {
	Label   string `json:"label"`
	Form    string `json:"form"`
	Mapping string `json:"mapping"`
}

// A Report is what a scan of one process gave.
type Report struct {
	Found      int   // different keys
	Hits       []Hit // one for each form of each key, ordered by label and form
	Bytes      int64 // searched
	Unreadable int64 // bytes of mappings that could not be read
}

// Labels returns the labels of the keys that were found, each once.
func (r *Report) Labels() []string {
	labels := make([]string, 0, r.Found)
	for _, h := range r.Hits {
		labels = append(labels, h.Label)
	}
	return slices.Compact(labels)
}

// minKey is the smallest key in bytes: less is found by chance.
const minKey = 8

// A Scanner searches for a set of keys. It is safe for concurrent use.
type Scanner struct {
	keys     []Key
	patterns []pattern
	longest  int

	// index finds patterns by their first 8 bytes. filter is a bit set over hashes of the first 4, and
	// lets almost all offsets be passed over without asking index.
	index  map[uint64][]int32
	filter []uint64
	shift  uint
}

// A pattern is one form of one key.
type pattern struct {
	key   int32
	form  string
	bytes []byte
}

// New prepares a search. Keys with the same bytes count as one, under the first's label. It fails if there
// are none, or one that would be found anywhere: one that is shorter than 8 bytes or of one byte value.
func New(keys []Key) (*Scanner, error) {
	s := &Scanner{index: make(map[uint64][]int32)}
	known := make(map[string]bool)
	for _, k := range keys {
		switch {
		case len(k.Bytes) < minKey:
			return nil, fmt.Errorf("memscan: key %s is too short to be told from other memory", k.Label)
		case bytes.Count(k.Bytes, k.Bytes[:1]) == len(k.Bytes):
			return nil, fmt.Errorf("memscan: key %s is one byte repeated and cannot be told from other memory", k.Label)
		case known[string(k.Bytes)]:
			continue
		}
		known[string(k.Bytes)] = true
		for _, f := range forms(k.Bytes) {
			s.patterns = append(s.patterns, pattern{int32(len(s.keys)), f.name, f.bytes})
			s.longest = max(s.longest, len(f.bytes))
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, errors.New("memscan: no keys to look for")
	}
	size := min(max(bits.Len(uint(len(s.patterns)*32)), 16), 26) // log2 of the filter's bits
	s.filter, s.shift = make([]uint64, 1<<size/64), uint(32-size)
	for i, p := range s.patterns {
		v := binary.LittleEndian.Uint64(p.bytes)
		s.index[v] = append(s.index[v], int32(i))
		h := s.hash(v)
		s.filter[h/64] |= 1 << (h % 64)
	}
	return s, nil
}

// Keys returns how many different keys are looked for.
func (s *Scanner) Keys() int { return len(s.keys) }

func (s *Scanner) hash(v uint64) uint32 { return uint32(v) * 0x9e3779b1 >> s.shift }

// search calls hit for each pattern that begins in b and is not in found yet. The race detector would make it
// twenty times slower, and what it shares with others is never written.
//
//go:norace
func (s *Scanner) search(b []byte, found []bool, hit func(int32)) {
	for i := 0; i+8 <= len(b); i++ {
		v := binary.LittleEndian.Uint64(b[i:])
		h := s.hash(v)
		if s.filter[h/64]>>(h%64)&1 == 0 {
			continue
		}
		for _, p := range s.index[v] {
			if !found[p] && bytes.HasPrefix(b[i:], s.patterns[p].bytes) {
				found[p] = true
				hit(p)
			}
		}
	}
}

// chunk is how much memory is read at once, in bytes.
const chunk = 1 << 20

// page is the smallest page size there is. What cannot be read is passed over in such steps.
const page = 4096

// maxGap bounds how much of a mapping is tried without reading anything, in bytes. The rest counts as
// unreadable.
const maxGap = 1 << 30

// Scan searches the memory of one process. maps and mem are /proc/PID/maps and /proc/PID/mem, opened by
// somebody who may. So is pagemap, /proc/PID/pagemap, by which pages that the process never touched are
// passed over; without it, nil, they are searched too. Scan fails if nothing at all could be read, since
// finding nothing would then mean nothing.
func (s *Scanner) Scan(maps io.Reader, mem, pagemap io.ReaderAt) (*Report, error) {
	ms, err := readMappings(maps)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	found := make([]bool, len(s.patterns))
	buf := make([]byte, chunk)
	for _, m := range ms {
		if m.skipped() {
			continue
		}
		for _, part := range touched(m, pagemap) {
			s.scanMapping(part, mem, buf, r, found)
		}
	}
	if r.Bytes == 0 {
		return nil, errors.New("memscan: no memory could be read")
	}
	slices.SortFunc(r.Hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.Form, b.Form))
	})
	r.Found = len(r.Labels())
	return r, nil
}

// scanMapping searches one mapping, in pieces that overlap by the longest pattern.
func (s *Scanner) scanMapping(m mapping, mem io.ReaderAt, buf []byte, r *Report, found []bool) {
	gap := uint64(0) // bytes that could not be read, in a row
	kept := 0        // bytes at the front of buf that were read in the round before
	for at := m.start; at < m.end; {
		want := min(uint64(len(buf)-kept), m.end-at)
		n, _ := mem.ReadAt(buf[kept:kept+int(want)], int64(at))
		r.Bytes += int64(n)
		b := buf[:kept+n]
		s.search(b, found, func(p int32) {
			pat := s.patterns[p]
			r.Hits = append(r.Hits, Hit{s.keys[pat.key].Label, pat.form, m.name()})
		})
		at += uint64(n)
		kept = copy(buf, b[max(0, len(b)-s.longest+1):])
		if n > 0 {
			gap = 0
		}
		if uint64(n) < want { // a page that is not there, or gone
			step := min(page-at%page, m.end-at)
			if gap += step; gap > maxGap {
				step = m.end - at
			}
			r.Unreadable += int64(step)
			at += step
			kept = 0
		}
	}
}
