// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A found is what mslkeep-scan says of one process.
type found struct {
	Name  string `json:"name"`
	Found int    `json:"found"`
}

// search looks for every key of the run in the memory of every process of the run, this one included.
func (d *demonstration) search(ctx context.Context) error {
	processes := []struct {
		name            string
		protocol, agent int
		keys            string
	}{
		{"server", d.server.cmd.Process.Pid, d.server.agent, "token keys, RSA identity, device-1's pre-shared key"},
		{"device-1", d.psk.cmd.Process.Pid, d.psk.agent, "pre-shared key, storage key, session keys"},
		{"device-1, Ada", d.user.cmd.Process.Pid, d.user.agent, "the same, and another session's keys"},
		{"device-2", d.rsa.cmd.Process.Pid, d.rsa.agent, "RSA identity, storage key, session keys"},
		{"this demo", os.Getpid(), 0, ""},
	}
	scan := &memoryScan{tool: d.tool["mslkeep-scan"]}
	defer scan.close()
	for _, who := range []string{"server", "device-1", "device-2"} {
		scan.args = append(scan.args, "--keys", d.path(who, "key.log"))
	}
	for _, p := range processes {
		scan.add(p.name, p.protocol)
		if p.agent != 0 {
			scan.add(p.name+", agent", p.agent)
		}
	}
	keys, results, err := scan.run(ctx)
	if err != nil {
		return err
	}
	d.printf("\nSearching the memory of these processes for the %d keys of this run, in every form:\n", keys)
	inProtocol, inAgents := 0, 0
	blind := keys == 0
	for _, p := range processes {
		inProtocol += results[p.name]
		line := fmt.Sprintf("  %-14s process %7d: %d keys", p.name, p.protocol, results[p.name])
		if p.agent != 0 {
			n := results[p.name+", agent"]
			inAgents += n
			blind = blind || n == 0
			line += fmt.Sprintf("    agent %7d: %2d keys (%s)", p.agent, n, p.keys)
		}
		d.printf("%s\n", line)
	}
	d.printf("\n%d keys looked for; %d found in the protocol processes, %d in the agents.\n", keys, inProtocol, inAgents)
	switch {
	case inProtocol > 0:
		return errors.New("a protocol process holds a key")
	case blind:
		return errors.New("an agent seems to hold no key: the search is broken")
	}
	return nil
}

// A memoryScan is a run of mslkeep-scan. It gets the memory of processes as open files, because their
// ancestor may open what a sibling may not.
type memoryScan struct {
	tool  string
	args  []string
	files []*os.File
	err   error
}

func (s *memoryScan) add(name string, pid int) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		s.err = errors.Join(s.err, err)
		return
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		mem.Close()
		s.err = errors.Join(s.err, err)
		return
	}
	first := 3 + len(s.files)
	s.files = append(s.files, mem, maps)
	s.args = append(s.args, "--fd", fmt.Sprintf("%s=%d:%d", name, first, first+1))
}

// run returns how many keys were looked for, and how many were found by process.
func (s *memoryScan) run(ctx context.Context) (keys int, results map[string]int, err error) {
	if s.err != nil {
		return 0, nil, fmt.Errorf("looking into the memory of a process: %w", s.err)
	}
	cmd := exec.CommandContext(ctx, s.tool, append(s.args, "--json")...)
	cmd.ExtraFiles = s.files
	out, err := cmd.Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(e.Stderr)))
		}
		return 0, nil, fmt.Errorf("mslkeep-scan: %w", err)
	}
	var said struct {
		Keys      int     `json:"keys"`
		Processes []found `json:"processes"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return 0, nil, fmt.Errorf("mslkeep-scan: %w", err)
	}
	results = make(map[string]int)
	for _, p := range said.Processes {
		results[p.Name] = p.Found
	}
	return said.Keys, results, nil
}

func (s *memoryScan) close() {
	for _, f := range s.files {
		f.Close()
	}
}
