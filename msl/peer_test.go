// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// A network is two parties of a peer-to-peer network, a that asks and b that answers, each an issuer with
// token keys of its own.
type network struct {
	t       testing.TB
	now     atomic.Int64 // Unix seconds
	a, b    *msl.Config
	handler msl.Handler
	keysA   *agent.Client
	keysB   *agent.Client
	client  *msl.Client
	server  *msl.Server

	transport *msl.StreamTransport // of client

	mu       sync.Mutex
	failures []error
	dials    int
	served   sync.WaitGroup
	ctx      context.Context
	meddle   func(net.Conn) net.Conn // of the side of a
}

func newNetwork(t testing.TB, a, b msl.EntityAuthData) *network {
	return newNetworkWith(t, inproc.Agent(t), inproc.OtherIssuer(t), a, b)
}

// newNetworkWith is newNetwork with agents that may have been in others before.
func newNetworkWith(t testing.TB, keysA, keysB *agent.Client, a, b msl.EntityAuthData) *network {
	n := &network{t: t, handler: handler(echo), keysA: keysA, keysB: keysB}
	keys := rsaKeys(t)
	identities := map[string][]string{"rsa-server-key": {"rsa-srv"}, "rsa-client-key": {"rsa-client"}}
	n.now.Store(inproc.Time.Unix())
	clock := func() time.Time { return time.Unix(n.now.Load(), 0) }
	for _, side := range []struct {
		c   **msl.Config
		own msl.EntityAuthData
	}{{&n.a, a}, {&n.b, b}} {
		*side.c = &msl.Config{
			PeerToPeer: true, Entity: side.own, EntitySchemes: []string{"PSK", "RSA", "NONE"}, Users: oneUser{}, Clock: clock,
			RSAPublicKeys: keys, RSAIdentities: identities, ServiceTokenKeys: map[string]string{"": "default"},
		}
	}
	n.a.RemoteIdentity = b.Identity()
	var stop context.CancelFunc
	n.ctx, stop = context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); n.served.Wait() })
	return n
}

func (n *network) start() {
	n.t.Helper()
	var err error
	if n.server, err = msl.NewServer(n.b, n.keysB, n.handler); err != nil {
		n.t.Fatal(err)
	}
	n.server.Failed = func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.failures = append(n.failures, err)
	}
	n.transport = &msl.StreamTransport{Dial: n.dial}
	if n.client, err = msl.NewClient(n.a, n.keysA, n.transport, nil); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(n.client.Close)
	n.now.Add(2) // tokens are issued after the policies were made
}

// dial connects by a pipe that keeps nothing back, so that whoever writes waits for a reader.
func (n *network) dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	n.mu.Lock()
	n.dials++
	meddle := n.meddle
	n.mu.Unlock()
	n.served.Go(func() { _ = n.server.ServeConn(n.ctx, far) })
	if meddle != nil {
		near = meddle(near)
	}
	return near, nil
}

func (n *network) failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.failures...)
}

func (n *network) mustSay(r msl.Request, text string) *msl.Response {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	r.Body = strings.NewReader(text)
	answer, err := n.client.Do(ctx, &r)
	if err != nil {
		n.t.Fatalf("saying %.20q: %v; the other side: %v", text, err, n.failed())
	}
	data, err := io.ReadAll(answer)
	if err != nil || string(data) != text {
		n.t.Fatalf("said %.20q, heard %.20q: %v; the other side: %v", text, data, err, n.failed())
	}
	if err := answer.Close(); err != nil {
		n.t.Error(err)
	}
	return answer
}

var peerEntities = []msl.EntityAuthData{msl.PSK("psk-client"), msl.RSA("rsa-srv", "rsa-server-key"), msl.None("somebody")}

