// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// peerVector returns a message of the vectors in a peer-to-peer network.
func peerVector(t *testing.T, name string) msltest.Case {
	t.Helper()
	cases := msltest.Cases(t, "messages.json")
	i := slices.IndexFunc(cases, func(c msltest.Case) bool { return c.Group == "peer-to-peer" && c.Name == name })
	if i < 0 {
		t.Fatalf("there is no vector %s", name)
	}
	return cases[i]
}

// TestPeerKeyResponse: between peers a key response gives this side a session, and the payloads beside it are
// under the header's keys nevertheless (§4.7); it is taken only in answer to a request (behaviour 105).
func TestPeerKeyResponse(t *testing.T) {
	c := peerVector(t, "key-response")
	o := server(t, vectorConfig())
	o.Config.PeerToPeer = true
	if _, err := o.Open(t.Context(), bytes.NewReader(c.Bytes("message"))); msl.CodeOf(err) != msl.KeyxResponseRequestMismatch {
		t.Errorf("without a request: %v", err)
	}
	given := inproc.Context(t, inproc.KeySet{EncryptionKey: c.Hex("new_encryption_key"), HMACKey: c.Hex("new_hmac_key")})
	o.Requests = map[string]msl.PendingExchange{"ASYMMETRIC_WRAPPED": knownExchange{given}}
	m, err := o.Open(context.Background(), bytes.NewReader(c.Bytes("message")))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var want wantHeader
	c.Into("header", &want)
	if err := sameHeader(m, &want); err != nil {
		t.Error(err)
	}
	if data, err := io.ReadAll(m); err != nil || !bytes.Equal(data, c.Bytes("data")) {
		t.Errorf("%q, %v", data, err)
	}
	if m.NewSession != given || m.Session == nil || m.Session.Identity != "psk-client" {
		t.Errorf("session %v, new session %v", m.Session, m.NewSession)
	}
}

// TestTrustedModeDropsPeerTokens: in a trusted services network nothing is read of them (behaviour 88).
func TestTrustedModeDropsPeerTokens(t *testing.T) {
	for _, peers := range []bool{false, true} {
		o := server(t, vectorConfig())
		o.Config.PeerToPeer = peers
		m, err := o.Open(t.Context(), bytes.NewReader(peerVector(t, "both-tokens").Bytes("message")))
		if err != nil {
			t.Fatal(err)
		}
		if has := m.PeerMasterToken != nil && m.PeerUserIDToken != nil && len(m.PeerServiceTokens) == 2; has != peers {
			t.Errorf("peer tokens were read: %v, in a peer-to-peer network: %v", has, peers)
		}
		m.Close()
	}
}
