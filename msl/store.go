// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"sync"
)

// A Store keeps what a client needs to go on after a restart without authenticating anew. It holds
// public tokens and sealed sessions only; neither is of use without the agent's storage key. A
// store belongs to one Client at a time.
type Store interface {
	// Load returns what was last saved, or an empty State.
	Load(ctx context.Context) (*State, error)
	// Save replaces what is kept, whole or not at all, and returns when it is durable. It must not keep s.
	Save(ctx context.Context, s *State) error
}

// A State is what a client keeps. The encoded tokens are MSL objects, exactly as they were received.
type State struct {
	MasterToken     []byte            `json:"mastertoken,omitempty"`
	SealedSession   []byte            `json:"sealedsession,omitempty"`
	NonReplayableID int64             `json:"nonreplayableid"`         // the last id that may have been used (§3.5)
	UserIDTokens    map[string][]byte `json:"useridtokens,omitempty"`  // by local user name
	ServiceTokens   [][]byte          `json:"servicetokens,omitempty"` // of every binding
}

// clone copies s, but not the tokens, which nobody changes.
func (s *State) clone() *State {
	c := *s
	c.UserIDTokens = make(map[string][]byte, len(s.UserIDTokens))
	for user, t := range s.UserIDTokens {
		c.UserIDTokens[user] = t
	}
	c.ServiceTokens = append([][]byte(nil), s.ServiceTokens...)
	return &c
}

// MemoryStore is a Store that forgets everything when the process ends. Its zero value is empty. It
// lets several clients of one process follow each other.
type MemoryStore struct {
	mu    sync.Mutex
	state State
}

// Load returns what was saved last.
func (m *MemoryStore) Load(context.Context) (*State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.clone(), nil
}

// Save keeps a copy of s.
func (m *MemoryStore) Save(_ context.Context, s *State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = *s.clone()
	return nil
}
