// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/mslkeep/mslkeep/msl"
)

// A sentMessage is what a server sees of a message.
type sentMessage struct {
	*msl.Message
	data string
}

// permit accepts what a test looks at more than once.
type permit struct{ *msl.MemoryPolicy }

func (permit) NonReplayable(context.Context, string, *msl.MasterToken, int64) (msl.Code, error) {
	return 0, nil
}

// seen opens a request as the server does.
func (w *world) seen(request []byte) sentMessage {
	w.t.Helper()
	cfg := *w.config
	cfg.Policy = permit{msl.NewMemoryPolicy(w.config)}
	keys := w.keys
	o := msl.Opener{Config: &cfg, Entities: keys, Tokens: keys, Services: keys}
	m, err := o.Open(context.Background(), bytes.NewReader(request))
	if err != nil {
		w.t.Fatalf("a message that the server cannot open: %v", err)
	}
	data, err := io.ReadAll(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return sentMessage{m, string(data)}
}

// errorTo returns an error message in answer to a request.
func (w *world) errorTo(m sentMessage, r msl.ResponseCode, id int64) []byte {
	w.t.Helper()
	e := &msl.RemoteError{MessageID: id, Timestamp: w.now.Load(), Response: r, InternalCode: 100000, Text: "a test"}
	message, err := e.SealForTest(context.Background(), w.config, w.keys)
	if err != nil {
		w.t.Fatal(err)
	}
	return message
}

// What a message shows and asks for, and what is kept.
const (
	mt   = 1 << iota // a master token
	uit              // a user ID token
	auth             // user authentication data
	keyx             // key requests, and the renewable flag
)

// TestErrorTable is §8.5 row by row: what is sent after each response code, and what is still kept then.
func TestErrorTable(t *testing.T) {
	for _, row := range []struct {
		name      string
		response  msl.ResponseCode
		had       int  // of mt and uit, when the request was sent
		once      bool // the request is non-replayable
		none      bool // there are no further credentials
		gives     bool // up: the caller gets the error
		kept      int  // of mt and uit, after the error
		next      int  // what the next message has
		asksAgain bool // for credentials other than those before
		keysFirst bool // the next message is a handshake
	}{
		{name: "FAIL", response: msl.Fail, had: mt | uit, gives: true, kept: mt | uit},
		{name: "TRANSIENT_FAILURE", response: msl.TransientFailure, had: mt | uit, gives: true, kept: mt | uit},
		{name: "unknown", response: 99, had: mt | uit, gives: true, kept: mt | uit},
		{name: "ENTITY_REAUTH", response: msl.EntityReauth, had: mt | uit, kept: 0, next: auth | keyx},
		{name: "ENTITY_REAUTH without tokens", response: msl.EntityReauth, gives: true},
		{name: "ENTITYDATA_REAUTH", response: msl.EntityDataReauth, had: mt | uit, kept: 0, next: auth | keyx},
		{name: "ENTITYDATA_REAUTH without tokens", response: msl.EntityDataReauth, gives: true},
		{name: "USER_REAUTH", response: msl.UserReauth, had: mt | uit, kept: mt, next: mt | auth},
		{name: "USER_REAUTH without tokens", response: msl.UserReauth, next: auth | keyx},
		{name: "USERDATA_REAUTH", response: msl.UserDataReauth, had: mt | uit, kept: mt, next: mt | auth, asksAgain: true},
		{name: "USERDATA_REAUTH, nobody else", response: msl.UserDataReauth, had: mt | uit, none: true, gives: true, kept: mt, asksAgain: true},
		{name: "SSOTOKEN_REJECTED", response: msl.SSOTokenRejected, had: mt | uit, kept: mt, next: mt | auth, asksAgain: true},
		{name: "SSOTOKEN_REJECTED, nobody else", response: msl.SSOTokenRejected, had: mt | uit, none: true, gives: true, kept: mt, asksAgain: true},
		{name: "KEYX_REQUIRED", response: msl.KeyxRequired, had: mt | uit, kept: mt | uit, next: auth | keyx},
		{name: "KEYX_REQUIRED without tokens", response: msl.KeyxRequired, next: auth | keyx, keysFirst: true},
		{name: "EXPIRED", response: msl.Expired, had: mt | uit, kept: mt | uit, next: mt | uit | keyx},
		{name: "EXPIRED without tokens", response: msl.Expired, next: auth | keyx},
		{name: "REPLAYED", response: msl.Replayed, had: mt | uit, once: true, kept: mt | uit, next: mt | uit},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			store := new(msl.MemoryStore)
			client := w.newClient(store)
			defer client.Close()
			asked := false
			r := msl.Request{User: "me", NonReplayable: row.once, Credentials: func(_ context.Context, again bool) (*msl.UserAuthData, error) {
				asked = asked || again
				if again && row.none {
					return nil, nil
				}
				return msl.EmailPassword("user1@example.com", "pass-1"), nil
			}}
			if row.had != 0 {
				w.mustSay(client, r, "get tokens")
				w.count()
			}
			var failed, next sentMessage
			var kept *msl.State
			w.mangle = func(n int, response []byte) []byte {
				m := w.seen(w.requests[n])
				if n == 0 {
					failed = m
					return w.errorTo(m, row.response, m.ID+1)
				}
				return response
			}
			w.meddle = func(n int, request []byte) ([]byte, error) {
				if n == 1 {
					next = w.seen(request)
					kept, _ = store.Load(t.Context())
				}
				return request, nil
			}
			said, _, err := say(client, r, "the data")
			messages, want := w.count(), 2
			if row.keysFirst {
				want = 3
			}
			if row.gives {
				kept, _ = store.Load(t.Context())
				if _, ok := errors.AsType[*msl.RemoteError](err); !ok || messages != 1 {
					t.Errorf("after %d messages: %v", messages, err)
				}
			} else if err != nil || said != "the data" || messages != want {
				t.Fatalf("after %d messages: %q, %v", messages, said, err)
			}
			if got := keptTokens(kept); got != row.kept {
				t.Errorf("kept %b, not %b", got, row.kept)
			}
			if asked != row.asksAgain {
				t.Errorf("asked for other credentials: %v", asked)
			}
			if row.gives {
				return
			}
			if got := shown(next); got != row.next {
				t.Errorf("the next message has %b, not %b", got, row.next)
			}
			if next.ID != failed.ID+2 {
				t.Errorf("its id is %d, the error's was %d", next.ID, failed.ID+1)
			}
			if failed.data != "the data" || next.Handshake() != row.keysFirst || !row.keysFirst && next.data != failed.data {
				t.Errorf("its data is %q, handshake %v", next.data, next.Handshake())
			}
			if row.once && (next.NonReplayableID != failed.NonReplayableID+1 || failed.NonReplayableID < 1) {
				t.Errorf("its non-replayable id is %d, after %d", next.NonReplayableID, failed.NonReplayableID)
			}
		})
	}
}

