// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/mslkeep/mslkeep/msl"
)

// A relay forwards connections to a server, counting them, and ends TLS before if it is to.
type relay struct {
	url   string
	roots string // a file with the certificate that makes it trusted, with TLS
	conns atomic.Int64
}

// transports are the schemes of send, each with that of serve. Those with s at the end need something in front that
// ends TLS.
var transports = []struct {
	scheme, serve string
	secure        bool
}{
	{"http", "http", false}, {"h2c", "http", false}, {"https", "http", true}, {"tcp", "tcp", false}, {"tls", "tcp", true},
	{"unix", "unix", false}, {"ws", "ws", false}, {"wss", "ws", true},
}

// newRelay starts what stands before a server that listens on URLs, for a scheme of send.
func newRelay(t *testing.T, urls []string, dir, scheme, serve string, secure bool) *relay {
	t.Helper()
	r := new(relay)
	network, address, to := "tcp", "127.0.0.1:0", ""
	for _, u := range urls {
		if rest, ok := strings.CutPrefix(u, serve+":"); ok {
			to = rest
		}
	}
	if serve == "unix" {
		network, address = "unix", filepath.Join(dir, "relay.sock")
	} else {
		to = strings.Trim(to, "/")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r.url = scheme + "://" + l.Addr().String()
	if secure {
		l = r.secured(t, l, dir)
	}
	ctx, stop := context.WithCancel(context.Background())
	var open sync.WaitGroup
	open.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			r.conns.Add(1)
			open.Go(func() { forward(ctx, near, network, to) })
		}
	})
	t.Cleanup(func() { l.Close(); stop(); open.Wait() })
	return r
}

func (r *relay) secured(t *testing.T, l net.Listener, dir string) net.Listener {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler()) // has a certificate for 127.0.0.1
	defer s.Close()
	r.roots = filepath.Join(dir, "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(r.roots, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: s.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}})
}

func forward(ctx context.Context, near net.Conn, network, to string) {
	defer near.Close()
	far, err := net.Dial(network, to)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); far.Close() })
	_, _ = io.Copy(near, far)
	near.Close()
	both.Wait()
}

// everywhere starts a server that listens on everything at once, and returns its URLs.
func (w *world) everywhere() (*process, []string) {
	w.t.Helper()
	s := start(w.t, nil, "mslkeep", "serve", "--config", w.path("server/serve.toml"), "--json", "--verbose",
		"--listen", "http://127.0.0.1:0,ws://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--listen", "unix:"+w.path("s.sock"))
	var ready struct {
		URL      string   `json:"url"`
		URLs     []string `json:"urls"`
		AgentPID int      `json:"agent_pid"`
	}
	s.decode(&ready)
	s.url, s.agent = ready.URL, ready.AgentPID
	if len(ready.URLs) != 4 || ready.URL != ready.URLs[0] {
		w.t.Fatalf("it serves %q", ready.URLs)
	}
	return s, ready.URLs
}

// TestEveryTransport has one server that listens everywhere, and a client for each scheme: small messages in a row,
// which take one connection, a long one, and many at once.
func TestEveryTransport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, urls := w.everywhere()
	for _, tr := range transports {
		t.Run(tr.scheme, func(t *testing.T) {
			w := &world{t: t, dir: w.dir}
			r := newRelay(t, urls, t.TempDir(), tr.scheme, tr.serve, tr.secure)
			at := &process{url: r.url}
			if tr.secure {
				if r := w.send("device-1", at, "x"); r.code == 0 {
					t.Errorf("a server whose certificate nobody knows answered %q", r.out)
				}
				w.edit("device-1/send.toml", "[msl]\n", "[send]\ntls-roots-file = \""+r.roots+"\"\n[msl]\n")
				defer w.edit("device-1/send.toml", "[send]\ntls-roots-file = \""+r.roots+"\"\n", "")
			}
			r.conns.Store(0)
			p := w.sender("device-1", at)
			for range 50 {
				p.say("hello")
			}
			p.say(strings.Repeat("long ", 1<<20))
			p.say("afterwards")
			if n := r.conns.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
			p.stop()
			out := w.send("device-1", at, "--count", "640", "--concurrency", "64", "--size", "20000", "--json").ok(t)
			if decoded[loadResult](t, out).Failed != 0 {
				t.Error(out)
			}
			if out := w.send("device-1", at, "--one-way", "no answer").ok(t); out != "" {
				t.Errorf("answered %q", out)
			}
		})
	}
	if code := s.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, s.said)
	}
}

