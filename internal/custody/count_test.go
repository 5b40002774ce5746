// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"errors"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// counting is a provider with a counter beside the storage key.
type counting struct {
	*software.Provider
	n *uint64
}

func (c *counting) Count(_ context.Context, key string, up bool) (uint64, error) {
	if key != "storage" {
		return 0, &providers.Error{Code: providers.NotSupported, Op: "counting"}
	}
	if up {
		*c.n++
	}
	return *c.n, nil
}

// TestRollback: where the device counts, only the session that was sealed last opens, also after a restart.
func TestRollback(t *testing.T) {
	keys := &counting{fixtureProvider(t), new(uint64)}
	a := newAgent(t, func(c *Config) { c.Provider = keys })
	p := newPeer(t, a)
	var sealed [2][]byte
	var tokens [2]wire.Token
	for i := range sealed {
		issued, finished := exchanged(t, p)
		tokens[i] = issued.Token
		sealed[i] = ask[*wire.SealSessionReply](t, p, &wire.SealSessionRequest{Session: finished.Session}).Sealed
	}
	unseal := func(i int) error {
		b := newAgent(t, func(c *Config) { c.Provider = keys })
		_, err := try[*wire.UnsealSessionReply](newPeer(t, b), &wire.UnsealSessionRequest{Sealed: sealed[i], Token: tokens[i]})
		return err
	}
	if err := unseal(0); !errors.Is(err, wire.VerificationFailed) {
		t.Errorf("an earlier session: %v", err)
	}
	for range 2 {
		if err := unseal(1); err != nil {
			t.Errorf("the last session: %v", err)
		}
	}
	plain := newAgent(t, func(c *Config) { c.Provider = keys.Provider })
	uncounted := newPeer(t, plain)
	if _, err := try[*wire.UnsealSessionReply](uncounted, &wire.UnsealSessionRequest{Sealed: sealed[1], Token: tokens[1]}); !errors.Is(err, wire.VerificationFailed) {
		t.Errorf("without the counter: %v", err)
	}
	issued, finished := exchanged(t, uncounted)
	sealed[0] = ask[*wire.SealSessionReply](t, uncounted, &wire.SealSessionRequest{Session: finished.Session}).Sealed
	tokens[0] = issued.Token
	if err := unseal(0); !errors.Is(err, wire.VerificationFailed) {
		t.Errorf("a session that was not counted: %v", err)
	}
}

// TestServiceTokensOnce: a service token that travels with every message is opened once, with the keys that it is for and
// no others; one that does not verify stays unverified.
func TestServiceTokensOnce(t *testing.T) {
	keys := fixtureProvider(t)
	for _, m := range keySetMembers {
		for _, name := range []string{"service/default", "service/other"} {
			if _, err := keys.Generate(t.Context(), name+m.suffix, m.keyType); err != nil && !errors.Is(err, providers.Exists) {
				t.Fatal(err)
			}
		}
	}
	a := newAgent(t, func(c *Config) { c.Provider = keys })
	p := newPeer(t, a)
	for _, size := range []int{0, 1, 100, maxCachedData + 1} {
		data := make([]byte, size)
		sealed := ask[*wire.SealServiceTokenReply](t, p, &wire.SealServiceTokenRequest{Name: "n", MasterTokenSerialNumber: -1, UserIDTokenSerialNumber: -1, Encrypt: true, Data: data})
		uses := a.usesOf("service/default"+macSuffix, 1)
		before := uses.Load()
		for range 5 {
			opened := ask[*wire.OpenServiceTokenReply](t, p, &wire.OpenServiceTokenRequest{Token: sealed.Token})
			if !opened.Verified || len(opened.Data) != size {
				t.Fatalf("%d bytes are %d", size, len(opened.Data))
			}
			clear(opened.Data)
		}
		want := uint64(1)
		if size > maxCachedData {
			want = 5
		}
		if n := uses.Load() - before; n != want {
			t.Errorf("a token of %d bytes was verified %d times", size, n)
		}
		if opened := ask[*wire.OpenServiceTokenReply](t, p, &wire.OpenServiceTokenRequest{Token: sealed.Token, Keys: "other"}); opened.Verified {
			t.Error("a token opens with other keys")
		}
		sealed.Token.Signature[3] ^= 1
		for range 2 {
			if opened := ask[*wire.OpenServiceTokenReply](t, p, &wire.OpenServiceTokenRequest{Token: sealed.Token}); opened.Verified {
				t.Error("a forged token opens")
			}
		}
	}
}
