// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// A slowStore does not save before begun is closed.
type slowStore struct {
	msl.MemoryStore
	t     *testing.T
	begun chan struct{}
}

func (s *slowStore) Save(ctx context.Context, state *msl.State) error {
	select {
	case <-s.begun:
	case <-time.After(10 * time.Second):
		s.t.Error("the next message waits for the store")
	}
	return s.MemoryStore.Save(ctx, state)
}

// TestSettle: after a handshake the message with the data does not wait until the session is saved, and Do does.
func TestSettle(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	store := &slowStore{t: t, begun: make(chan struct{})}
	w.meddle = func(n int, request []byte) ([]byte, error) {
		if n == 1 {
			close(store.begun)
		}
		return request, nil
	}
	client := w.newClient(store)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "hello")
	w.expectRequests(2, "the first message")
	if state, err := store.Load(t.Context()); err != nil || len(state.SealedSession) == 0 || len(state.MasterToken) == 0 {
		t.Errorf("after the answer, the store lacks the session: %v", err)
	}
	again := w.newClient(store)
	defer again.Close()
	w.mustSay(again, msl.Request{}, "again")
	w.expectRequests(1, "a message on the stored session")
}