// TestAgentKilledMidStream: in the middle of a long message each way an agent goes. The client hears all of the answer, or
// an error, and the next message succeeds.
func TestAgentKilledMidStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, urls := w.everywhere()
	for _, tr := range transports {
		if tr.secure {
			continue
		}
		r := newRelay(t, urls, t.TempDir(), tr.scheme, tr.serve, tr.secure)
		client := w.newSender("device-1", r.url)
		for _, whose := range []string{"server", "client"} {
			kill := func() error {
				pid, err := client.keys.PID(), error(nil)
				if whose == "server" {
					pid, err = childAgent(s.pid())
				}
				if err != nil {
					return err
				}
				return syscall.Kill(pid, syscall.SIGKILL)
			}
			sent, heard, err := converse(t.Context(), client.client, kill)
			if err == nil && !bytes.Equal(sent, heard) {
				t.Errorf("%s, %s's agent: of %d bytes %d came back, and nothing was wrong", tr.scheme, whose, len(sent), len(heard))
			}
			eventually(t, recovery, "the next message succeeds", func() bool {
				var out bytes.Buffer
				_, err = client.message(t.Context(), &sendFlags{timeout: patience}, &msl.Request{Body: strings.NewReader("next")}, &out)
				return err == nil && out.String() == "next"
			})
		}
	}
}

// converse sends 5 MiB, and calls disturb when some of it has come back.
func converse(ctx context.Context, client *msl.Client, disturb func() error) (sent, heard []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	disturbed := make(chan struct{})
	sent = make([]byte, 5<<20)
	rand.Read(sent) // which does not compress to less than is kept back
	answer, err := client.Do(ctx, &msl.Request{Compression: "NONE", Stream: func(ctx context.Context, w *msl.MessageWriter) error {
		half := len(sent) / 2
		if _, err := w.Write(sent[:half]); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		select {
		case <-disturbed:
		case <-ctx.Done():
		}
		_, err := w.Write(sent[half:])
		return err
	}})
	if err != nil {
		return sent, nil, err
	}
	defer answer.Close()
	if heard, err = answer.NextChunk(ctx); err == nil {
		err = disturb()
		close(disturbed)
	}
	if err != nil {
		return sent, nil, err
	}
	rest, err := io.ReadAll(answer)
	return sent, append(heard, rest...), err
}

// TestListenRefusals: where serve cannot listen, and send cannot send.
func TestListenRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct{ listen, want string }{
		{"https://127.0.0.1:0", "TLS"}, {"wss://127.0.0.1:0", "TLS"}, {"tls://127.0.0.1:0", "TLS"}, {"ftp://127.0.0.1:0", "ftp"}, {"unix:", "path"},
		{"tcp://", "host"}, {"tcp://127.0.0.1:0/path", "path"},
	} {
		w.mslkeep("serve", "--config", w.path("server/serve.toml"), "--listen", c.listen).oneLine(t, exitConfig, c.want)
	}
	for _, url := range []string{"ftp://127.0.0.1", "unix:", "tcp://", "http://"} {
		w.mslkeep("send", "--config", w.path("device-1/send.toml"), "--url", url, "x").oneLine(t, exitConfig)
	}
	w.edit("server/serve.toml", "listen = \"127.0.0.1:0\"", "listen = [1]")
	w.mslkeep("serve", "--config", w.path("server/serve.toml")).oneLine(t, exitConfig, "listen")
}

// TestStaleSocket: the socket of a server that was killed does not keep the next one from listening.
func TestStaleSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit("server/serve.toml", "listen = \"127.0.0.1:0\"", "listen = [\"unix:msl.sock\"]")
	w.serve().kill()
	s := w.serve()
	if out := w.send("device-1", s, "hello").ok(t); out != "hello" {
		t.Errorf("answered %q", out)
	}
	w.mslkeep("serve", "--config", w.path("server/serve.toml")).oneLine(t, exitFailure, "taken")
	if out := w.send("device-1", s, "hello").ok(t); out != "hello" {
		t.Errorf("answered %q", out)
	}
}
