// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// issuing gives a device's agent token keys, as a party of a peer-to-peer network needs them.
func (w *world) issuing(device string) {
	w.t.Helper()
	name := device + "/agent.toml"
	w.write(name, w.read(name)+"token-keys = \"token-keys\"\n")
	execute(w.t.Context(), nil, "mslkeep-agent", "init", "--config", w.path(name)).ok(w.t)
}

// TestPeerToPeer: two processes that both issue tokens, over TCP and a unix socket, with every kind of entity (§8.14).
func TestPeerToPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.logKeys()
	devices := []string{"device-1", "device-2", "device-3"}
	for _, device := range devices {
		w.issuing(device)
		w.edit(device+"/send.toml", "[msl]\n", "[msl]\npeer-to-peer = true\n")
	}
	w.edit("server/serve.toml", "[msl]\n", "[msl]\npeer-to-peer = true\n")
	w.edit("server/serve.toml", "listen = \"127.0.0.1:0\"", "listen = \"tcp://127.0.0.1:0\"")
	s := w.serve()
	if !strings.HasPrefix(s.url, "tcp://") {
		t.Errorf("it serves %s", s.url)
	}
	var senders []*process
	agents := []int{s.agent}
	for _, device := range devices {
		p := w.sender(device, s, "--user", "ada", "--email", "ada@example.com", "--password-file", w.path("password"), "--service-token", "ticket@entity=for you")
		for i, text := range []string{"hello", "again", strings.Repeat("long ", 50_000)} {
			r := p.say(text)
			if r.Error != "" || r.Bytes != int64(len(text)) || !r.Encrypted || !r.UserIDToken || i > 0 && !r.MasterToken || i > 1 && r.KeyExchange {
				t.Errorf("%s, message %d: %+v", device, i, r)
			}
		}
		senders = append(senders, p)
		agents = append(agents, p.say("where is your agent?").AgentPID)
	}
	w.scan(append([]*process{s}, senders...), agents...)
	if out := w.send("device-1", s, "--one-way", "no answer").ok(t); out != "" {
		t.Errorf("answered %q", out)
	}
	if out := w.send("device-1", s, "--count", "50", "--concurrency", "8", "--size", "1000", "--json").ok(t); decoded[loadResult](t, out).Failed != 0 {
		t.Error(out)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, s.said)
	}
	// It comes back, and has forgotten what the devices have issued to it; not so what it has issued to them.
	s = w.serve("--listen", s.url)
	for i, p := range senders {
		for _, text := range []string{"are you back?", "as before?"} {
			if r := p.say(text); !r.Encrypted || !r.UserIDToken || r.KeyExchange {
				t.Errorf("%s, after a restart: %+v", devices[i], r)
			}
		}
	}
	s.stop()
	u := w.serve("--listen", "unix:"+w.path("server/msl.sock"))
	if out := w.send("device-2", u, "over a unix socket").ok(t); out != "over a unix socket" {
		t.Errorf("answered %q", out)
	}
	if out := w.send("device-2", w.serve("--listen", "ws://127.0.0.1:0"), "over a WebSocket").ok(t); out != "over a WebSocket" {
		t.Errorf("answered %q", out)
	}
	// The other kind of network, and HTTP, are refused.
	if r := w.send("device-1", u, "--url", "http://127.0.0.1:1/", "x"); r.code == 0 || !strings.Contains(r.err, "tcp://") {
		t.Errorf("over HTTP: %d, %s", r.code, r.err)
	}
}

// TestStreams: trusted services over connections without HTTP, and one-way messages over both.
func TestStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, listen := range []string{"tcp://127.0.0.1:0", "127.0.0.1:0", "unix:" + w.path("server/msl.sock")} {
		s := w.serve("--listen", listen)
		for _, device := range []string{"device-1", "device-2", "device-3"} {
			long := strings.Repeat("long ", 500_000)
			if out := w.send(device, s, "--non-replayable", long[:100_000]).ok(t); out != long[:100_000] {
				t.Errorf("%s: %s answered %d bytes", listen, device, len(out))
			}
			if out := w.send(device, s, "--one-way", "no answer").ok(t); out != "" {
				t.Errorf("%s: %s answered %q", listen, device, out)
			}
		}
		if code := s.stop(); code != 0 {
			t.Errorf("serve ended with %d: %s", code, s.said)
		}
	}
}
