// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package websocket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/msl/websocket"
)

type handler func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error

func (h handler) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	return h(ctx, w, m)
}

func echo(_ context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	_, err := io.Copy(w, m)
	return err
}

// A fixture is a server of WebSockets, and a client of it.
type fixture struct {
	t         *testing.T
	handler   *websocket.Handler
	http      *httptest.Server
	dialer    *websocket.Dialer
	transport *msl.StreamTransport
	client    *msl.Client
	stop      func() // ends the context of all requests, and waits for WebSockets to end
}

func newFixture(t *testing.T, h handler) *fixture {
	t.Helper()
	clock := func() time.Time { return inproc.Time }
	keys := inproc.Agent(t)
	server, err := msl.NewServer(&msl.Config{Entity: msl.PSK("psk-server"), Clock: clock}, keys, h)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, handler: &websocket.Handler{Server: server}}
	ctx, stop := context.WithCancel(context.Background())
	var sockets sync.WaitGroup
	f.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sockets.Add(1)
		defer sockets.Done()
		f.handler.ServeHTTP(w, r)
	}))
	f.http.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	f.http.Start()
	f.dialer = &websocket.Dialer{URL: strings.Replace(f.http.URL, "http", "ws", 1)}
	f.transport = &msl.StreamTransport{Dial: f.dialer.Dial}
	f.client, err = msl.NewClient(&msl.Config{Entity: msl.PSK("psk-client"), Clock: clock}, keys, f.transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.stop = func() { stop(); sockets.Wait() }
	t.Cleanup(func() {
		f.client.Close()
		f.transport.CloseIdle()
		f.stop()
		f.http.Close()
	})
	return f
}

func (f *fixture) say(text string) (string, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	answer, err := f.client.Do(ctx, &msl.Request{Body: strings.NewReader(text)})
	if err != nil {
		return "", err
	}
	defer answer.Close()
	data, err := io.ReadAll(answer)
	return string(data), err
}

func (f *fixture) mustSay(text string) {
	f.t.Helper()
	if got, err := f.say(text); err != nil || got != text {
		f.t.Fatalf("said %.20q, heard %.20q: %v", text, got, err)
	}
}

// dial opens a WebSocket without our code.
func (f *fixture) dial(header http.Header) (*coder.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	ws, answer, err := coder.Dial(ctx, f.dialer.URL, &coder.DialOptions{HTTPHeader: header})
	if err == nil {
		f.t.Cleanup(func() { _ = ws.CloseNow() })
		ws.SetReadLimit(-1)
	}
	return ws, answer, err
}

// A recording is what is written to a connection.
type recording struct {
	net.Conn
	mu   sync.Mutex
	said []byte
}

func (r *recording) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, p...)
	return r.Conn.Write(p)
}

// record returns a message that the client sends under its session.
func (f *fixture) record() []byte {
	f.t.Helper()
	f.mustSay("get a token")
	f.transport.CloseIdle()
	var r *recording
	f.transport.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := f.dialer.Dial(ctx)
		r = &recording{Conn: conn}
		return r, err
	}
	f.mustSay("recorded")
	f.transport.CloseIdle()
	f.transport.Dial = f.dialer.Dial
	return r.said
}

