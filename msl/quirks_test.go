// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestQuirks shows what no vector does of the points in which stacks are odd, or differ, by their numbers in
// docs/msl.md ("Every quirk, decided").
func TestQuirks(t *testing.T) {
	t.Run("2", quirkFirstByte)
	t.Run("14", quirkBinding)
	t.Run("15", quirkErrorSender)
	t.Run("17", quirkHandshakeAnswer)
	t.Run("19", quirkSender)
	t.Run("20", quirkOptionalMembers)
	t.Run("29", quirkNextID)
	t.Run("34", quirkUnreadableServiceTokens)
	t.Run("36", quirkNoLeak)
	t.Run("37", quirkEcho)
	t.Run("40", quirkLastFactory)
	t.Run("41", quirkSessionKey)
	t.Run("44", quirkOffers)
	t.Run("54", quirkRemoteScheme)
	t.Run("57", quirkOneRenewal)
	t.Run("empty-arrays", quirkEmptyArrays)
	t.Run("codes", quirkForeignCodes)
	t.Run("ladders", quirkLadders)
	t.Run("random-ids", quirkRandomIDs)
}

// byHand is a message of scheme NONE with this header data and payload.
func byHand(header, payload string) []byte {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	return fmt.Appendf(nil, `{"entityauthdata":{"scheme":"NONE","authdata":{"identity":"a"}},"headerdata":%q,"signature":""}{"payload":%q,"signature":""}`,
		b64(header), b64(payload))
}

const (
	plainHeader  = `{"messageid":5,"renewable":false}`
	plainPayload = `{"messageid":5,"sequencenumber":1,"endofmsg":true,"data":"eA=="}`
)

func readAll(o *msl.Opener, message []byte) (string, error) {
	m, err := o.Open(context.Background(), bytes.NewReader(message))
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(m)
	return string(data), err
}

// quirkFirstByte: decrypted plaintext, too, begins with its brace.
func quirkFirstByte(t *testing.T) {
	for _, c := range []struct {
		header, payload string
		ok              bool
	}{
		{plainHeader, plainPayload, true}, {plainHeader + "\n", "{ " + plainPayload[1:] + " ", true},
		{" " + plainHeader, plainPayload, false}, {plainHeader, "\n" + plainPayload, false},
		{"\ufeff" + plainHeader, plainPayload, false}, {plainHeader, "\ufeff" + plainPayload, false},
	} {
		data, err := readAll(noneOpener(), byHand(c.header, c.payload))
		if c.ok && (err != nil || data != "x") || !c.ok && msl.CodeOf(err) != msl.MSLParseError {
			t.Errorf("%q, %q: %q, %v", c.header, c.payload, data, err)
		}
	}
}

// quirkBinding: beside a key response, tokens are bound to the new master token, but between peers to the old one.
func quirkBinding(t *testing.T) {
	cfg := noneConfig()
	for _, c := range []struct {
		peers bool
		bound int64
		ok    bool
	}{{false, 2, true}, {false, 1, false}, {true, 1, true}, {true, 2, false}} {
		m := &msl.Outgoing{Header: msl.NewHeaderData(cfg, 5), MasterToken: &msl.MasterToken{SerialNumber: 1}, Context: &plainContext{}}
		m.Header.PeerToPeer = c.peers
		m.Header.KeyResponse = &msl.KeyResponse{MasterToken: &msl.MasterToken{SerialNumber: 2}, Scheme: "X", KeyData: []byte("{}")}
		m.Header.UserIDToken = &msl.UserIDToken{MasterTokenSerialNumber: c.bound, SerialNumber: 3}
		_, err := msl.NewMessageWriter(t.Context(), io.Discard, m)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, msl.UserIDTokenMasterTokenMismatch) {
			t.Errorf("peers %v, bound to %d: %v", c.peers, c.bound, err)
		}
	}
}

