// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user who is not us.
const nobody = 65534

// daemon runs somebody's agent as a service manager does, and waits until it listens. The configuration
// of serve or send then names its socket.
func (w *world) daemon(who string, args ...string) *process {
	w.t.Helper()
	p := start(w.t, nil, "mslkeep-agent", append([]string{"--config", w.path(who, "agent.toml"), "--listen", "unix:" + w.path(who, "sock")}, args...)...)
	eventually(w.t, patience, "the agent listens: "+p.said.String(), func() bool { return strings.Contains(p.said.String(), "listening") })
	file := who + "/send.toml"
	if who == "server" {
		file = "server/serve.toml"
	}
	if own := "config = \"agent.toml\""; strings.Contains(w.read(file), own) {
		w.edit(file, own, "socket = \"unix:"+w.path(who, "sock")+"\"")
	}
	return p
}

// TestDaemons: both sides use agents that run by themselves, which are started anew under them.
func TestDaemons(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.logKeys()
	server, client := w.daemon("server"), w.daemon("device-1")
	s := w.serve()
	p := w.sender("device-1", s, "--store", w.path("store"))
	if r := p.say("hello"); r.AgentPID != client.pid() || s.agent != server.pid() {
		t.Errorf("agents %d and %d are used, not %d and %d", r.AgentPID, s.agent, client.pid(), server.pid())
	}
	p.say("hello again")
	w.scan([]*process{p, s}, server.pid(), client.pid())

	server.kill()
	server = w.daemon("server")
	if r := p.say("under the server's second agent"); r.KeyExchange {
		t.Errorf("%+v", r)
	}
	if code := client.stop(); code != 0 {
		t.Errorf("the agent ended with %d: %s", code, client.said)
	}
	client = w.daemon("device-1")
	if r := p.say("under the client's second agent"); r.KeyExchange || r.AgentPID != client.pid() {
		t.Errorf("%+v", r)
	}
	w.scan([]*process{p, s}, server.pid(), client.pid())

	// Agents that run by themselves outlive those who connect.
	p.stop()
	s.kill()
	if gone(server.pid()) || gone(client.pid()) {
		t.Error("an agent has ended with its client")
	}
	w.edit("server/serve.toml", "[agent]\n", "[agent]\nconfig = \"agent.toml\"\n")
	w.mslkeep("serve", "--config", w.path("server/serve.toml")).oneLine(t, exitConfig, "socket")
}

// TestDaemonManages: keys are changed through a running agent only if it was started for that.
func TestDaemonManages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain := w.daemon("server")
	config := []string{"--config", w.path("server/serve.toml"), "made"}
	for _, operation := range []string{"generate", "rotate", "import"} {
		r := execute(t.Context(), strings.NewReader(strings.Repeat("ab", 48)), "mslkeep", append([]string{"keys", operation}, config...)...)
		r.oneLine(t, exitFailure, "--manage")
	}
	if out := w.mslkeep("keys", "list", "--config", w.path("server/serve.toml")).ok(t); !strings.Contains(out, "token-keys.enc") {
		t.Error(out)
	}
	plain.stop()
	w.daemon("server", "--manage")
	for _, operation := range []string{"generate", "rotate"} {
		if out := w.mslkeep(append([]string{"keys", operation}, config...)...).ok(t); !strings.Contains(out, "made.enc") {
			t.Error(out)
		}
	}
	w.write("server/new", strings.Repeat("ab", 48))
	w.mslkeep("keys", "import", "--config", w.path("server/serve.toml"), "--file", w.path("server/new"), "imported").ok(t)
}

// TestOtherUser: a process of another user gets nothing from an agent, even where it can reach the socket.
// Only root can start one; others check that root's own agent would refuse them (mslkeep-agent's tests do).
func TestOtherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("only root can start a process of another user")
		return
	}
	w := newWorld(t)
	service := w.daemon("server", "--allow-uid", "0,12345") // so that everybody can connect to the socket
	for dir := w.path("server"); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{filepath.Dir(binaries), binaries} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.write("keys.toml", "[agent]\nsocket = \"unix:"+w.path("server/sock")+"\"\n")
	if err := os.Chmod(w.path("keys.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	list := func(uid uint32) int {
		p := start(t, func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}, "mslkeep", "keys", "list", "--config", w.path("keys.toml"))
		return p.wait()
	}
	if code := list(nobody); code != exitAgent {
		t.Errorf("another user: exit code %d", code)
	}
	eventually(t, recovery, "the agent says so", func() bool {
		said := service.said.String()
		return strings.Contains(said, "refused a connection") && strings.Contains(said, "65534")
	})
	if code := list(12345); code != 0 {
		t.Errorf("a user who is allowed: exit code %d", code)
	}
}
