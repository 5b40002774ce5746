// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// serving serves the world's server on TCP until stop is called, which returns what Serve did.
func (w *world) serving() (address string, stop func() error) {
	w.t.Helper()
	w.newClient(nil).Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, l) }()
	w.t.Cleanup(cancel)
	return l.Addr().String(), func() error { cancel(); return <-done }
}

func tcpTo(address string) *msl.StreamTransport {
	return &msl.StreamTransport{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}}
}

// dialed connects to a server, for as long as the test takes, and gives up waiting after a while.
func dialed(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// TestIdleTimeout: a peer that says nothing, stops within a header, or within a message, is not waited for. It is
// told nothing, or that its message was not whole.
func TestIdleTimeout(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	client := w.newClient(nil)
	w.mustSay(client, msl.Request{}, "get a token")
	w.mustSay(client, msl.Request{}, "recorded")
	client.Close()
	request := w.requests[1]
	w.server.IdleTimeout = 50 * time.Millisecond
	address, stop := w.serving()
	for _, said := range [][]byte{nil, request[:len(request)-1]} {
		conn := dialed(t, address)
		if _, err := conn.Write(said); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || bytes.Contains(answer, []byte("headerdata")) || (len(said) == 0) != (len(answer) == 0) {
			t.Errorf("after %d bytes: %q, %v", len(said), answer, err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestUnreadable: what is no message is answered with one error message, which arrives though more was sent than
// the server reads, and ends the connection.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	address, _ := w.serving()
	for _, said := range []string{"GET / HTTP/1.1\r\n\r\n", "[]", " {}", "{", strings.Repeat("{}", 5) + "x", "x" + strings.Repeat("y", 1<<20)} {
		conn := dialed(t, address)
		go func() { // as long as the server takes it
			_, _ = io.WriteString(conn, said)
			_ = conn.CloseWrite()
		}()
		answer, err := io.ReadAll(conn)
		if n := bytes.Count(answer, []byte("errordata")); err != nil || n != max(1, strings.Count(said, "{}")) {
			t.Errorf("%.20q: %d error messages: %v", said, n, err)
		}
	}
}

// TestStopping: when a server stops, the message that has begun is answered, also if the rest of it has yet to come;
// connections between messages end at once, and what takes too long is cut off.
func TestStopping(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	reached := make(chan struct{}, 1)
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		if m.MasterToken != nil {
			reached <- struct{}{}
		}
		return answersAtOnce(ctx, rw, m)
	})
	w.newClient(nil).Close()
	w.server.Grace = time.Minute
	address, stop := w.serving()
	transport := tcpTo(address)
	defer transport.CloseIdle()
	client := w.wired(&wire{transport: transport})
	w.mustSay(client, msl.Request{}, "get a token") // and leave a connection between messages
	idle := dialed(t, address)

	first, stopped := make(chan struct{}), make(chan error, 1)
	answer, err := client.Do(t.Context(), &msl.Request{Stream: func(_ context.Context, mw *msl.MessageWriter) error {
		if _, err := io.WriteString(mw, "first"); err != nil {
			return err
		}
		if err := mw.Flush(); err != nil {
			return err
		}
		<-first
		_, err := io.WriteString(mw, " and last")
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	<-reached
	go func() { stopped <- stop() }()
	if n, err := idle.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("a connection between messages: %d bytes, %v", n, err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("a server that stops took a connection")
	}
	close(first)
	if data, err := io.ReadAll(answer); err != nil || string(data) != "first and last" {
		t.Errorf("heard %q: %v", data, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestGrace: a message that takes longer than a stopping server waits is cut off.
func TestGrace(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	reached := make(chan struct{})
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		if m.MasterToken == nil {
			return echo(ctx, rw, m)
		}
		close(reached)
		<-ctx.Done()
		return ctx.Err()
	})
	w.newClient(nil).Close()
	w.server.Grace = 10 * time.Millisecond
	address, stop := w.serving()
	transport := tcpTo(address)
	defer transport.CloseIdle()
	client := w.wired(&wire{transport: transport})
	w.mustSay(client, msl.Request{}, "get a token")
	go func() { <-reached; _ = stop() }()
	if data, _, err := say(client, msl.Request{NonReplayable: true}, "x"); err == nil {
		t.Errorf("heard %q", data)
	}
}

// TestMaxConns: connections beyond the limit wait until one ends.
func TestMaxConns(t *testing.T) {
	w := newWorld(t)
	w.newClient(nil).Close()
	w.server.MaxConns = 1
	address, _ := w.serving()
	first := dialed(t, address)
	if _, err := io.WriteString(first, "{}"); err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(make([]byte, 10)); n == 0 {
		t.Fatal(err)
	}
	second := dialed(t, address)
	if _, err := io.WriteString(second, "{}"); err != nil {
		t.Fatal(err)
	}
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := second.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection too many: %d bytes, %v", n, err)
	}
	first.Close()
	_ = second.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := second.Read(make([]byte, 1)); n == 0 {
		t.Errorf("when there is room: %v", err)
	}
}

// TestHandlerPanics: a handler that panics ends its connection, and no other one.
func TestHandlerPanics(t *testing.T) {
	w := newWorld(t)
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		data, _ := io.ReadAll(m)
		if string(data) == "panic" {
			panic(data)
		}
		_, err := rw.Write(data)
		return err
	})
	wire := w.newWire("tcp")
	client := w.wired(wire)
	w.mustSay(client, msl.Request{}, "get a token")
	if data, _, err := say(client, msl.Request{NonReplayable: true}, "panic"); err == nil {
		t.Errorf("heard %q", data)
	}
	w.mustSay(client, msl.Request{}, "afterwards")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.failures) != 1 || strings.Contains(w.failures[0].Error(), "[112 97") {
		t.Errorf("failures %v", w.failures)
	}
}

// TestAbortedUpstream: where the HTTP service behind a server breaks its answer off, so does the server, on every transport.
func TestAbortedUpstream(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		_, _ = w.Write(data)
		if string(data) == "cut" {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	defer upstream.Close()
	upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	to, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range wireNames {
		w := newWorld(t)
		proxy := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: upstream.Config.ErrorLog, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
		w.handler = msl.HTTPHandler(proxy)
		client := w.wired(w.newWire(name))
		w.mustSay(client, msl.Request{}, "whole")
		if data, _, err := say(client, msl.Request{}, "cut"); err == nil {
			t.Errorf("%s: heard %q, and nothing wrong", name, data)
		}
		w.mustSay(client, msl.Request{}, "afterwards")
	}
}

// TestUnreadRequest: a handler that does not read a message leaves the connection fit for the next one, or closes it.
func TestUnreadRequest(t *testing.T) {
	w := newWorld(t)
	w.handler = handler(func(_ context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		_, err := io.WriteString(rw, "enough")
		return err
	})
	wire := w.newWire("tcp")
	client := w.wired(wire)
	for _, size := range []int{0, 1000, 100_000, 5 << 20} {
		for range 3 {
			data, _, err := say(client, msl.Request{Compression: "NONE"}, strings.Repeat("x", size))
			if err != nil || data != "enough" {
				t.Errorf("%d bytes: heard %q, %v", size, data, err)
			}
		}
	}
}

// TestUnreadAnswer: an answer that is not read to its end does not spoil the next one.
func TestUnreadAnswer(t *testing.T) {
	for _, name := range []string{"tcp", "ws"} {
		w := newWorld(t)
		wire := w.newWire(name)
		client := w.wired(wire)
		w.mustSay(client, msl.Request{}, "get a token")
		before := wire.dials.Load()
		for _, size := range []int{0, 10, 1 << 20} {
			for i := range 3 {
				answer, err := client.Do(t.Context(), &msl.Request{Compression: "NONE", Body: strings.NewReader(strings.Repeat("x", size))})
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && size > 0 {
					if _, err := io.ReadFull(answer, make([]byte, i)); err != nil {
						t.Error(err)
					}
				}
				if err := answer.Close(); err != nil {
					t.Error(err)
				}
				_ = answer.Close()
				w.mustSay(client, msl.Request{}, "next")
			}
			if n := wire.dials.Load() - before; size == 10 && name == "tcp" && n != 0 {
				t.Errorf("%s: %d connections for answers that had arrived whole", name, n)
			}
		}
	}
}

// TestRestartedServer: connections that a server has closed are not used, so that even messages which must not be
// replayed get through when it is back.
func TestRestartedServer(t *testing.T) {
	w := newWorld(t)
	var address atomic.Value
	transport := &msl.StreamTransport{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address.Load().(string))
	}}
	defer transport.CloseIdle()
	client := w.wired(&wire{transport: transport})
	for range 5 {
		at, stop := w.serving()
		address.Store(at)
		for range 2 {
			w.mustSay(client, msl.Request{NonReplayable: true}, "hello")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestIdlePool: of many connections only so many are kept, and not for ever.
func TestIdlePool(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	address, _ := w.serving()
	var open atomic.Int64
	inner := tcpTo(address).Dial
	transport := &msl.StreamTransport{MaxIdle: 2, IdleTimeout: 20 * time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := inner(ctx)
		open.Add(1)
		return &closeCounter{Conn: conn, open: &open}, err
	}}
	client := w.wired(&wire{transport: transport})
	w.mustSay(client, msl.Request{}, "get a token")
	var answers []*msl.Response
	for range 8 {
		answer, err := client.Do(t.Context(), &msl.Request{Body: strings.NewReader("x")})
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer)
	}
	if n := open.Load(); n < 8 {
		t.Errorf("%d connections for 8 exchanges at once", n)
	}
	for _, answer := range answers {
		answer.Close()
	}
	if n := open.Load(); n > 2 {
		t.Errorf("%d connections are kept", n)
	}
	for deadline := time.Now().Add(10 * time.Second); open.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are kept for ever", n)
	}
	w.mustSay(client, msl.Request{}, "afterwards")
	transport.CloseIdle()
}

type closeCounter struct {
	net.Conn
	open *atomic.Int64
	once atomic.Bool
}

func (c *closeCounter) Close() error {
	if !c.once.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}