// headerOf returns header data that is not encrypted.
func headerOf(t *testing.T, outer mslenc.Object) mslenc.Object {
	t.Helper()
	data, err := outer.Binary("headerdata")
	if err != nil {
		t.Fatal(err)
	}
	h, err := mslenc.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// written returns the header data of a message that this side wrote.
func written(t *testing.T, change func(*msl.Outgoing)) mslenc.Object {
	t.Helper()
	var out bytes.Buffer
	if err := noneMessage(t, &out, &plainContext{}, change).Close(); err != nil {
		t.Fatal(err)
	}
	return headerOf(t, objects(t, out.Bytes())[0])
}

// quirkSender: old stacks want a sender beside a master token, and the flag nonreplayable always.
func quirkSender(t *testing.T) {
	token := &msl.MasterToken{SerialNumber: 1}
	for _, c := range []struct {
		token  *msl.MasterToken
		sender string
		id     int64
	}{{nil, "me", -1}, {token, "me", -1}, {token, "", 7}} {
		h := written(t, func(m *msl.Outgoing) {
			m.MasterToken, m.Header.Sender, m.Header.NonReplayableID = c.token, c.sender, c.id
		})
		if h.Has("sender") != (c.token != nil) {
			t.Errorf("sender in %s", h.Encoding())
		}
		if s, err := h.String("sender"); c.token != nil && (err != nil || s != c.sender) {
			t.Errorf("sender %q, %v", s, err)
		}
		if flag, err := h.Bool("nonreplayable"); err != nil || flag != (c.id >= 0) || h.Has("nonreplayableid") != flag {
			t.Errorf("%s: %v", h.Encoding(), err)
		}
	}
}

// quirkOptionalMembers: what says nothing is left out, and the capabilities have all their members.
func quirkOptionalMembers(t *testing.T) {
	h := written(t, func(m *msl.Outgoing) {
		m.Header.KeyRequests, m.Header.ServiceTokens = []msl.KeyRequest{}, []*msl.ServiceToken{}
		m.Header.Capabilities = &msl.Capabilities{}
	})
	for _, name := range []string{"keyrequestdata", "servicetokens", "useridtoken", "userauthdata", "keyresponsedata", "peermastertoken", "peerservicetokens"} {
		if h.Has(name) {
			t.Errorf("%s in %s", name, h.Encoding())
		}
	}
	caps, err := h.Object("capabilities")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"compressionalgos", "languages", "encoderformats"} {
		if all, err := caps.Strings(name); err != nil || len(all) != 0 {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
	for code, has := range map[int32]bool{-1: false, 0: false, 1: true} {
		e := &msl.RemoteError{Response: msl.Fail, InternalCode: code}
		o, err := mslenc.Parse(e.EncodeForTest())
		if err != nil || o.Has("internalcode") != has {
			t.Errorf("internal code %d: %s, %v", code, o.Encoding(), err)
		}
	}
	// That endofmsg is written only where it is true, function chunks checks for all of TestWriter.
}

// quirkUnreadableServiceTokens: tokens that this side cannot open are carried, and come back with the answer.
func quirkUnreadableServiceTokens(t *testing.T) {
	cases := msltest.Cases(t, "messages.json")
	i := slices.IndexFunc(cases, func(c msltest.Case) bool { return c.Group == "service-tokens" && c.Name == "all-kinds" })
	cfg := vectorConfig()
	cfg.ServiceTokenKeys = nil
	o := server(t, cfg)
	m, err := o.Open(t.Context(), bytes.NewReader(cases[i].Bytes("message")))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	h, _, err := msl.Respond(t.Context(), cfg, o.Tokens.(msl.ServerKeys), m, io.Discard, nil)
	if err != nil || len(m.ServiceTokens) == 0 || len(h.ServiceTokens) != len(m.ServiceTokens) {
		t.Fatalf("%d tokens came, %d went: %v", len(m.ServiceTokens), len(h.ServiceTokens), err)
	}
	for i, st := range h.ServiceTokens {
		if st.Verified || st.Value != nil || !bytes.Equal(st.Encoding(), m.ServiceTokens[i].Encoding()) {
			t.Errorf("%s came back changed", st.Name)
		}
	}
}

// quirkLastFactory: a request that fails does not keep the next one of the same mechanism from being answered, also
// where nothing is left after these.
func quirkLastFactory(t *testing.T) {
	cfg := vectorConfig()
	cfg.KeyExchanges = exchangesNamed("ASYMMETRIC_WRAPPED/JWE_RSA")
	small := base64.StdEncoding.EncodeToString(inproc.Fixtures().KeyPairs["rsa_small"].SPKI)
	bad := msl.KeyRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: []byte(`{"keypairid":"a","mechanism":"JWE_RSA","publickey":"` + small + `"}`)}
	good := keyRequest(t, "ASYMMETRIC_WRAPPED", "JWE_RSA")
	for _, c := range []struct {
		requests []msl.KeyRequest
		ok       bool
	}{{[]msl.KeyRequest{bad, good}, true}, {[]msl.KeyRequest{bad}, false}} {
		o := server(t, cfg)
		m, err := o.Open(t.Context(), bytes.NewReader(pskMessage(t, o, c.requests)))
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := msl.Respond(t.Context(), cfg, o.Tokens.(msl.ServerKeys), m, io.Discard, []byte("x"))
		if c.ok != (err == nil && h.KeyResponse != nil) {
			t.Errorf("%d requests: %v", len(c.requests), err)
		}
	}
}

// quirkEmptyArrays: an empty array is none.
func quirkEmptyArrays(t *testing.T) {
	for _, extra := range []string{`"servicetokens":[]`, `"keyrequestdata":[]`, `"servicetokens":[],"keyrequestdata":[]`} {
		if data, err := readAll(noneOpener(), byHand(plainHeader[:len(plainHeader)-1]+","+extra+"}", plainPayload)); err != nil || data != "x" {
			t.Errorf("%s: %q, %v", extra, data, err)
		}
	}
}

// quirkRandomIDs: ids begin below 2^53, which counting alone reaches.
func quirkRandomIDs(t *testing.T) {
	high := false
	for range 1000 {
		id := msl.RandomID()
		if id < 0 || id >= mslenc.MaxLong {
			t.Fatalf("id %d", id)
		}
		high = high || id >= mslenc.MaxLong/2
	}
	if !high {
		t.Error("the ids have not all bits")
	}
}
