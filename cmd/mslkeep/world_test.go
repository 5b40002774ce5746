// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A world is a folder with a server and three devices: device-1 has a pre-shared key, device-2 an RSA key,
// and device-3 nothing. Each has a folder with the configurations of its agent, and of serve or send.
type world struct {
	t   testing.TB
	dir string
	env []string // more variables for serve
}

const worldPassword = "correct horse battery staple"

// worldFiles are the configurations. HASH is the hash of worldPassword.
var worldFiles = map[string]string{
	"server/agent.toml":   "keys = \"keys\"\nkey-source = \"file:unlock\"\nstorage-key = \"storage\"\ntoken-keys = \"token-keys\"\n",
	"device-1/agent.toml": "keys = \"keys\"\nkey-source = \"file:unlock\"\nstorage-key = \"storage\"\n",
	"device-2/agent.toml": "keys = \"keys\"\nkey-source = \"file:unlock\"\nstorage-key = \"storage\"\n",
	"device-3/agent.toml": "keys = \"keys\"\nkey-source = \"file:unlock\"\nstorage-key = \"storage\"\n",
	"password":            worldPassword + "\n",
	"server/serve.toml": `[agent]
config = "agent.toml"
[entity]
scheme = "RSA"
identity = "server"
key-id = "server"
[peers]
schemes = ["PSK", "RSA", "NONE"]
revoked = ["stolen"]
[[peers.rsa]]
key-id = "device-2"
public-key-file = "../device-2.pem"
[msl]
service-token-keys = { "" = "default" }
[serve]
listen = "127.0.0.1:0"
[[serve.users]]
email = "ada@example.com"
user = "ada"
password-hash = "HASH"
`,
	"device-1/send.toml": deviceFile("PSK", "device-1", ""),
	"device-2/send.toml": deviceFile("RSA", "device-2", "key-id = \"device-2\"\n"),
	"device-3/send.toml": deviceFile("NONE", "device-3", ""),
}

func deviceFile(scheme, identity, keyID string) string {
	return fmt.Sprintf(`[agent]
config = "agent.toml"
[entity]
scheme = "%s"
identity = "%s"
%s[peers]
identity = "server"
[[peers.rsa]]
key-id = "server"
public-key-file = "../server.pem"
identities = ["server"]
[msl]
service-token-keys = { "" = "default" }
`, scheme, identity, keyID)
}

// makeModel makes the world that all others are copies of, with the commands that a user would use.
func makeModel() error {
	var failed error
	run := func(stdin, name string, args ...string) string {
		r := execute(context.Background(), strings.NewReader(stdin), name, args...)
		if r.code != 0 && failed == nil {
			failed = fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), r.err)
		}
		return r.out
	}
	at := func(name string) string { return filepath.Join(model, name) }
	write := func(name, text string) {
		failed = errors.Join(failed, os.MkdirAll(filepath.Dir(at(name)), 0o700), os.WriteFile(at(name), []byte(text), 0o600))
	}
	hash := strings.TrimSpace(run(worldPassword+"\n", "mslkeep", "password"))
	for name, text := range worldFiles {
		write(name, strings.ReplaceAll(text, "HASH", hash))
	}
	for _, who := range []string{"server", "device-1", "device-2", "device-3"} {
		run("", "mslkeep-agent", "init", "--config", at(who+"/agent.toml"))
	}
	psk := run("", "mslkeep-agent", "random", "48")
	for _, who := range []string{"server", "device-1"} {
		run(psk, "mslkeep", "keys", "import", "--agent-config", at(who+"/agent.toml"), "psk/device-1")
	}
	for _, who := range []string{"server", "device-2"} {
		run("", "mslkeep", "keys", "generate", "--agent-config", at(who+"/agent.toml"), "--type", "rsa-2048", "rsa/"+who)
		write(who+".pem", run("", "mslkeep", "keys", "public", "--agent-config", at(who+"/agent.toml"), "rsa/"+who))
	}
	return failed
}