func shown(m sentMessage) (has int) {
	if m.MasterToken != nil {
		has |= mt
	}
	if m.UserIDToken != nil {
		has |= uit
	}
	if m.UserAuth {
		has |= auth
	}
	if m.Renewable && len(m.KeyRequests) > 0 {
		has |= keyx
	}
	return has
}

func keptTokens(s *msl.State) (has int) {
	if s == nil {
		return -1
	}
	if s.MasterToken != nil {
		has |= mt
	}
	if len(s.UserIDTokens) > 0 {
		has |= uit
	}
	return has
}

// TestErrorMessageIDs: an error that does not answer this request is no answer, but for those codes that are
// sent where the request's id could not be read (§4.13).
func TestErrorMessageIDs(t *testing.T) {
	for response, waived := range map[msl.ResponseCode]bool{
		msl.Fail: true, msl.TransientFailure: true, msl.EntityReauth: true, msl.EntityDataReauth: true,
		msl.UserReauth: false, msl.UserDataReauth: false, msl.SSOTokenRejected: false, msl.KeyxRequired: false, msl.Expired: false, msl.Replayed: false,
	} {
		w := newWorld(t)
		client := w.newClient(nil)
		w.mustSay(client, msl.Request{}, "get a token")
		w.count()
		w.mangle = func(n int, _ []byte) []byte {
			m := w.seen(w.requests[n])
			return w.errorTo(m, response, m.ID+3)
		}
		_, _, err := say(client, msl.Request{}, "x")
		if refused := errors.Is(err, msl.UnexpectedResponseMessageID); refused == waived || err == nil {
			t.Errorf("%v with another id: %v", response, err)
		}
		client.Close()
	}
}
