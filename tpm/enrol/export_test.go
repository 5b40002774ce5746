// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import "time"

// Now lets a test set the server's clock.
func (s *Server) Now(now func() time.Time) { s.now = now }

// Waiting is how many challenges wait for an answer.
func (s *Server) Waiting() int {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	return len(s.waiting.list)
}
