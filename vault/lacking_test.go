// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// TestLacking: whatever is taken away from the policy is said to be lacking, and nothing else is.
func TestLacking(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Do("POST", "transit/keys/entities", `{"type":"aes256-gcm96"}`, nil)
	config := Config{Address: v.Address, Keys: map[string]providers.KeyType{"entities": providers.AES256}, Auth: Auth{Method: "approle", RoleID: "?", SecretID: "file:/?"}}
	policy, err := Policy(config)
	if err != nil {
		t.Fatal(err)
	}
	role, secretID := v.AppRole("exact", policy, "")
	config.Auth.RoleID, config.Auth.SecretID = role, "file:"+write(t, "secret-id", secretID(""))
	p := open(t, config)
	lacking := func(want string) {
		t.Helper()
		got, err := p.Lacking(t.Context())
		if err != nil || strings.Join(got, "; ") != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	lacking("")
	if wide, err := p.Wide(t.Context()); err != nil || wide != nil {
		t.Errorf("too much: %q, %v", wide, err)
	}
	blocks := strings.SplitAfter(policy, "}\n")
	for i, b := range blocks[:len(blocks)-1] {
		path := strings.Split(b, `"`)[1]
		if path == "sys/capabilities-self" {
			continue // it may not be asked
		}
		capability := strings.Split(b, `"`)[3]
		v.Policy("exact", strings.Join(slices.Concat(blocks[:i], blocks[i+1:]), ""))
		lacking(capability + " on " + path)
	}
}
