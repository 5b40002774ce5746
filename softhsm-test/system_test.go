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
	service  *process // the agent, if the server has not started it
	agent    int      // process id when it started
}

const fileKeys = `keys = "keys"
key-source = "file:unlock"
`

const hsmProvider = `[[providers]]
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
	provider := fmt.Sprintf(hsmProvider, s.provider, sum(t, s.provider), env, timeout, h.settings["module"], h.settings["sha256"], h.settings["token"])
	for name, text := range map[string]string{
		"server/agent.toml": fileKeys + serverRoles + more + provider,
		"server/bare.toml":  fileKeys + more + provider, // which needs none of the keys
		"server/file.toml":  fileKeys + more,            // and this one no HSM
		"device/agent.toml": fileKeys + "storage-key = \"storage\"\n" + more,
		"server/serve.toml": fmt.Sprintf(serveFile, s.startsAgent("server/agent.toml")),
		"server/hsm.toml":   "[agent]\n" + s.startsAgent("server/bare.toml"),
		"server/keys.toml":  "[agent]\n" + s.startsAgent("server/file.toml"),
		"device/keys.toml":  "[agent]\n" + s.startsAgent("device/agent.toml"),
	} {
		write(t, s.path(name), text)
	}
	s.run("mslkeep-agent", "init", "--config", s.path("server/file.toml"))
	s.run("mslkeep-agent", "init", "--config", s.path("device/agent.toml"))
	psk := s.path("psk")
	write(t, psk, s.run("mslkeep-agent", "random", "48"))
	for _, who := range []string{"server", "device"} {
		s.keys(who+"/keys.toml", "import", "--file", psk, "psk/device")
	}
	s.keys("server/keys.toml", "generate", "--type", "rsa-2048", "rsa/server")
	write(t, s.path("server.pem"), s.keys("server/keys.toml", "public", "rsa/server"))
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

// keys runs mslkeep keys.
func (s *system) keys(config, operation string, args ...string) string {
	s.t.Helper()
	return s.run("mslkeep", append([]string{"keys", operation, "--config", s.path(config)}, args...)...)
}

// makeKeys makes the keys of the server's roles that are not there yet.
func (s *system) makeKeys() {
	s.t.Helper()
	s.run("mslkeep-agent", "init", "--config", s.path("server/agent.toml"))
}

// serve starts the server, which starts its agent.
func (s *system) serve() {
	s.t.Helper()
	s.agent = s.serveAs("server/serve.toml")
}

// serveApart starts a server that connects to an agent, which runs as a service and may change keys, too.
func (s *system) serveApart() {
	s.t.Helper()
	s.startService()
	write(s.t, s.path("server/apart.toml"), fmt.Sprintf(serveFile, fmt.Sprintf("socket = %q\n", "unix:"+s.path("server/socket"))))
	if pid := s.serveAs("server/apart.toml"); pid != s.agent {
		s.t.Fatalf("the server's agent is process %d, not %d", pid, s.agent)
	}
}

// startService starts the agent, and waits until it listens.
func (s *system) startService() {
	s.t.Helper()
	s.service = start(s.t, tool(s.t, "mslkeep-agent"), "--config", s.path("server/agent.toml"), "--listen", "unix:"+s.path("server/socket"), "--manage")
	s.agent = s.service.pid()
	eventually(s.t, "the agent listens", func() bool { return strings.Contains(s.service.said.String(), "listening") })
}

// serveAs starts the server, waits until it answers, and returns the process id of its agent.
func (s *system) serveAs(config string) int {
	s.t.Helper()
	s.server = start(s.t, tool(s.t, "mslkeep"), "serve", "--config", s.path(config), "--json")
	var ready struct {
		URL      string `json:"url"`
		AgentPID int    `json:"agent_pid"`
	}
	if line := s.server.line(); json.Unmarshal([]byte(line), &ready) != nil {
		s.t.Fatalf("the server says %q, and %s", line, s.server.said)
	}
	s.url = ready.URL
	return ready.AgentPID
}
