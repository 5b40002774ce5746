// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest/postgres"
)

// filled returns a store with many records.
func filled(b *testing.B, at string, many int) *Store {
	b.Helper()
	s, err := Open(b.Context(), at)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	for i := 0; i < many; {
		var batch []Record
		for ; i < many && len(batch) < MaxBatch; i++ {
			batch = append(batch, Record{Identity: fmt.Sprintf("device-%07d", i), Sealed: make([]byte, 130)})
		}
		if err := s.Put(b.Context(), batch, nil); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkLookup looks up records among a million, as the first message of an entity has it (Find) and each that follows
// (Born).
func BenchmarkLookup(b *testing.B) {
	const many = 1_000_000
	for kind, at := range map[string]string{"SQLite": "sqlite:" + filepath.Join(b.TempDir(), "entities.db"), "PostgreSQL": postgres.Start(b).URL} {
		s := filled(b, at, many)
		for what, pick := range map[string]func() int{"one": func() int { return 7 }, "any": func() int { return rand.IntN(many) }} {
			b.Run(kind+"/Born/"+what, func(b *testing.B) {
				for b.Loop() {
					if born, err := s.Born(b.Context(), fmt.Sprintf("device-%07d", pick())); err != nil || born == 0 {
						b.Fatal(born, err)
					}
				}
			})
			b.Run(kind+"/Find/"+what, func(b *testing.B) {
				for b.Loop() {
					if r, err := s.Find(b.Context(), fmt.Sprintf("device-%07d", pick())); err != nil || r.Born == 0 {
						b.Fatal(r.Born, err)
					}
				}
			})
		}
	}
}
