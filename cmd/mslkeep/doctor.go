// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

const doctorUsage = `Usage: mslkeep doctor (--config FILE | --agent-config FILE) [--json]

Finds what would keep serve, send or the key agent from starting, make them fail later, or weaken them: before they
do, and without changing anything. It looks at the configurations, at the addresses to listen on, and by way of the
agent's own doctor at keys, hardening, clock, and providers: their binaries, devices and PINs. It uses each key once.

If [agent] names a socket, name the agent's own configuration too, and run this as the agent's user; otherwise only
what the agent that runs there tells is looked at.

While serve runs, the addresses that it listens on are taken, and doctor says so.

A line is: ok, warning or problem; the name of the check; what was found; what to do about it.
It ends with 1 if there is a problem. Warnings alone end with 0.

Example:
  mslkeep doctor --config serve.toml
`

func doctor(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	var k keyFlags
	flags.StringVar(&k.config, "config", "", "configuration `file` of serve or send, which names the agent")
	flags.StringVar(&k.agentConfig, "agent-config", "", "the agent's own configuration `file`, if there is no other, or the agent has a socket")
	flags.BoolVar(&k.json, "json", false, "print JSON, with a name for each check that stays")
	if err := parse(c, flags, doctorUsage, args, 0); err != nil {
		return err
	}
	if k.config == "" && k.agentConfig == "" {
		return usageError("give --config or --agent-config")
	}
	f := &findings{cli: c, json: k.json}
	f.examine(ctx, &k)
	if f.json {
		if err := printJSON(c.out, f.list); err != nil {
			return err
		}
	}
	if n := f.problems(); n > 0 {
		return &exitError{exitFailure, fmt.Errorf("problems found: %d", n), ""}
	}
	return nil
}

// examine looks at everything.
func (f *findings) examine(ctx context.Context, k *keyFlags) {
	cfg, m := &config{Agent: agentConfig{Config: k.agentConfig}}, (*msl.Config)(nil)
	if k.config != "" {
		var err error
		if cfg, err = loadConfig(k.config); err != nil {
			f.problem("config", err)
			return
		}
		if m = f.protocol(cfg, k.config); m != nil {
			f.doors(cfg)
		}
		f.upstream(ctx, cfg.Serve.Upstream)
		if k.agentConfig != "" && cfg.Agent.Socket == "" {
			f.problem("config", configError(errors.New("[agent] names the agent's configuration, and so does --agent-config"), "leave one out"))
			return
		}
	}
	cfg.log = new(bytes.Buffer)
	file := cfg.path(cfg.Agent.Config)
	if k.agentConfig != "" {
		file = k.agentConfig
	}
	switch {
	case file != "":
		f.agent(ctx, cfg, file, demanded(cfg, m))
	case cfg.Agent.Socket == "":
		f.problem("config", configError(errors.New("[agent] names neither a config nor a socket"), "set config to the agent's file"))
	}
	if f.problems() == 0 && k.config != "" {
		f.start(ctx, cfg, m)
	}
}

// protocol checks the configuration of the protocol, as serve or send would. It returns nil if it is wrong.
func (f *findings) protocol(cfg *config, path string) *msl.Config {
	m, err := cfg.server()
	if err == nil {
		_, err = newHandler(cfg.Serve.Upstream)
	}
	if err != nil {
		f.problem("config", err)
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		f.problem("config", err)
		return nil
	}
	others := os.FileMode(0o022)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Gid == st.Uid {
		others = 0o002 // the group is the owner's alone
	}
	if info.Mode().Perm()&others != 0 {
		f.warn("config-mode", path+" can be changed by other users, who could have another agent started", "chmod go-w "+path)
	} else {
		f.ok("config", "%s", path)
	}
	return m
}

// doors sees whether serve could listen on each address.
func (f *findings) doors(cfg *config) {
	for _, text := range cfg.Serve.Listen {
		e, err := parseEndpoint(text)
		if err == nil && e.scheme == "unix" {
			f.socket(cfg.path(e.address)) // listening would make it
			continue
		}
		d, err := open(cfg, text)
		if err != nil {
			f.problem("listen", err)
			continue
		}
		d.Close()
		f.ok("listen", "%s is free", text)
	}
}

