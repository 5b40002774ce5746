// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFlows sends messages of every kind as separate runs of send, and reads what came back.
func TestFlows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	// Under a pre-shared key the first answer brings the session. All others have to exchange keys before they
	// send data, and get the answer under the session.
	psk := report{Encrypted: true, IntegrityProtected: true, KeyExchange: true}
	session := report{Encrypted: true, IntegrityProtected: true, MasterToken: true, KeyExchange: true}
	user := psk
	user.UserIDToken = true
	for _, c := range []struct {
		what, device string
		args         []string
		want         report // but for Bytes, Milliseconds and AgentPID
	}{
		{"a pre-shared key", "device-1", nil, psk},
		{"an RSA key", "device-2", nil, session},
		{"no authentication", "device-3", nil, session},
		{"integrity only", "device-2", []string{"--protection", "integrity"}, psk}, // needs no session, so that the first answer brings it
		{"non-replayable", "device-1", []string{"--non-replayable"}, session},
		{"small chunks", "device-1", []string{"--chunk-size", "7"}, psk},
		{"GZIP", "device-2", []string{"--compression", "GZIP"}, session},
		{"LZW", "device-2", []string{"--compression", "LZW"}, session},
		{"not compressed", "device-2", []string{"--compression", "NONE"}, session},
		{"tokens first", "device-1", []string{"--request-tokens"}, psk},
		{"a user", "device-1", []string{"--user", "ada", "--email", "ada@example.com", "--password-file", w.path("password")}, user},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := &world{t: t, dir: w.dir}
			data := strings.Repeat(c.what+" ", 1000)
			got := w.report(c.device, s, append(c.args, data)...)
			if got.Bytes != int64(len(data)) || got.AgentPID == 0 {
				t.Errorf("%+v", got)
			}
			got.Bytes, got.AgentPID, got.Milliseconds = 0, 0, 0
			if got != c.want {
				t.Errorf("%+v\nwant %+v", got, c.want)
			}
			if out := w.send(c.device, s, append(c.args, data)...).ok(t); out != data {
				t.Errorf("answered %.60q", out)
			}
		})
	}
	if out := execute(t.Context(), strings.NewReader("from standard input"), "mslkeep", w.sendArgs("device-1", s, nil)...).ok(t); out != "from standard input" {
		t.Errorf("answered %q", out)
	}
	if out := w.send("device-1", s, "--count", "100", "--concurrency", "16", "--size", "1000", "--json").ok(t); decoded[loadResult](t, out).Messages != 100 {
		t.Error(out)
	} else if r := decoded[loadResult](t, out); r.Failed != 0 || r.Median <= 0 || r.P99 < r.Median {
		t.Errorf("%+v", r)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, s.said)
	}
}

// TestKeyExchanges has each key exchange as the only one offered, by both kinds of entity.
func TestKeyExchanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	for _, c := range []struct {
		exchange string
		devices  string
		refused  string
	}{
		{"SYMMETRIC_WRAPPED/PSK", "device-1", "device-2"},
		{"ASYMMETRIC_WRAPPED/JWE_RSA", "device-1 device-2 device-3", ""},
		{"ASYMMETRIC_WRAPPED/JWK_RSA", "device-1 device-2 device-3", ""},
		{"ASYMMETRIC_WRAPPED/JWEJS_RSA", "device-1 device-2 device-3", ""},
		{"ASYMMETRIC_WRAPPED/JWK_RSAES", "", "device-1 device-2"}, // until both agents allow it
	} {
		for _, device := range strings.Fields(c.devices) {
			if r := w.report(device, s, "--key-exchange", c.exchange, "hello"); !r.KeyExchange || !r.Encrypted || r.MasterToken != (device != "device-1") {
				t.Errorf("%s by %s: %+v", c.exchange, device, r)
			}
		}
		for _, device := range strings.Fields(c.refused) {
			if r := w.send(device, s, "--key-exchange", c.exchange, "hello"); r.code == 0 {
				t.Errorf("%s by %s: %s", c.exchange, device, r.out)
			}
		}
	}
	s.stop()
	for _, who := range []string{"server", "device-2"} {
		w.write(who+"/agent.toml", w.read(who+"/agent.toml")+"allow = [\"JWK_RSAES\"]\n")
	}
	w.edit("server/serve.toml", "[msl]\n", "[msl]\nkey-exchanges = [\"SYMMETRIC_WRAPPED/PSK\", \"ASYMMETRIC_WRAPPED/JWEJS_RSA\", \"ASYMMETRIC_WRAPPED/JWK_RSAES\"]\n")
	s = w.serve()
	if r := w.report("device-2", s, "--key-exchange", "ASYMMETRIC_WRAPPED/JWK_RSAES", "hello"); !r.MasterToken {
		t.Errorf("allowed: %+v", r)
	}
	// Of several, the first that both sides can do.
	if r := w.report("device-1", s, "--key-exchange", "ASYMMETRIC_WRAPPED/JWEJS_RSA,SYMMETRIC_WRAPPED/PSK", "hello"); !r.KeyExchange {
		t.Errorf("%+v", r)
	}
}