// newWorld copies the model.
func newWorld(t testing.TB) *world {
	t.Helper()
	if err := openFolders(); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "world")}
	// Agents care who can read their files: cp keeps the modes, other than os.CopyFS.
	if out, err := exec.Command("cp", "-a", model, w.dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the model: %v\n%s", err, out)
	}
	return w
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// edit replaces text in a file, where it must be.
func (w *world) edit(name, old, text string) {
	w.t.Helper()
	before := w.read(name)
	after := strings.ReplaceAll(before, old, text)
	if after == before {
		w.t.Fatalf("%s: there is no %q", name, old)
	}
	w.write(name, after)
}

// mslkeep runs a command without input.
func (w *world) mslkeep(args ...string) result {
	return execute(w.t.Context(), nil, "mslkeep", args...)
}

// serve starts the server, and waits until it answers.
func (w *world) serve(args ...string) *process {
	w.t.Helper()
	p := start(w.t, withEnv(w.env), "mslkeep", append([]string{"serve", "--config", w.path("server/serve.toml"), "--json", "--verbose"}, args...)...)
	var ready struct {
		URLs     []string `json:"urls"`
		AgentPID int      `json:"agent_pid"`
	}
	p.decode(&ready)
	p.url, p.urls, p.agent = ready.URLs[0], ready.URLs, ready.AgentPID
	return p
}

// withEnv gives a process more variables.
func withEnv(env []string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), env...) }
}

// sendArgs are the arguments with which a device sends to a server.
func (w *world) sendArgs(device string, to *process, args []string) []string {
	return append([]string{"send", "--config", w.path(device, "send.toml"), "--url", to.url}, args...)
}

// send runs send to its end, with an empty input.
func (w *world) send(device string, to *process, args ...string) result {
	return w.mslkeep(w.sendArgs(device, to, args)...)
}

// report runs send --json, which must succeed.
func (w *world) report(device string, to *process, args ...string) report {
	w.t.Helper()
	return decoded[report](w.t, w.send(device, to, append([]string{"--json"}, args...)...).ok(w.t))
}

// sender starts a send that takes lines.
func (w *world) sender(device string, to *process, args ...string) *process {
	w.t.Helper()
	return start(w.t, nil, "mslkeep", w.sendArgs(device, to, append([]string{"--lines", "--json"}, args...))...)
}

// logKeys turns on the key logs of all agents, for scan.
func (w *world) logKeys() {
	for _, who := range []string{"server", "device-1", "device-2", "device-3"} {
		name := who + "/agent.toml"
		w.write(name, w.read(name)+"key-log = \"key.log\"\n")
	}
}

// scan searches the memory of protocol processes for every key that the agents have logged: there must be
// none. Each of the agents must show some, so that the search is known to work.
func (w *world) scan(protocol []*process, agents ...int) {
	w.t.Helper()
	args := []string{"--json"}
	logs, _ := filepath.Glob(w.path("*/key.log"))
	for _, log := range logs {
		args = append(args, "--keys", log)
	}
	for _, p := range protocol {
		args = append(args, "--process", fmt.Sprintf("protocol=%d", p.pid()))
	}
	for _, pid := range agents {
		args = append(args, "--process", fmt.Sprintf("agent=%d", pid))
	}
	type scanned struct {
		Keys      int
		Processes []struct {
			Name   string
			Found  int
			Labels []string
		}
	}
	s := decoded[scanned](w.t, execute(w.t.Context(), nil, "mslkeep-scan", args...).ok(w.t))
	if s.Keys == 0 || len(s.Processes) != len(protocol)+len(agents) {
		w.t.Errorf("%d keys, %d processes", s.Keys, len(s.Processes))
	}
	for _, p := range s.Processes {
		session := strings.Contains(strings.Join(p.Labels, " "), "session")
		switch {
		case p.Name == "protocol" && p.Found > 0:
			w.t.Errorf("a protocol process holds %v", p.Labels)
		case p.Name == "agent" && (p.Found == 0 || !session):
			w.t.Errorf("of %d keys, an agent seems to hold no session key, but %v: the search is broken", s.Keys, p.Labels)
		}
	}
}

// decoded parses JSON, and refuses anything after it.
func decoded[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// sum returns the SHA-256 of a file in hexadecimal.
func sum(path string) (string, error) {
	data, err := os.ReadFile(path)
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:]), err
}
