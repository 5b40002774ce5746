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