// TestMemory keeps several kinds of sessions open, kills an agent in between, and searches the processes
// while they run.
func TestMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.logKeys()
	s := w.serve()
	senders := []*process{
		w.sender("device-1", s),
		w.sender("device-1", s, "--user", "ada", "--email", "ada@example.com", "--password-file", w.path("password"), "--non-replayable"),
		w.sender("device-1", s, "--key-exchange", "ASYMMETRIC_WRAPPED/JWEJS_RSA", "--service-token", "ticket@entity=for the scan"),
		w.sender("device-2", s, "--store", w.path("store")),
		w.sender("device-3", s, "--key-exchange", "ASYMMETRIC_WRAPPED/JWK_RSA"),
	}
	agents := []int{s.agent}
	for round := range 3 {
		for i, p := range senders {
			r := p.say(strings.Repeat("round and round ", 1+round*20_000))
			if round == 0 {
				agents = append(agents, r.AgentPID)
			} else if r.KeyExchange {
				t.Errorf("sender %d, round %d: a new key exchange", i, round)
			}
		}
		w.scan(append(senders, s), agents...)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	w.write("wrong", "not the password\n")
	login := func(email, file string) []string {
		return []string{"--user", "ada", "--email", email, "--password-file", w.path(file), "hello"}
	}
	w.send("device-1", s, login("ada@example.com", "wrong")...).oneLine(t, exitRefused, "password")
	w.send("device-1", s, login("eve@example.com", "password")...).oneLine(t, exitRefused, "password")
	w.send("device-1", s, login("ada@example.com", "missing")...).oneLine(t, exitConfig, "password")
	w.send("device-1", s, login("ada@example.com", "password")...).ok(t)

	// Who has logged in once is known by a token, and needs no password. Another user of the same store is not.
	store := []string{"--store", w.path("tokens")}
	w.send("device-1", s, append(store, login("ada@example.com", "password")...)...).ok(t)
	if r := w.report("device-1", s, append(store, "--user", "ada", "hello")...); !r.UserIDToken || r.KeyExchange {
		t.Errorf("%+v", r)
	}
	if r := w.report("device-1", s, append(store, "hello")...); r.UserIDToken {
		t.Errorf("%+v", r)
	}
	for _, name := range []string{"tokens", "server/serve.toml", "device-1/send.toml"} {
		if strings.Contains(w.read(name), worldPassword) {
			t.Errorf("the password is in %s", name)
		}
	}
	if said := s.said.String(); strings.Contains(said, worldPassword) || strings.Contains(said, "not the password") {
		t.Errorf("the server has logged a password: %s", said)
	}
}

func TestServiceTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	user := []string{"--user", "ada", "--email", "ada@example.com", "--password-file", w.path("password")}
	for _, token := range []string{"plain=1", "bound@entity=2", "both@entity@user=3"} {
		args := append(user, "--service-token", token, "hello")
		if out := w.send("device-1", s, args...).ok(t); out != "hello" {
			t.Errorf("%s: %q", token, out)
		}
	}
	w.send("device-1", s, "--service-token", "no equals sign", "hello").oneLine(t, exitUsage, "no =")
}