// TestPeers: whatever the two authenticate with, each is soon under a session that the other has issued (§8.14).
func TestPeers(t *testing.T) {
	for _, a := range peerEntities {
		for _, b := range []msl.EntityAuthData{msl.PSK("psk-server"), msl.RSA("rsa-client", "rsa-client-key"), msl.None("anybody")} {
			t.Run(a.Scheme+"/"+b.Scheme, func(t *testing.T) {
				n := newNetwork(t, a, b)
				n.start()
				var sequence int64
				for i := range 5 {
					answer := n.mustSay(msl.Request{}, fmt.Sprint("message ", i))
					if !answer.Encrypted {
						t.Errorf("answer %d is not encrypted", i)
					}
					if i < 2 {
						continue // the first ones may be under pre-shared keys
					}
					if answer.Session == nil || answer.Session.Identity != b.Identity() || answer.PeerMasterToken == nil {
						t.Errorf("answer %d came under %v, with token %v for next time", i, answer.Session, answer.PeerMasterToken)
					}
					if i > 2 && answer.PeerMasterToken != nil && answer.PeerMasterToken.SequenceNumber != sequence {
						t.Error("the token was renewed before its time")
					}
					if answer.PeerMasterToken != nil {
						sequence = answer.PeerMasterToken.SequenceNumber
					}
				}
				if err := n.failed(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestPeerTokens: users and service tokens of both directions: what b gives a is in the peer tokens of its
// answers, and a shows it from then on (behaviour 118).
func TestPeerTokens(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.PSK("psk-server"))
	var users []string
	var carried [][]*msl.ServiceToken
	n.handler = handler(func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
		users, carried = append(users, m.User), append(carried, m.ServiceTokens)
		w.ServiceTokens = []msl.NewServiceToken{{Name: "yours", BoundToUser: true, Encrypt: true, Data: []byte("from b")}}
		return echo(ctx, w, m)
	})
	n.start()
	asked := 0
	r := msl.Request{User: "me", Credentials: func(context.Context, bool) (*msl.UserAuthData, error) {
		asked++
		return msl.EmailPassword("user1@example.com", "pass-1"), nil
	}, ServiceTokens: []msl.NewServiceToken{{Name: "mine", Data: []byte("from a")}}}
	var answer *msl.Response
	for range 4 {
		answer = n.mustSay(r, "x")
	}
	if asked != 1 || strings.Join(users, " ") != "user1 user1 user1 user1" {
		t.Errorf("asked for the password %d times; the users are %q", asked, users)
	}
	if answer.PeerUserIDToken == nil || len(answer.PeerServiceTokens) != 2 {
		t.Errorf("the answer brought user ID token %v and %d service tokens", answer.PeerUserIDToken, len(answer.PeerServiceTokens))
	}
	var names []string
	for _, st := range carried[3] {
		names = append(names, st.Name+"="+string(st.Value))
	}
	if got := strings.Join(names, " "); got != "yours=from b mine=from a" {
		t.Errorf("the last request carried %s", got)
	}
}

// TestPeerStreams: long data both ways at once, over a pipe that keeps nothing back, while keys are exchanged.
func TestPeerStreams(t *testing.T) {
	for _, b := range []msl.EntityAuthData{msl.PSK("psk-server"), msl.RSA("rsa-client", "rsa-client-key")} {
		n := newNetwork(t, msl.PSK("psk-client"), b)
		n.start()
		long := bytes.Repeat([]byte("0123456789abcdef"), 50_000) // less than what is held while keys are exchanged
		for range 3 {
			n.mustSay(msl.Request{Compression: "NONE"}, string(long))
		}
	}
}

// TestPeerForgets: either side may lose what it knows of the other, and they find together again by themselves.
func TestPeerForgets(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key"))
	n.start()
	n.mustSay(msl.Request{}, "1")
	n.mustSay(msl.Request{}, "2")

	server, err := msl.NewServer(n.b, n.keysB, n.handler) // b starts anew, and so has lost a's token
	if err != nil {
		t.Fatal(err)
	}
	n.server = server
	n.mustSay(msl.Request{}, "3")
	n.mustSay(msl.Request{}, "4")

	n.keysB = inproc.OtherIssuer(t) // b has new token keys: it does not know its own tokens any more
	if n.server, err = msl.NewServer(n.b, n.keysB, n.handler); err != nil {
		t.Fatal(err)
	}
	n.mustSay(msl.Request{}, "5")
	n.mustSay(msl.Request{}, "6")

	n.keysA = inproc.OtherIssuer(t) // a has new token keys and has lost everything: b shows it a token that it cannot open
	if n.client, err = msl.NewClient(n.a, n.keysA, &msl.StreamTransport{Dial: n.dial}, nil); err != nil {
		t.Fatal(err)
	}
	defer n.client.Close()
	n.mustSay(msl.Request{}, "7")
	n.mustSay(msl.Request{}, "8")
}

// TestPeerLosesIssuerKeys: a cannot open the tokens that it issued to b any more. It says so, and b exchanges
// keys with the next message.
func TestPeerLosesIssuerKeys(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.PSK("psk-server"))
	store := new(msl.MemoryStore)
	n.start()
	var err error
	connect := func() {
		if n.client, err = msl.NewClient(n.a, n.keysA, &msl.StreamTransport{Dial: n.dial}, store); err != nil {
			t.Fatal(err)
		}
	}
	connect()
	n.mustSay(msl.Request{}, "1")
	n.mustSay(msl.Request{}, "2")
	n.client.Close()
	n.keysA = inproc.OtherIssuer(t)
	connect()
	defer n.client.Close()
	if _, _, err := say(n.client, msl.Request{}, "3"); !errors.Is(err, msl.MasterTokenUntrusted) {
		t.Errorf("b's token was opened: %v", err)
	}
	for range 100 { // b may not have looked at the complaint yet
		if _, _, err = say(n.client, msl.Request{}, "4"); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("b goes on to show its token: %v", err)
	}
	n.mustSay(msl.Request{}, "5")
}
