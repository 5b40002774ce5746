// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"testing"
)

// TestNestedSettings: a provider's settings may have tables, and the agent passes them on unread.
func TestNestedSettings(t *testing.T) {
	const head = "keys = \"k\"\nkey-source = \"file:u\"\ntoken-keys = \"t\"\nstorage-key = \"s\"\n[[providers]]\nname = \"p\"\nbinary = \"/p\"\nsha256 = \"" +
		"0000000000000000000000000000000000000000000000000000000000000000\"\n"
	c, err := parseConfig(head + "[providers.settings]\na = 1\n[providers.settings.auth]\nmethod = \"x\"\n[providers.settings.auth.more]\nb = [true]\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(c.Providers[0].Settings)
	if want := `{"a":1,"auth":{"method":"x","more":{"b":[true]}}}`; err != nil || string(got) != want {
		t.Errorf("settings %s, want %s: %v", got, want, err)
	}
	if _, err := parseConfig(head + "[providers.setting]\na = 1\n"); err == nil {
		t.Error("a field that is not there was taken")
	}
}