// TestStore: what send keeps is good for its next run, and for that of a server that was started anew.
func TestStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	for _, c := range []struct {
		device           string
		posts, postsNext int64 // an RSA entity exchanges keys in a message of its own
	}{{"device-1", 1, 1}, {"device-2", 2, 1}} {
		store := []string{"--store", w.path(c.device, "store"), "hello"}
		through, posts := counting(t, s)
		if r := w.report(c.device, through, store...); !r.KeyExchange || posts.Load() != c.posts {
			t.Errorf("%s, first: %+v, %d posts", c.device, r, posts.Load())
		}
		posts.Store(0)
		if r := w.report(c.device, through, store...); r.KeyExchange || !r.MasterToken || posts.Load() != c.postsNext {
			t.Errorf("%s, again: %+v, %d posts", c.device, r, posts.Load())
		}
	}
	p := w.sender("device-1", s, "--store", w.path("device-1/store"))
	p.say("one")
	w.send("device-1", s, "--store", w.path("device-1/store"), "hello").oneLine(t, exitConfig, "--store")

	address := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/")
	if s.stop() != 0 {
		t.Errorf("serve: %s", s.said)
	}
	if r := p.try("nobody is there"); r.Error == "" {
		t.Errorf("%+v", r)
	}
	s = w.serve("--listen", address)
	if r := p.say("two"); r.KeyExchange {
		t.Errorf("after the server's restart: %+v", r)
	}
	p.stop()

	// A server that has lost its token keys answers, and the client starts anew.
	s.stop()
	if err := os.Remove(w.path("server/keys")); err != nil {
		t.Fatal(err)
	}
	execute(t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(t)
	execute(t.Context(), strings.NewReader(strings.Repeat("ab", 48)), "mslkeep", "keys", "import", "--agent-config", w.path("server/agent.toml"), "psk/device-1").ok(t)
	w.mslkeep("keys", "generate", "--agent-config", w.path("server/agent.toml"), "--type", "rsa-2048", "rsa/server").ok(t)
	w.write("server.pem", w.mslkeep("keys", "public", "--agent-config", w.path("server/agent.toml"), "rsa/server").ok(t))
	s = w.serve("--listen", address)
	through, posts := counting(t, s)
	if r := w.report("device-2", through, "--store", w.path("device-2/store"), "hello"); !r.MasterToken || posts.Load() != 3 {
		t.Errorf("after the server's keys were lost: %+v, %d posts", r, posts.Load())
	}
}

// recorded returns the message that a device sends.
func (w *world) recorded(device string, to *process) (message []byte) {
	w.t.Helper()
	target, err := url.Parse(to.url)
	if err != nil {
		w.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		message, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(message))
		proxy.ServeHTTP(rw, r)
	}))
	defer server.Close()
	w.send(device, &process{url: server.URL}, "hello").ok(w.t)
	return message
}

// counting puts a proxy before a server, which counts what is posted.
func counting(t *testing.T, to *process) (*process, *atomic.Int64) {
	t.Helper()
	target, err := url.Parse(to.url)
	if err != nil {
		t.Fatal(err)
	}
	posts := new(atomic.Int64)
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return &process{url: server.URL}, posts
}

