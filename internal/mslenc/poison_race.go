// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package mslenc

// Poison overwrites memory that is about to be used again, so that tests notice who still reads it. It does so
// under the race detector only.
func Poison(b []byte) {
	b = b[:cap(b)]
	for i := range b {
		b[i] = 0xdb
	}
}
