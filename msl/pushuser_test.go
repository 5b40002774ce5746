// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"errors"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestPushToAnotherUser: what was pushed to one user of a client does not answer another one, who would get that
// user's token with it. The network can put it there, since both are under one session.
func TestPushToAnotherUser(t *testing.T) {
	w := newWorld(t)
	pushing := false
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		if pushing {
			return pushes(false, "news")(ctx, rw, m)
		}
		return echo(ctx, rw, m)
	})
	client := w.newClient(nil)
	defer client.Close()
	one := msl.Request{User: "one", Credentials: login("user1@example.com", "pass-1")}
	two := msl.Request{User: "two", Credentials: login("user2@example.com", `päss "2"`)}
	for _, r := range []msl.Request{{}, one, two} {
		w.mustSay(client, r, "get tokens") // the session first
	}
	pushing = true
	var recorded []byte
	w.mangle = func(_ int, answer []byte) []byte { recorded = append([]byte(nil), answer...); return answer }
	one.AcceptPush, two.AcceptPush = true, true
	if text, _, err := say(client, one, "what is new?"); text != "news" || err != nil {
		t.Fatalf("%q, %v", text, err)
	}
	w.mangle = func(int, []byte) []byte { return recorded }
	for _, r := range []msl.Request{two, {AcceptPush: true}} {
		if text, _, err := say(client, r, "and for me?"); !errors.Is(err, msl.UnexpectedResponseMessageID) {
			t.Errorf("user %q heard %q: %v", r.User, text, err)
		}
	}
	if text, _, err := say(client, one, "once more"); text != "news" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// TestPushOfSomethingElse: an answer to another message is no pushed one: neither one that brought keys before, which the same
// agent could still read, nor one to somebody else, under no session.
func TestPushOfSomethingElse(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	keys := inproc.Agent(t)
	start := func() *msl.Client {
		w.newClient(nil).Close()
		client, err := msl.NewClient(w.client, keys, w, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	var recorded []byte
	record := func(_ int, answer []byte) []byte { recorded = append([]byte(nil), answer...); return answer }
	instead := func(int, []byte) []byte { return recorded }
	for name, r := range map[string]msl.Request{
		"brought keys": {Protection: msl.IntegrityProtected},
		"has no token": {Protection: msl.Unprotected, User: "no credentials"},
	} {
		w.mangle = record
		w.mustSay(start(), r, "x")
		w.mangle = instead
		r.AcceptPush = true
		if text, _, err := say(start(), r, "x"); !errors.Is(err, msl.UnexpectedResponseMessageID) {
			t.Errorf("one that %s: %q, %v", name, text, err)
		}
	}
}