// TestUpstream hands messages to an HTTP service, which sees who has sent them.
func TestUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	service := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if status, err := strconv.Atoi(string(data)); err == nil {
			http.Error(rw, "a secret of the service", status)
			return
		}
		fmt.Fprintf(rw, "%s %s entity=%s user=%s data=%s", r.Method, r.URL.RequestURI(), r.Header.Get("MSL-Entity"), r.Header.Get("MSL-User"), data)
	}))
	defer service.Close()
	s := w.serve("--upstream", service.URL+"/in?x=1")
	for _, c := range []struct {
		device string
		args   []string
		want   string
	}{
		{"device-1", []string{"hello"}, "POST /in?x=1 entity=device-1 user= data=hello"},
		{"device-2", []string{"hello"}, "POST /in?x=1 entity=device-2 user= data=hello"},
		{"device-1", []string{"--user", "x", "--email", "ada@example.com", "--password-file", w.path("password"), "hi"}, "POST /in?x=1 entity=device-1 user=ada data=hi"},
	} {
		if out := w.send(c.device, s, c.args...).ok(t); out != c.want {
			t.Errorf("%q, want %q", out, c.want)
		}
	}
	for _, status := range []string{"400", "403", "404", "500", "502", "503"} {
		r := w.send("device-1", s, status)
		r.oneLine(t, exitRefused)
		if strings.Contains(r.err, "secret of the service") {
			t.Errorf("the service's text came through: %s", r.err)
		}
	}
	service.Close()
	w.send("device-1", s, "hello").oneLine(t, exitRefused)
	w.mslkeep("serve", "--config", w.path("server/serve.toml"), "--upstream", "ftp://x/").oneLine(t, exitConfig, "upstream")
}

// TestLarge sends more than any process may hold. The peak of each one's memory stays under 128 MiB.
func TestLarge(t *testing.T) {
	t.Parallel()
	const size, most = 64 << 20, 128 << 20
	w := newWorld(t)
	// How much garbage may pile up is for the commands to choose. The question here is how much lives.
	s := w.serve()
	data := make([]byte, size)
	rand.Read(data)
	if err := os.WriteFile(w.path("big"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, withEnv(w.env), "mslkeep", w.sendArgs("device-1", s, []string{"--file", w.path("big")})...)
	const last = 4 << 20 // more than all pipes and sockets hold: send is there until it was read
	answer := make([]byte, size)
	if _, err := io.ReadFull(p.out, answer[:size-last]); err != nil {
		t.Fatalf("%v: %s", err, p.said)
	}
	client, err := childAgent(p.pid())
	if err != nil {
		t.Fatal(err)
	}
	for name, pid := range map[string]int{"serve": s.pid(), "its agent": s.agent, "send": p.pid(), "its agent ": client} {
		peak := peakMemory(t, pid)
		t.Logf("%s has used %d MiB at most", name, peak>>20)
		if peak == 0 || peak > most {
			t.Errorf("that is more than %d", most>>20)
		}
	}
	if _, err := io.ReadFull(p.out, answer[size-last:]); err != nil || !bytes.Equal(answer, data) {
		t.Errorf("the answer is not what was sent: %v", err)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("send ended with %d: %s", code, p.said)
	}
}

// TestStreaming: the answer's beginning is there before the message's end is sent.
func TestStreaming(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	p := start(t, nil, "mslkeep", w.sendArgs("device-1", s, []string{"--chunk-size", "1000", "--compression", "NONE"})...)
	const part, buffered = 1 << 20, 512 << 10 // some payloads of 64 KiB may wait, and what HTTP buffers
	for range 3 {
		written := make(chan error, 1)
		go func() { _, err := p.in.Write(make([]byte, part)); written <- err }()
		p.skip(part - buffered)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
	p.in.Close()
	p.skip(3 * buffered)
	if _, err := p.out.ReadByte(); err != io.EOF || p.wait() != 0 {
		t.Errorf("%v after the end: %s", err, p.said)
	}
}

// TestStreamingAnswer: what an HTTP service flushes gets through while it goes on.
func TestStreamingAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	more := make(chan string)
	service := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for text := range more {
			fmt.Fprintf(rw, "%s\n", text)
			_ = http.NewResponseController(rw).Flush()
		}
	}))
	defer service.Close()
	end := sync.OnceFunc(func() { close(more) })
	defer end()
	s := w.serve("--upstream", service.URL)
	p := start(t, nil, "mslkeep", w.sendArgs("device-1", s, []string{"hello"})...)
	for _, text := range []string{"one", "two", "three"} {
		more <- text
		if got := p.line(); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	end()
	if p.wait() != 0 {
		t.Error(p.said)
	}
}
