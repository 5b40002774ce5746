// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package secret holds key bytes. [Bytes] can be neither compared, printed nor encoded, and is wiped
// by its owner.
//
// [Reveal] is the one door to the bytes. Whoever calls it can be found with
//
//	grep -rn 'secret\.Reveal('
//
// and must hand the slice to a cryptographic primitive, or to an encoding that is encrypted before
// it leaves the function. What it must not do is keep the slice.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"sync/atomic"
)

// redacted is all that a Bytes shows of itself.
const redacted = "[secret]"

// Bytes are secret bytes, in most cases a key. It is used by pointer, and a nil *Bytes is an empty one.
//
// Its methods are safe for concurrent use, with one exception that only the owner can see to: Wipe
// zeroes the memory to which slices from [Reveal] still point, so it must not run while one is in use.
// After Wipe a Bytes is empty, so primitives that check the size of their key fail.
type Bytes struct {
	_ [0]func() // not comparable
	p atomic.Pointer[[]byte]
}

// New returns n zero bytes, to be filled through [Reveal].
func New(n int) *Bytes { return Take(make([]byte, n)) }

// Random returns n random bytes.
func Random(n int) *Bytes {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return Take(b)
}

// Take makes b secret. The caller must not use b any more.
func Take(b []byte) *Bytes {
	s := new(Bytes)
	s.p.Store(&b)
	return s
}

// Reveal returns the bytes themselves, not a copy, or nil after Wipe. See the package comment for who
// may call it.
func Reveal(s *Bytes) []byte {
	if s == nil {
		return nil
	}
	if p := s.p.Load(); p != nil {
		return *p
	}
	return nil
}

// Len returns the number of bytes, which is 0 after Wipe.
func (s *Bytes) Len() int { return len(Reveal(s)) }

// Equal compares in constant time, lengths apart.
func (s *Bytes) Equal(o *Bytes) bool {
	return subtle.ConstantTimeCompare(Reveal(s), Reveal(o)) == 1
}

// Wipe zeroes the bytes and lets go of them. It may be called again.
func (s *Bytes) Wipe() {
	if s == nil {
		return
	}
	if p := s.p.Swap(nil); p != nil {
		Wipe(*p)
	}
}

// Wipe zeroes b, whole capacity included.
func Wipe(b []byte) { clear(b[:cap(b)]) }

// Format implements fmt.Formatter, for all verbs and flags.
func (*Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns a placeholder.
func (*Bytes) String() string { return redacted }

// GoString returns a placeholder.
func (*Bytes) GoString() string { return redacted }

// MarshalText returns a placeholder.
func (*Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns a placeholder.
func (*Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
