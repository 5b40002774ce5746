// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// quirkErrorSender: an error message is under this side's own entity data, also in answer to a master token.
func quirkErrorSender(t *testing.T) {
	w := newWorld(t)
	policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
	w.config.Policy = policy
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	w.count()
	policy.master.Store(uint32(msl.MessageFormatError))
	var request, answer mslenc.Object
	w.mangle = func(_ int, response []byte) []byte {
		request, answer = objects(t, w.requests[0])[0], objects(t, response)[0]
		return response
	}
	if _, _, err := say(client, msl.Request{}, "x"); !errors.Is(err, msl.MessageFormatError) {
		t.Fatalf("got %v", err)
	}
	if !request.Has("mastertoken") || !answer.Has("errordata") || !answer.Has("entityauthdata") || answer.Has("mastertoken") {
		t.Errorf("%s was answered with %s", request.Encoding(), answer.Encoding())
	}
}

// quirkHandshakeAnswer: the answer to a handshake is a header alone, neither a handshake nor renewable.
func quirkHandshakeAnswer(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	client := w.newClient(nil)
	defer client.Close()
	answers := 0
	w.mangle = func(n int, response []byte) []byte {
		if n == 0 {
			all := objects(t, response)
			answers = len(all)
			h := headerOf(t, all[0])
			handshake, _ := h.Bool("handshake")
			renewable, _ := h.Bool("renewable")
			if handshake || renewable || !h.Has("keyresponsedata") {
				t.Errorf("the answer is %s", h.Encoding())
			}
		}
		return response
	}
	w.mustSay(client, msl.Request{}, "hello")
	if answers != 1 {
		t.Errorf("the answer has %d objects", answers)
	}
}

// quirkNextID: the message after a handshake has the answer's id plus one.
func quirkNextID(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "hello")
	first, second := w.seen(w.requests[0]), w.seen(w.requests[1])
	if !first.Handshake() || second.Handshake() || second.ID != first.ID+2 {
		t.Errorf("ids %d and %d", first.ID, second.ID)
	}
}

// quirkNoLeak: a server gives no client the unbound service tokens of another.
func quirkNoLeak(t *testing.T) {
	w := newWorld(t)
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		if m.Identity() == "psk-client" {
			rw.ServiceTokens = []msl.NewServiceToken{{Name: "private", Data: []byte("to psk-client")}}
		}
		return echo(ctx, rw, m)
	})
	one := w.newClient(nil)
	defer one.Close()
	if answer := w.mustSay(one, msl.Request{}, "hello"); len(answer.ServiceTokens) != 1 {
		t.Fatalf("%d service tokens", len(answer.ServiceTokens))
	}
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	other := w.newClient(nil)
	defer other.Close()
	for range 2 {
		if answer := w.mustSay(other, msl.Request{}, "hello"); len(answer.ServiceTokens) != 0 {
			t.Errorf("%s went to another client", answer.ServiceTokens[0].Name)
		}
	}
}

// quirkEcho: an answer has the service tokens of the request, with those that delete.
func quirkEcho(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	answer := w.mustSay(client, msl.Request{ServiceTokens: []msl.NewServiceToken{{Name: "gone"}}}, "hello")
	if len(answer.ServiceTokens) != 1 || answer.ServiceTokens[0].Name != "gone" || !answer.ServiceTokens[0].Deleted() {
		t.Errorf("the answer has %d service tokens", len(answer.ServiceTokens))
	}
}

// quirkSessionKey: SYMMETRIC_WRAPPED with the session's keys cannot work, so no configuration can name it.
func quirkSessionKey(t *testing.T) {
	w := newWorld(t)
	w.client.KeyExchanges = exchangesNamed("SYMMETRIC_WRAPPED/SESSION")
	if _, err := msl.NewClient(w.client, inproc.Agent(t), w, nil); err == nil {
		t.Error("a client offers it")
	}
	w.config.KeyExchanges = w.client.KeyExchanges
	if _, err := msl.NewServer(w.config, w.keys, w.handler); err == nil {
		t.Error("a server accepts it")
	}
}

// quirkOffers: mechanism RSA, of which the stacks make different things, is not offered by itself; JWK_RSA, which
// all of them have, is.
func quirkOffers(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "hello")
	var offered []string
	for _, r := range w.seen(w.requests[0]).KeyRequests {
		o, _ := mslenc.Parse(r.KeyData)
		mechanism, _ := o.String("mechanism")
		offered = append(offered, mechanism)
	}
	slices.Sort(offered)
	if want := "JWEJS_RSA JWE_RSA JWK_RSA"; strings.Join(offered, " ") != want {
		t.Errorf("offered %v", offered)
	}
}

