// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"sync"

	"github.com/mslkeep/mslkeep/msl"
)

// errSimulated is what fails because the simulation wants it to.
type errSimulated struct{ what string }

func (e *errSimulated) Error() string { return "simulated failure of " + e.what }

// A store keeps the state of a client, and looks at what it is given: a client's tokens may only ever get newer.
type store struct {
	msl.MemoryStore
	s    *schedule
	name string

	mu      sync.Mutex
	failing bool
	last    *msl.MasterToken // that the client has
	lastID  int64
	gone    map[int64]bool // serial numbers of master tokens that it gave up
}

// restarted notes that the client knows no more than what was saved.
func (st *store) restarted() {
	state, _ := st.MemoryStore.Load(context.Background())
	st.mu.Lock()
	defer st.mu.Unlock()
	st.last, st.lastID = nil, state.NonReplayableID
	if len(state.MasterToken) > 0 {
		st.last, _ = msl.ParseMasterToken(state.MasterToken)
		delete(st.gone, st.last.SerialNumber)
	}
}

func (st *store) fail(failing bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.failing = failing
}

// Load is as msl.Store wants it.
func (st *store) Load(ctx context.Context) (*msl.State, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.failing {
		return nil, &errSimulated{"loading"}
	}
	return st.MemoryStore.Load(ctx)
}

// Save is as msl.Store wants it.
func (st *store) Save(ctx context.Context, state *msl.State) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := st.look(state); err != nil {
		st.s.broken("the store of %s: %w", st.name, err)
	}
	if st.failing {
		return &errSimulated{"saving"}
	}
	return st.MemoryStore.Save(ctx, state)
}

// look checks a state against those before it, and within itself.
func (st *store) look(state *msl.State) error {
	var token *msl.MasterToken
	if len(state.MasterToken) > 0 {
		var err error
		if token, err = msl.ParseMasterToken(state.MasterToken); err != nil {
			return err
		}
	}
	last, lastID := st.last, st.lastID
	st.last, st.lastID = token, state.NonReplayableID
	if last != nil && (token == nil || token.SerialNumber != last.SerialNumber) {
		st.gone[last.SerialNumber] = true
	}
	if token != nil {
		switch {
		case st.gone[token.SerialNumber]:
			return fmt.Errorf("a master token that was given up has come back")
		case last == nil || last.SerialNumber != token.SerialNumber:
		case last.NewerThan(token):
			return fmt.Errorf("master token %d was replaced by %d", last.SequenceNumber, token.SequenceNumber)
		case state.NonReplayableID < lastID:
			return fmt.Errorf("non-replayable id %d follows %d", state.NonReplayableID, lastID)
		}
	}
	return bound(state, token)
}

// bound checks that whatever is bound to a token is there together with that.
func bound(state *msl.State, token *msl.MasterToken) error {
	users := map[int64]bool{-1: true}
	for _, encoded := range state.UserIDTokens {
		u, err := msl.ParseUserIDToken(encoded, token)
		if err != nil {
			return fmt.Errorf("user ID token: %w", err)
		}
		if users[u.SerialNumber] {
			return fmt.Errorf("two users have one token")
		}
		users[u.SerialNumber] = true
	}
	for _, encoded := range state.ServiceTokens {
		t, err := msl.ParseServiceToken(encoded)
		switch {
		case err != nil:
			return fmt.Errorf("service token: %w", err)
		case t.MasterTokenSerialNumber >= 0 && (token == nil || t.MasterTokenSerialNumber != token.SerialNumber):
			return fmt.Errorf("service token %s is bound to a master token that is not there", t.Name)
		case !users[t.UserIDTokenSerialNumber]:
			return fmt.Errorf("service token %s is bound to a user ID token that is not there", t.Name)
		}
	}
	return nil
}
