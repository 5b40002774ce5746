// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"testing"
)

// TestLateRenewal: the renewal of a token that was given up meanwhile changes nothing, whether another
// token has taken its place or none; that of the present token does.
func TestLateRenewal(t *testing.T) {
	ctx := context.Background()
	token := func(serial, sequence int64) *MasterToken {
		return &MasterToken{Token: Token{Data: []byte{byte(serial), byte(sequence)}}, SerialNumber: serial, SequenceNumber: sequence}
	}
	old, other := token(1, 1), token(2, 1)
	c := &clientState{store: new(MemoryStore), keys: sealsNothing{}, loaded: true, users: make(map[string]*UserIDToken)}
	c.newer(ctx, nil, old, nil)
	c.lastID, c.usedIDs = 7, true
	if c.newer(ctx, old, token(1, 2), nil); c.token.SequenceNumber != 2 || c.lastID != 7 {
		t.Errorf("a renewal in time: sequence %d, last id %d", c.token.SequenceNumber, c.lastID)
	}
	c.rejected(ctx, c.token)
	if c.newer(ctx, old, token(1, 3), nil); c.token != nil {
		t.Error("a token that was given up came back")
	}
	c.newer(ctx, nil, other, nil)
	if c.newer(ctx, old, token(1, 3), nil); c.token != other {
		t.Error("a token that was given up took the place of its successor")
	}
}

// sealsNothing is custody without a storage key.
type sealsNothing struct{ ClientKeys }

func (sealsNothing) SealSession(context.Context, CryptoContext) ([]byte, error) {
	return nil, notSupported{op: "sealing"}
}

// TestStoreCascade: the newest master token counts; what is bound to one that is given up goes with it, and what
// is bound to a user ID token with that; unbound service tokens stay (§8.10, behaviour 119).
func TestStoreCascade(t *testing.T) {
	ctx := context.Background()
	token := func(serial, sequence int64) *MasterToken {
		return &MasterToken{Token: Token{Data: []byte{byte(serial), byte(sequence)}}, SerialNumber: serial, SequenceNumber: sequence}
	}
	user := func(serial, mt int64) *UserIDToken {
		return &UserIDToken{Token: Token{Data: []byte{byte(serial), byte(mt)}}, SerialNumber: serial, MasterTokenSerialNumber: mt}
	}
	service := func(name string, mt, uit int64) *ServiceToken {
		return &ServiceToken{Token: Token{Data: []byte(name), Signature: []byte{byte(mt), byte(uit)}},
			ServiceTokenClaims: ServiceTokenClaims{Name: name, MasterTokenSerialNumber: mt, UserIDTokenSerialNumber: uit}}
	}
	c := &clientState{store: new(MemoryStore), keys: sealsNothing{}, loaded: true, users: make(map[string]*UserIDToken)}
	kept := func() (names string) {
		for _, t := range c.services {
			names += t.Name
		}
		return names
	}
	c.newer(ctx, nil, token(1, 5), nil)
	c.received(ctx, "a", user(10, 1), []*ServiceToken{service("u", -1, -1), service("m", 1, -1), service("x", 1, 10)})
	c.received(ctx, "b", user(11, 1), []*ServiceToken{service("y", 1, 11)})
	c.received(ctx, "c", user(12, 2), []*ServiceToken{service("z", 2, -1)}) // bound to a token that is not there
	if len(c.users) != 2 || kept() != "umxy" {
		t.Errorf("%d users, service tokens %s", len(c.users), kept())
	}
	if c.newer(ctx, nil, token(1, 4), nil); c.token.SequenceNumber != 5 {
		t.Error("an older token took the place of a newer one")
	}
	if c.newer(ctx, nil, token(1, 6), nil); c.token.SequenceNumber != 6 || len(c.users) != 2 || kept() != "umxy" {
		t.Errorf("after a renewal: sequence %d, %d users, service tokens %s", c.token.SequenceNumber, len(c.users), kept())
	}
	c.received(ctx, "a", user(13, 1), nil) // the user's next token
	if kept() != "umy" {
		t.Errorf("after another user ID token: %s", kept())
	}
	c.rejectedUser(ctx, "b", user(11, 1))
	if len(c.users) != 1 || kept() != "um" {
		t.Errorf("without the second user: %d users, %s", len(c.users), kept())
	}
	c.lastID, c.usedIDs = 9, true
	if c.newer(ctx, nil, token(3, 1), nil); len(c.users) != 0 || kept() != "u" || c.usedIDs {
		t.Errorf("after another master token: %d users, service tokens %s", len(c.users), kept())
	}
	if id, err := c.nonReplayableID(ctx, c.token); err != nil || id != 1 {
		t.Errorf("its first non-replayable id is %d, %v", id, err)
	}
	if _, err := c.nonReplayableID(ctx, token(1, 6)); err != errReplaced {
		t.Errorf("an id for a token that has gone: %v", err)
	}
	c.rejected(ctx, c.token)
	if c.token != nil || kept() != "u" {
		t.Errorf("in the end: %v, %s", c.token, kept())
	}
}
