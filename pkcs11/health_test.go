// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"testing"

	p11 "github.com/miekg/pkcs11"
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
