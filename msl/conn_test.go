// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/msl/websocket"
)

// A wire is a way to reach a world's server, with what can happen to it.
type wire struct {
	name      string
	transport msl.Transport
	dials     atomic.Int64
	meddle    atomic.Pointer[func(net.Conn) net.Conn] // of connections on the client's side
}

// idle closes connections that are kept.
func (w *wire) idle() {
	switch t := w.transport.(type) {
	case *msl.StreamTransport:
		t.CloseIdle()
	case *msl.HTTPTransport:
		t.RoundTripper.(*http.Transport).CloseIdleConnections()
	}
}

// dialer connects to an address, counting.
func (w *wire) dialer(network, address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		w.dials.Add(1)
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if f := w.meddle.Load(); f != nil && err == nil {
			c = (*f)(c)
		}
		return c, err
	}
}

// httpClient speaks the protocols that are named.
func (w *wire) httpClient(network, address string, roots *x509.CertPool, h2 bool) *http.Client {
	var p http.Protocols
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2 && roots != nil)
	p.SetUnencryptedHTTP2(h2 && roots == nil)
	dial := w.dialer(network, address)
	t := &http.Transport{MaxIdleConnsPerHost: 100, Protocols: &p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	if roots != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com"}
	}
	return &http.Client{Transport: t}
}

var wireNames = []string{"http1", "h2c", "https", "h2", "tcp", "tls", "unix", "ws", "wss"}

// newWire serves the world's server in one of the ways of wireNames.
func (w *world) newWire(name string) *wire {
	w.t.Helper()
	w.newClient(nil).Close()
	wire := &wire{name: name}
	switch name {
	case "http1", "h2c", "https", "h2", "ws", "wss":
		w.serveWeb(wire)
	default:
		w.serveStream(wire)
	}
	w.t.Cleanup(wire.idle)
	return wire
}

func (w *world) serveWeb(wire *wire) {
	ctx, stop := context.WithCancel(context.Background())
	var h http.Handler = w.server
	var sockets sync.WaitGroup
	if strings.HasPrefix(wire.name, "ws") {
		h = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			sockets.Add(1)
			defer sockets.Done()
			(&websocket.Handler{Server: w.server}).ServeHTTP(rw, r)
		})
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.EnableHTTP2 = true
	var roots *x509.CertPool
	switch wire.name {
	case "https", "h2", "wss":
		s.Config.Protocols.SetHTTP2(true)
		s.StartTLS()
		roots = x509.NewCertPool()
		roots.AddCert(s.Certificate())
	default:
		s.Start()
	}
	w.t.Cleanup(func() { stop(); wire.idle(); sockets.Wait(); s.Close() })
	client := wire.httpClient("tcp", s.Listener.Addr().String(), roots, strings.HasPrefix(wire.name, "h2"))
	if strings.HasPrefix(wire.name, "ws") {
		d := &websocket.Dialer{URL: strings.Replace(s.URL, "http", "ws", 1), Client: client}
		wire.transport = &msl.StreamTransport{Dial: d.Dial}
		return
	}
	wire.transport = &msl.HTTPTransport{URL: s.URL, RoundTripper: client.Transport}
}

func (w *world) serveStream(wire *wire) {
	network, address := "tcp", "127.0.0.1:0"
	if wire.name == "unix" {
		network, address = "unix", w.t.TempDir()+"/s"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		w.t.Fatal(err)
	}
	dial := wire.dialer(network, l.Addr().String())
	if wire.name == "tls" {
		cert, roots := testCertificate()
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
		raw := dial
		dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := raw(ctx)
			if err != nil {
				return nil, err
			}
			c := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "example.com"})
			if err := c.HandshakeContext(ctx); err != nil {
				conn.Close()
				return nil, err
			}
			return c, nil
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, l) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	wire.transport = &msl.StreamTransport{Dial: dial}
}

// testCertificate is the one of package httptest.
func testCertificate() (tls.Certificate, *x509.CertPool) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates[0], roots
}

// client returns a client at the other end of the wire.
func (w *world) wired(wire *wire) *msl.Client {
	w.t.Helper()
	c, err := msl.NewClient(w.client, inproc.Agent(w.t), wire.transport, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// noLeaks fails if goroutines are left over when the test and all its cleanups have ended.
func noLeaks(t *testing.T) {
	t.Helper()
	inproc.Agent(t)
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+2 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before+2 {
			buf := make([]byte, 1<<16)
			t.Errorf("%d goroutines are left over:\n%s", n-before, buf[:runtime.Stack(buf, true)])
		}
	})
}

// TestTransports: small and long messages, many in a row and many at once, over every transport. Those that keep
// connections use one for messages in a row, also after the server has refused one.
func TestTransports(t *testing.T) {
	for _, name := range wireNames {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			w := newWorld(t)
			policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
			w.config.Policy = policy
			wire := w.newWire(name)
			client := w.wired(wire)
			w.mustSay(client, msl.Request{}, "get a token")
			for range 50 {
				w.mustSay(client, msl.Request{NonReplayable: true}, "hello")
			}
			policy.master.Store(uint32(msl.MessageFormatError))
			if _, _, err := say(client, msl.Request{}, "x"); !errors.Is(err, msl.MessageFormatError) {
				t.Errorf("a message that is refused: %v", err)
			}
			long := strings.Repeat("0123456789abcdef", 5<<16)
			w.mustSay(client, msl.Request{Compression: "NONE"}, long)
			w.mustSay(client, msl.Request{}, "")
			if n := wire.dials.Load(); n > 2 {
				t.Errorf("%d connections", n)
			}
			var all sync.WaitGroup
			for i := range 64 {
				all.Go(func() {
					for j := range 5 {
						text := strings.Repeat(fmt.Sprintf("%d/%d ", i, j), 1+i*i*j)
						if got, _, err := say(client, msl.Request{}, text); err != nil || got != text {
							t.Errorf("said %.20q, heard %.20q: %v", text, got, err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// TestStreamsBothWays: on every transport that can, what is flushed arrives before the message is complete, both ways.
func TestStreamsBothWays(t *testing.T) {
	for _, name := range wireNames {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			w := newWorld(t)
			w.handler = handler(answersAtOnce)
			wire := w.newWire(name)
			client := w.wired(wire)
			w.mustSay(client, msl.Request{}, "get a token")
			for range 2 {
				converse(t, client)
			}
			if n := wire.dials.Load(); n > 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func answersAtOnce(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
	for {
		chunk, err := m.NextChunk(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := rw.Write(chunk); err != nil {
			return err
		}
		if err := rw.Flush(); err != nil {
			return err
		}
	}
}

// converse says a word only when the one before it was answered.
func converse(t *testing.T, client *msl.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	heard := make(chan string)
	answer, err := client.Do(ctx, &msl.Request{Stream: func(ctx context.Context, mw *msl.MessageWriter) error {
		for i := range 100 {
			word := fmt.Sprint("word ", i)
			if _, err := io.WriteString(mw, word); err != nil {
				return err
			}
			if err := mw.Flush(); err != nil {
				return err
			}
			select {
			case got := <-heard:
				if got != word {
					return fmt.Errorf("said %q, heard %q", word, got)
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	for {
		chunk, err := answer.NextChunk(ctx)
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		heard <- string(chunk)
	}
}
