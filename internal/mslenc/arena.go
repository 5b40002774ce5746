// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

// An Arena is memory for values that live together and end together, such as the decoded members of one
// message: to allocate each of them costs more than to decode it. Nil is an Arena that always allocates.
// It is not safe for concurrent use.
type Arena struct {
	buf     []byte
	used    int
	entries [arenaEntries]entry
	listed  int // of entries
}

const (
	arenaEntries  = 64
	objectEntries = 12 // enough for most objects
)

// NewArena returns an Arena of size bytes.
func NewArena(size int) *Arena { return &Arena{buf: make([]byte, size)} }

// members returns memory for the entries of one object, of about so many bytes.
func (a *Arena) members(size int) []entry {
	n := min(objectEntries, size/8+1)
	if a == nil || n > len(a.entries)-a.listed {
		return make([]entry, 0, n)
	}
	a.listed += n
	return a.entries[a.listed-n : a.listed-n : a.listed]
}

// Take returns an empty slice to which n bytes can be appended. What the Arena has no room for is allocated.
func (a *Arena) Take(n int) []byte {
	if a == nil || n > len(a.buf)-a.used {
		return make([]byte, 0, n)
	}
	a.used += n
	return a.buf[a.used-n : a.used-n : a.used]
}

// Reset zeroes what was taken, which must not be used any more, and takes it back.
func (a *Arena) Reset() {
	clear(a.buf[:a.used])
	Poison(a.buf[:0:a.used])
	clear(a.entries[:a.listed])
	a.used, a.listed = 0, 0
}