// quirkRemoteScheme: whoever talks to an RSA server needs its public key, to read error messages and first answers.
func quirkRemoteScheme(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, refuses := range []bool{true, false} {
			w := newWorld(t)
			w.client.Entity = msl.None("somebody")
			want := msl.Code(0)
			if refuses {
				w.config.EntitySchemes, want = []string{"PSK"}, msl.EntityAuthFactoryNotFound
			}
			if !known {
				w.client.RSAPublicKeys, want = nil, msl.RSAPublicKeyNotFound
			}
			client := w.newClient(nil)
			_, _, err := say(client, msl.Request{}, "hello")
			if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
				t.Errorf("key known %v, refused %v: %v", known, refuses, err)
			}
			client.Close()
		}
	}
}

// quirkOneRenewal: while one message renews the token, others go out with it as it is, and do not ask for another.
func quirkOneRenewal(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	w.mustSay(client, msl.Request{}, "learn the time")
	w.count()
	w.advance(2 * time.Hour)
	reached, held := make(chan struct{}), make(chan struct{})
	w.meddle = func(n int, request []byte) ([]byte, error) {
		if n == 0 {
			close(reached)
			<-held
		}
		return request, nil
	}
	owner := make(chan error, 1)
	go func() {
		_, _, err := say(client, msl.Request{}, "renews")
		owner <- err
	}()
	<-reached
	w.mustSay(client, msl.Request{}, "does not")
	close(held)
	if err := <-owner; err != nil {
		t.Fatal(err)
	}
	for i, renews := range []bool{true, false} {
		if m := w.seen(w.requests[i]); m.Renewable != renews || (len(m.KeyRequests) > 0) != renews {
			t.Errorf("message %d: renewable %v, %d key requests", i, m.Renewable, len(m.KeyRequests))
		}
	}
}

// quirkForeignCodes: errors that only another stack knows, or answers differently, are understood by their response code.
func quirkForeignCodes(t *testing.T) {
	for _, c := range []struct {
		response msl.ResponseCode
		code     int32
		messages int
		recovers bool
		known    msl.Code
	}{
		{msl.UserReauth, 102013, 2, true, 0}, {msl.UserReauth, 102014, 2, true, 0}, // JavaScript
		{msl.UserReauth, 105040, 2, true, msl.UserIDTokenIdentityNotAssociatedWithEntity}, // USERDATA_REAUTH elsewhere
		{msl.Fail, 100066, 1, false, 0}, {msl.Fail, 100067, 1, false, 0}, // C++
		{msl.Fail, 1<<31 - 1, 1, false, 0}, {msl.Fail, 1, 1, false, 0}, {msl.Fail, 0, 1, false, 0},
	} {
		w := newWorld(t)
		client := w.newClient(nil)
		r := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
		w.mustSay(client, r, "get tokens")
		w.count()
		w.mangle = func(n int, response []byte) []byte {
			if n > 0 {
				return response
			}
			e := &msl.RemoteError{MessageID: w.seen(w.requests[0]).ID + 1, Timestamp: w.now.Load(), Response: c.response, InternalCode: c.code}
			message, err := e.SealForTest(t.Context(), w.config, w.keys)
			if err != nil {
				t.Error(err)
			}
			return message
		}
		_, _, err := say(client, r, "hello")
		w.expectRequests(c.messages, fmt.Sprint(c.code))
		if c.recovers != (err == nil) {
			t.Errorf("%d: %v", c.code, err)
		}
		if e, ok := errors.AsType[*msl.RemoteError](err); !c.recovers && (!ok || e.Code() != 0 || e.Unwrap() != nil || e.Error() == "") {
			t.Errorf("%d: %v", c.code, err)
		}
		if e := (&msl.RemoteError{Response: c.response, InternalCode: c.code}); e.Code() != c.known {
			t.Errorf("%d is %v", c.code, e.Code())
		}
		client.Close()
	}
}

// quirkLadders: of two ladders on a pre-shared key a server that names neither prefers the one on whose key all
// stacks agree.
func quirkLadders(t *testing.T) {
	w := newWorld(t)
	keys := &issuing{ServerKeys: w.keys}
	w.keys = keys
	w.client.KeyExchanges = exchangesNamed("JWE_LADDER/PSK JWK_LADDER/PSK")
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "hello")
	if !slices.Equal(keys.answered, []string{"JWK_LADDER/PSK"}) {
		t.Errorf("answered %v", keys.answered)
	}
}
