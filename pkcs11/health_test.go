// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"sync/atomic"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

func TestWarnings(t *testing.T) {
	const unknown = ^uint(0)
	login := uint(p11.CKF_LOGIN_REQUIRED)
	for _, c := range []struct {
		what string
		info p11.TokenInfo
		want int
	}{
		{"nothing told", p11.TokenInfo{Flags: login, MaxSessionCount: unknown, SessionCount: unknown, MaxRwSessionCount: unknown, RwSessionCount: unknown}, 0},
		{"no limit", p11.TokenInfo{Flags: login, RwSessionCount: 1000}, 0},
		{"just enough", p11.TokenInfo{Flags: login, MaxRwSessionCount: 12, RwSessionCount: 4}, 0},
		{"one too few", p11.TokenInfo{Flags: login, MaxRwSessionCount: 12, RwSessionCount: 5}, 1},
		{"more than all", p11.TokenInfo{Flags: login, MaxRwSessionCount: 2, RwSessionCount: 5}, 1},
		{"none at all of a limit for both kinds", p11.TokenInfo{Flags: login, MaxSessionCount: 1, SessionCount: 1}, 1},
		{"flags", p11.TokenInfo{Flags: p11.CKF_USER_PIN_COUNT_LOW | p11.CKF_USER_PIN_TO_BE_CHANGED}, 3},
	} {
		config := Config{Sessions: 8}
		if got := config.warnings(&c.info); len(got) != c.want {
			t.Errorf("%s: %q", c.what, got)
		}
	}
}

// What Describe warns of comes from the token itself.
func TestDescribeWarns(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	d, err := p.Describe(t.Context())
	if err != nil || len(d.Warnings) != 0 {
		t.Errorf("%q, %v", d.Warnings, err)
	}
}

// TestHealth: each version of each key is used, and one that fails is told, whichever it is.
func TestHealth(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	for name, kt := range map[string]providers.KeyType{"mac": providers.HMACSHA256, "enc": providers.AES128, "key.wrap": providers.AES128, "pair": providers.ECP256} {
		for range 2 {
			_, err := p.Rotate(t.Context(), name)
			if errors.Is(err, providers.NoSuchKey) {
				_, err = p.Generate(t.Context(), name, kt)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	before := p.Calls()
	if err := p.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := p.Calls()
	for call, want := range map[string]uint64{"C_Sign": 4, "C_Encrypt": 2, "C_WrapKey": 2} {
		if n := after[call] - before[call]; n != want {
			t.Errorf("%d calls of %s in a check, want %d", n, call, want)
		}
		for bad := range int32(want) {
			var calls atomic.Int32
			p.fail(func(c string) error {
				if c == call && calls.Add(1) == bad+1 {
					return p11.Error(p11.CKR_KEY_FUNCTION_NOT_PERMITTED)
				}
				return nil
			})
			if err := p.Health(t.Context()); !errors.Is(err, providers.Denied) {
				t.Errorf("%s %d fails: %v", call, bad+1, err)
			}
			p.fail(nil)
		}
	}
}
