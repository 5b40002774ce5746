// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestPeersNeedConnections: HTTP, single messages, and custody that can do only half of it are refused.
func TestPeersNeedConnections(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.PSK("psk-server"))
	n.start()
	if _, err := msl.NewClient(n.a, n.keysA, &msl.HTTPTransport{URL: "http://127.0.0.1:1/"}, nil); err == nil {
		t.Error("a client speaks over HTTP")
	}
	if _, err := msl.NewClient(n.a, struct{ msl.ClientKeys }{n.keysA}, &msl.StreamTransport{Dial: n.dial}, nil); err == nil {
		t.Error("a client without custody that issues tokens")
	}
	if _, err := msl.NewServer(n.b, struct{ msl.ServerKeys }{n.keysB}, n.handler); err == nil {
		t.Error("a server without custody that exchanges keys")
	}
	answer := httptest.NewRecorder()
	n.server.ServeHTTP(answer, httptest.NewRequest("POST", "/", strings.NewReader("{}")))
	if answer.Code < 500 {
		t.Errorf("a server answers over HTTP with %d", answer.Code)
	}
	if err := n.server.ServeExchange(t.Context(), strings.NewReader("{}"), io.Discard); err == nil {
		t.Error("a server answers single messages")
	}
}

// TestPeersPushNothing: they ask each other instead (§8.1).
func TestPeersPushNothing(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.PSK("psk-server"))
	var pushed error
	n.handler = handler(func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
		_, pushed = w.Push()
		return echo(ctx, w, m)
	})
	n.start()
	n.mustSay(msl.Request{}, "x")
	if pushed == nil {
		t.Error("a peer pushed")
	}
}

// TestPeerSends: one-way messages between peers, with data and without (§8.1).
func TestPeerSends(t *testing.T) {
	for _, a := range peerEntities {
		n := newNetwork(t, a, msl.RSA("rsa-client", "rsa-client-key"))
		heard := make(chan string, 1)
		n.handler = handler(func(_ context.Context, w *msl.ResponseWriter, m *msl.Message) error {
			w.Silent = true
			data, err := io.ReadAll(m)
			heard <- string(data)
			return err
		})
		n.start()
		for _, text := range []string{"data", "", "more data"} {
			if err := n.client.Send(t.Context(), &msl.Request{Body: strings.NewReader(text)}); err != nil {
				t.Fatalf("%s: %v; the other side: %v", a.Scheme, err, n.failed())
			}
			if got := <-heard; got != text {
				t.Errorf("%s: said %q, heard %q", a.Scheme, text, got)
			}
		}
		n.handler = nil
	}
}

// TestPeerSaysNothing: requests and answers without data are no handshakes.
func TestPeerSaysNothing(t *testing.T) {
	for _, a := range peerEntities {
		for _, b := range []msl.EntityAuthData{msl.PSK("psk-server"), msl.RSA("rsa-client", "rsa-client-key")} {
			n := newNetwork(t, a, b)
			n.start()
			for range 3 {
				n.mustSay(msl.Request{}, "")
			}
			n.mustSay(msl.Request{}, "x")
		}
	}
}

// TestPeerMessageLimit: a peer that goes on to make handshakes is given up (§8.2).
func TestPeerMessageLimit(t *testing.T) {
	n := newNetwork(t, msl.RSA("rsa-srv", "rsa-server-key"), msl.PSK("psk-server"))
	n.start()
	var said bytes.Buffer
	n.meddle = func(c net.Conn) net.Conn { return &recordingConn{c, &said} }
	n.mustSay(msl.Request{}, "hello")
	n.meddle = nil
	handshake := said.Bytes()[:bytes.Index(said.Bytes(), []byte("}{"))+1]
	// The same handshake again and again: each is answered as the next message of the one before, which it is not.
	conn := &recorder{in: bytes.NewReader(bytes.Repeat(handshake, 20))}
	_ = n.server.ServeConn(t.Context(), conn)
	if answers := bytes.Count(conn.out.Bytes(), []byte(`"headerdata"`)); answers > 20 {
		t.Errorf("%d answers to 20 handshakes", answers)
	}
	n.mustSay(msl.Request{}, "afterwards")
}

// recordingConn keeps what is written to it.
type recordingConn struct {
	net.Conn
	said *bytes.Buffer
}

func (c *recordingConn) Write(p []byte) (int, error) {
	c.said.Write(p)
	return c.Conn.Write(p)
}

// FuzzPeerConn has a server of each kind of network answer anything that may come over a connection.
func FuzzPeerConn(f *testing.F) {
	n := newNetworkWith(f, inproc.Agent(f), inproc.OtherIssuer(f), msl.None("somebody"), msl.None("anybody"))
	n.start()
	for range 2 { // what a peer says first, and what it says with tokens
		var said bytes.Buffer
		n.meddle = func(c net.Conn) net.Conn { return &recordingConn{c, &said} }
		n.mustSay(msl.Request{Protection: msl.Unprotected}, "hello")
		f.Add(said.Bytes())
		f.Add(append(bytes.Clone(said.Bytes()), said.Bytes()...))
		f.Add(said.Bytes()[:said.Len()/2])
	}
	f.Add([]byte(`{"payload":"","signature":""}{"payload":"","signature":""}{}`))
	trusted := *n.b
	trusted.PeerToPeer = false
	servers := []*msl.Server{n.server, nil}
	var err error
	if servers[1], err = msl.NewServer(&trusted, n.keysB, handler(echo)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range servers {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_ = s.ServeConn(ctx, &recorder{in: bytes.NewReader(b)})
			if ctx.Err() != nil {
				t.Error("it did not end")
			}
			cancel()
		}
	})
}

// TestStrayPayloads: payloads that belong to no message, as the reference's finaliser may send them, are passed over
// between messages; white space and anything else are not (§8.6, §1.6).
func TestStrayPayloads(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	w.count()
	w.mustSay(client, msl.Request{}, "recorded")
	message := w.requests[0]
	payload := message[bytes.Index(message, []byte("}{"))+1:]
	for _, c := range []struct {
		between string
		answers int
	}{
		{"", 2}, {string(payload), 2}, {strings.Repeat(string(payload), 50), 2}, {`{"payload":"","signature":""}`, 2},
		{" ", 1}, {"{}", 2}, {"x", 1}, {`{"payload":`, 1},
	} {
		all := string(message) + c.between + string(message)
		for name, in := range map[string]io.Reader{"at once": strings.NewReader(all), "byte by byte": iotest.OneByteReader(strings.NewReader(all))} {
			conn := &recorder{in: in}
			_ = w.server.ServeConn(t.Context(), conn)
			if got := bytes.Count(conn.out.Bytes(), []byte(`"headerdata"`)); got != c.answers {
				t.Errorf("%.20q, %s: %d answers", c.between, name, got)
			}
		}
	}
}
