// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var buildTools = sync.OnceValue(func() (err error) {
	run := func(env string, args ...string) string {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), env)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, rerr := cmd.Output()
		if rerr != nil && err == nil {
			err = fmt.Errorf("%s: %w: %s", args, rerr, &said)
		}
		return strings.TrimSpace(string(out))
	}
	run("CGO_ENABLED=0", "go", "build", "-o", binaries+"/", "github.com/mslkeep/mslkeep/cmd/mslkeep", "github.com/mslkeep/mslkeep/cmd/mslkeep-agent")
	headers := run("", "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11")
	run("", "cc", "-shared", "-fPIC", "-O2", "-I", headers, "-o", filepath.Join(binaries, "shim.so"), "shim/shim.c", "-ldl", "-lpthread")
	return err
})

// tool returns the path of mslkeep, mslkeep-agent or shim.so.
func tool(t testing.TB, name string) string {
	t.Helper()
	if err := buildTools(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(binaries, name)
}

// A system is a server, its agent, and the HSM that has the keys of the server's roles: token keys, keys of service
// tokens, storage key. Pre-shared keys and the server's identity are in the agent's file.
type system struct {
	t    testing.TB
	hsm  *hsm
	shim *shim
	dir  string

	provider string // path of its binary, of this system alone
	url      string
	server   *process
	agent    int // process id when it started
}

const agentFile = `keys = "keys"
key-source = "file:unlock"
%s
[[providers]]
name = "hsm"
binary = %q
sha256 = %q
env = %s
timeout = "%s"
[providers.settings]
module = %q
sha256 = %q
token = %q
`

const serverRoles = `token-keys = "hsm:token-keys"
storage-key = "hsm:storage"
service-prefix = "hsm:service/"
`

const serveFile = `[agent]
%s
[entity]
scheme = "RSA"
identity = "server"
key-id = "server"
[msl]
service-token-keys = { "" = "default" }
[serve]
listen = "127.0.0.1:0"
`

// newSystem makes the configurations and keys of a server on an HSM, and of a device. A use of a key may take as long
// as timeout. more is added to the agents' configurations.
func newSystem(t testing.TB, timeout time.Duration, more string) *system {
	t.Helper()
	h := newHSM(t)
	s := &system{t: t, hsm: h, shim: newShim(t, h), dir: filepath.Join(h.dir, "system")}
	path, err := provider()
	if err != nil {
		t.Fatal(err)
	}
	s.provider = s.path("provider")
	for _, dir := range []string{"", "server", "device"} {
		if err := os.Mkdir(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, path, s.provider)
	env, err := json.Marshal(h.env) // which is TOML, too
	if err != nil {
		t.Fatal(err)
	}
	file := func(roles string) string {
		return fmt.Sprintf(agentFile, roles+more, s.provider, sum(t, s.provider), env, timeout, h.settings["module"], h.settings["sha256"], h.settings["token"])
	}
	write(t, s.path("server/agent.toml"), file(serverRoles))
	write(t, s.path("server/bare.toml"), file("")) // which needs none of its keys
	write(t, s.path("device/agent.toml"), "keys = \"keys\"\nkey-source = \"file:unlock\"\nstorage-key = \"storage\"\n"+more)
	write(t, s.path("server/serve.toml"), fmt.Sprintf(serveFile, s.startsAgent("server/agent.toml")))
	write(t, s.path("server/keys.toml"), "[agent]\n"+s.startsAgent("server/bare.toml"))
	write(t, s.path("device/keys.toml"), "[agent]\n"+s.startsAgent("device/agent.toml"))
	s.run("mslkeep-agent", "init", "--config", s.path("server/bare.toml"))
	s.run("mslkeep-agent", "init", "--config", s.path("device/agent.toml"))
	psk := s.path("psk")
	write(t, psk, s.run("mslkeep-agent", "random", "48"))
	for _, who := range []string{"server", "device"} {
		s.keys(who, "import", "--file", psk, "psk/device")
	}
	s.keys("server", "generate", "--type", "rsa-2048", "rsa/server")
	write(t, s.path("server.pem"), s.keys("server", "public", "rsa/server"))
	return s
}

// startsAgent is what a section [agent] has that names an agent to start.
func (s *system) startsAgent(config string) string {
	path := tool(s.t, "mslkeep-agent")
	return fmt.Sprintf("binary = %q\nsha256 = %q\nconfig = %q\n", path, sum(s.t, path), s.path(config))
}

func (s *system) path(name string) string { return filepath.Join(s.dir, name) }

// run runs a command to its end, and returns what it prints.
func (s *system) run(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(tool(s.t, name), args...)
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		s.t.Fatalf("%s %s: %v: %s", name, args, err, e.Stderr)
	} else if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// keys runs mslkeep keys with an agent of its own.
func (s *system) keys(who, operation string, args ...string) string {
	s.t.Helper()
	return s.run("mslkeep", append([]string{"keys", operation, "--config", s.path(who + "/keys.toml")}, args...)...)
}

// serve starts the server, and waits until it answers.
func (s *system) serve() {
	s.t.Helper()
	s.server = start(s.t, tool(s.t, "mslkeep"), "serve", "--config", s.path("server/serve.toml"), "--json")
	var ready struct {
		URL      string `json:"url"`
		AgentPID int    `json:"agent_pid"`
	}
	if line := s.server.line(); json.Unmarshal([]byte(line), &ready) != nil {
		s.t.Fatalf("the server says %q, and %s", line, s.server.said)
	}
	s.url, s.agent = ready.URL, ready.AgentPID
}