func (f *findings) socket(path string) {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		f.problem("listen", &exitError{exitFailure, fmt.Errorf("unix:%s is taken by another process", path), "choose another with --listen"})
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		f.ok("listen", "unix:%s is free", path)
	default:
		f.problem("listen", err)
	}
}

// upstream sees whether somebody listens there.
func (f *findings) upstream(ctx context.Context, text string) {
	u, err := url.Parse(text)
	if text == "" || err != nil || u.Host == "" {
		return
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), u.Scheme)
	}
	d := net.Dialer{Timeout: 3 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		f.warn("upstream", "the service at "+text+" does not answer: "+err.Error(), "start it, or correct upstream in [serve]")
		return
	}
	conn.Close()
	f.ok("upstream", "%s answers", text)
}

// demanded are the keys that this side must find in the agent.
func demanded(cfg *config, m *msl.Config) (args []string) {
	if m == nil {
		return nil
	}
	add := func(kind, name string) { args = append(args, "--needs", kind+"/"+name) }
	switch d := m.Entity; d.Scheme {
	case "PSK", "PSK_PROFILE":
		add("psk", d.Identity())
	case "RSA", "X509":
		add("rsa", d.KeyID())
	case "ECC":
		add("ec", d.KeyID())
	}
	var service []string
	for _, name := range cfg.MSL.ServiceTokenKeys {
		service = append(service, name)
	}
	slices.Sort(service)
	for _, name := range slices.Compact(service) {
		if name == "" {
			name = "default"
		}
		add("service", name)
	}
	return args
}

// agent has the agent's doctor look at its half, and takes over what that finds.
func (f *findings) agent(ctx context.Context, cfg *config, file string, needs []string) {
	binary, sum, err := cfg.agentBinary()
	if err != nil {
		f.problem("agent-hash", err)
		return
	}
	var out, said bytes.Buffer
	code, err := agent.Command(ctx, agent.Config{Path: binary, SHA256: sum, Env: agentEnv, Log: &said,
		Args: append([]string{"doctor", "--json", "--config", file}, needs...)}, &out)
	switch {
	case errors.Is(err, agent.ErrHashMismatch):
		f.problem("agent-hash", &exitError{exitAgent, err, agentHashHint})
		return
	case err != nil:
		f.problem("agent-binary", &exitError{exitAgent, err, agentBinaryHint})
		return
	}
	var list []finding
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		f.problem("agent-binary", fmt.Errorf("the agent's doctor ended with exit code %d: %s", code, bytes.TrimSpace(said.Bytes())))
		return
	}
	f.ok("agent-binary", "%s is the one that is pinned", binary)
	for _, x := range list {
		f.add(x)
	}
}

// start does what serve or send do before the first message: whatever was not thought of is found here.
func (f *findings) start(ctx context.Context, cfg *config, m *msl.Config) {
	keys, err := cfg.connect(ctx)
	if err != nil {
		f.problem("start", err)
		return
	}
	defer keys.Close()
	if cfg.Agent.Socket != "" {
		f.health(ctx, keys)
	}
	if err = cfg.checkEntity(ctx, keys, m.Entity); err == nil && cfg.Serve.Listen != nil {
		_, err = msl.NewServer(m, keys, echo{})
	}
	if err != nil {
		f.problem("start", err)
		return
	}
	if cfg.Entities.Database != "" {
		if err := checkRecordKey(ctx, keys); err != nil {
			f.problem("record-key", err)
			return
		}
		f.ok("record-key", "the agent has a key for the records of [entities]")
	}
	f.ok("start", "the agent starts, and has the key of %s %s", m.Entity.Scheme, m.Entity.Identity())
}

// health takes over what an agent that runs says of itself.
func (f *findings) health(ctx context.Context, keys *agent.Client) {
	h, err := keys.Health(ctx)
	if err != nil {
		f.problem("agent-health", err)
		return
	}
	good := true
	for _, x := range h.Findings {
		if !x.OK {
			good = false
			f.warn("agent-health", x.Name+": "+x.Detail, "")
		}
	}
	if good {
		f.ok("agent-health", "the agent that runs, and its providers, are well")
	}
}