// TestFrames: boundaries of frames mean nothing, whether there are many in a message, many messages in one, or none
// of data at all.
func TestFrames(t *testing.T) {
	f := newFixture(t, echo)
	request := f.record()
	ws, _, err := f.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	hear := func() {
		t.Helper()
		var heard []byte
		for !bytes.Contains(heard, []byte(`"payload"`)) || !bytes.HasSuffix(heard, []byte("}")) {
			kind, frame, err := ws.Read(ctx)
			if err != nil || kind != coder.MessageBinary {
				t.Fatalf("after %q: kind %v, %v", heard, kind, err)
			}
			heard = append(heard, frame...)
		}
		if bytes.Contains(heard, []byte("errordata")) {
			t.Error("an error message")
		}
	}
	for i := range request {
		if err := ws.Write(ctx, coder.MessageBinary, request[i:i+1]); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			_ = ws.Write(ctx, coder.MessageBinary, nil)
		}
	}
	hear()
	w, err := ws.Writer(ctx, coder.MessageBinary) // one that is sent in parts
	if err != nil {
		t.Fatal(err)
	}
	for rest := request; len(rest) > 0; rest = rest[min(100, len(rest)):] {
		if _, err := w.Write(rest[:min(100, len(rest))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	hear()
	if err := ws.Write(ctx, coder.MessageBinary, bytes.Repeat(request, 2)); err != nil {
		t.Fatal(err)
	}
	hear()
}

// TestText: frames of text end the connection.
func TestText(t *testing.T) {
	f := newFixture(t, echo)
	ws, _, err := f.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := ws.Write(ctx, coder.MessageText, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); coder.CloseStatus(err) != coder.StatusUnsupportedData {
		t.Error(err)
	}
}

// TestRefused: pages of other hosts, requests that open no WebSocket, and connections too many.
func TestRefused(t *testing.T) {
	f := newFixture(t, echo)
	f.handler.Origins = []string{"*.example.com"}
	f.handler.MaxConns = 2
	for origin, status := range map[string]int{
		"": 101, f.http.URL: 101, "https://app.example.com": 101, "https://example.org": 403, "null": 403, "https://example.com.evil.org": 403,
	} {
		header := make(http.Header)
		if origin != "" {
			header.Set("Origin", origin)
		}
		for { // until what was closed before is gone
			ws, answer, err := f.dial(header)
			if answer != nil && answer.StatusCode == http.StatusServiceUnavailable {
				continue
			}
			if answer == nil || answer.StatusCode != status {
				t.Errorf("origin %s: %v, %v", origin, answer, err)
			}
			if err == nil {
				_ = ws.Close(coder.StatusNormalClosure, "")
			}
			break
		}
	}
	answer, err := http.Get(f.http.URL)
	if err != nil || answer.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("GET: %v, %v", answer, err)
	}
	for open := 0; open < 2; {
		if _, _, err := f.dial(nil); err == nil {
			open++
		}
	}
	if _, answer, err := f.dial(nil); err == nil || answer == nil || answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: %v, %v", answer, err)
	}
	if _, err := f.say("x"); err == nil {
		t.Error("a client connected")
	}
}

// TestKeepAlive: a connection that is silent for long lives as long as its peer answers pings, between messages and
// within one, and no longer.
func TestKeepAlive(t *testing.T) {
	waited := make(chan struct{})
	f := newFixture(t, func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
		data, err := io.ReadAll(m)
		if err == nil && string(data) == "wait" {
			select {
			case <-waited:
			case <-ctx.Done():
			}
		}
		_, _ = w.Write(data)
		return err
	})
	f.handler.Ping = 5 * time.Millisecond
	f.handler.Server.IdleTimeout = 50 * time.Millisecond
	f.dialer.Ping = 5 * time.Millisecond
	f.mustSay("get a token")
	time.AfterFunc(300*time.Millisecond, func() { close(waited) })
	f.mustSay("wait")

	ws, _, err := f.dial(nil) // and never read, so that pings are not answered
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for err == nil {
		err = ws.Write(ctx, coder.MessageBinary, nil)
		time.Sleep(time.Millisecond)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("a peer that answers no ping is still served")
	}

	// A client whose server is not there any more notices.
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	silent := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := coder.Accept(w, r, nil)
		if err == nil {
			<-ctx.Done() // reads nothing
			_ = ws.CloseNow()
		}
	})}
	go silent.Serve(dead)
	defer silent.Close()
	d := &websocket.Dialer{URL: "ws://" + dead.Addr().String(), Ping: 5 * time.Millisecond}
	conn, err := d.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil || ctx.Err() != nil {
		t.Errorf("reading from a dead server: %v", err)
	}
	cancel()
}

// TestDialOutlivesContext: what bounds dialing does not bound the connection.
func TestDialOutlivesContext(t *testing.T) {
	f := newFixture(t, echo)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := f.dialer.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	f.transport.Dial = func(context.Context) (net.Conn, error) { return conn, nil }
	f.mustSay("hello")
	f.mustSay("again")
}

// TestStop: when the context of its http.Server ends, a WebSocket between messages ends, and the client connects
// again when it can.
func TestStop(t *testing.T) {
	f := newFixture(t, echo)
	f.mustSay("hello")
	f.stop()
	f.transport.Dial = newFixture(t, echo).dialer.Dial
	f.mustSay("elsewhere")
}
