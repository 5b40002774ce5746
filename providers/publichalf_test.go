// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"testing"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

type onePair struct{ Provider }

func (onePair) Open(context.Context, string, uint32) (Key, error) { return halfKey{}, nil }

type halfKey struct{}

func (halfKey) Info() KeyInfo { return KeyInfo{Name: "pair", Version: 1, Type: ECP256} }

func (halfKey) Sign(context.Context, Mechanism, []byte) ([]byte, error) { return nil, nil }

func (halfKey) PublicKey(context.Context) ([]byte, error) { return []byte("public"), nil }

// TestPublicHalf: the public half of a pair is told when the pair is opened, and not asked for once more.
func TestPublicHalf(t *testing.T) {
	reply, err := (&server{p: onePair{}}).Open(t.Context(), &pb.OpenRequest{Name: "pair"})
	if err != nil || string(reply.Key.PublicKey) != "public" {
		t.Fatalf("%v, %v", reply, err)
	}
	k := publishes{&remoteKey{public: reply.Key.PublicKey}} // which has no connection to ask
	der, err := k.PublicKey(t.Context())
	if err != nil || string(der) != "public" {
		t.Errorf("%q, %v", der, err)
	}
	clear(der)
	if again, _ := k.PublicKey(t.Context()); string(again) != "public" {
		t.Error("a caller can change it")
	}
}
