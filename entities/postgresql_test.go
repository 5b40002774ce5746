// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/postgres"
)

func newDatabase(t *testing.T) string {
	t.Helper()
	return postgres.Start(t).URL
}

// TestServerGone: while there is no server, nothing is found and nothing is said not to be there; it is found again
// when there is one. Nothing is remembered.
func TestServerGone(t *testing.T) {
	server := postgres.Start(t)
	s := open(t, server.URL)
	put(t, s, Record{Identity: "a", Sealed: sealed("r")})
	born := find(t, s, "a").Born
	if got, err := s.Born(t.Context(), "a"); got != born || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	server.Stop(t)
	if got, err := s.Born(t.Context(), "a"); err == nil {
		t.Errorf("%d without a server", got)
	}
	if _, err := s.Find(t.Context(), "a"); err == nil {
		t.Error("found without a server")
	}
	if _, err := s.Find(t.Context(), "b"); err == nil {
		t.Error("not found without a server, and no error")
	}
	server.Start(t)
	for began := time.Now(); find2(t, s) != born; {
		if time.Since(began) > 30*time.Second {
			t.Fatal("not found again")
		}
	}
}

func find2(t *testing.T, s *Store) int64 {
	r, err := s.Find(t.Context(), "a")
	if err != nil {
		return 0
	}
	return r.Born
}
