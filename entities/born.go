// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Born returns when the record of an entity was born, 0 if there is none. It is made to be asked on each message: what it
// says is as of now. A file is looked at in a microsecond (if another takes its place, that is noticed within a tenth of a
// second); PostgreSQL is asked each time.
func (s *Store) Born(ctx context.Context, identity string) (born int64, err error) {
	state, sure := s.current()
	if sure {
		if born, ok := s.recall(identity, state); ok {
			return born, nil
		}
	}
	err = s.use(ctx, "finding an entity", lookupTime, func(ctx context.Context) error {
		return s.born.QueryRowContext(ctx, []byte(identity)).Scan(&born)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if sure {
		s.remember(identity, state, born)
	}
	return born, nil
}

// current returns the state of a file, if it is sure.
func (s *Store) current() (walState, bool) {
	if s.here == nil { // another machine's, which says nothing of its own accord
		return walState{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.watch == nil {
		return walState{}, false
	}
	if now := time.Now().UnixNano(); now-s.looked.Load() > int64(looking) {
		if !s.here() || !s.watch.here() {
			return walState{}, false
		}
		s.looked.Store(now)
	}
	return s.watch.state()
}

func (s *Store) recall(identity string, state walState) (int64, bool) {
	s.knownMu.Lock()
	defer s.knownMu.Unlock()
	if s.state != state {
		clear(s.known)
		s.state = state
	}
	born, ok := s.known[identity]
	return born, ok
}

// forget forgets what was remembered.
func (s *Store) forget() {
	s.knownMu.Lock()
	defer s.knownMu.Unlock()
	clear(s.known)
	s.state = walState{}
}

// remember notes what was looked up after the file had that state. If it changed since, nobody will see that state again.
func (s *Store) remember(identity string, state walState, born int64) {
	s.knownMu.Lock()
	defer s.knownMu.Unlock()
	if s.state != state {
		return
	}
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[identity] = born
}
