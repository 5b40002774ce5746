// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const demoUsage = `Usage: mslkeep demo [--keep DIR]

Starts a server and two devices on this machine, each with a key agent of its own, sends messages of
several kinds, kills an agent in between, and then searches the memory of the processes for every key
of the run: those that speak MSL must hold none, and the agents must hold some, or the search is broken.
Exits with 1 if either is wrong.

Example:
  mslkeep demo
`

// A demonstration is a run of demo.
type demonstration struct {
	*playground
	cli            *cli
	server         *player
	psk, user, rsa *player // device-1, device-1 on behalf of a user, device-2
	agents         map[string]int
}

func demo(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	keep := flags.String("keep", "", "make everything in this `folder`, which must not exist, and leave it there to play with")
	if err := parse(c, flags, demoUsage, args, 0); err != nil {
		return err
	}
	dir := *keep
	if dir != "" {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	} else {
		var err error
		if dir, err = os.MkdirTemp("", "mslkeep-demo"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fmt.Fprintln(c.out, "Making keys: in each agent's encrypted file, and nowhere else.")
	p, err := newPlayground(ctx, dir, true)
	if err != nil {
		return err
	}
	d := &demonstration{playground: p, cli: c, agents: make(map[string]int)}
	defer d.stop()
	for _, act := range []func(context.Context) error{d.begin, d.messages, d.crash, d.search} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demonstration) printf(format string, args ...any) { fmt.Fprintf(d.cli.out, format, args...) }

// step narrates one message.
func (d *demonstration) step(what string, took time.Duration) {
	d.printf("  %-70s %7.1f ms\n", what, float64(took.Microseconds())/1000)
}

func (d *demonstration) stop() {
	for _, w := range []*player{d.psk, d.user, d.rsa, d.server} {
		if w != nil {
			w.stop()
		}
	}
}

// begin starts the processes.
func (d *demonstration) begin(ctx context.Context) (err error) {
	if d.server, err = d.startServer(ctx); err != nil {
		return err
	}
	send := func(device string, args ...string) (*player, error) {
		return d.start(ctx, append([]string{"send", "--config", d.path(device, "send.toml"), "--url", d.server.url, "--lines", "--json"}, args...)...)
	}
	if d.psk, err = send("device-1"); err != nil {
		return err
	}
	if d.user, err = send("device-1", "--store", d.path("user.json"), "--user", "ada", "--email", "ada@example.com",
		"--password-file", d.path("password"), "--non-replayable"); err != nil {
		return err
	}
	if d.rsa, err = send("device-2", "--compression", "GZIP"); err != nil {
		return err
	}
	d.printf("\nA server at %s, and three clients of two devices:\n", d.server.url)
	return nil
}

// messages sends messages of several kinds.
func (d *demonstration) messages(context.Context) error {
	for _, m := range []struct {
		who  *player
		text string
		what string
	}{
		{d.psk, "hello", "device-1: says hello under its pre-shared key, and gets session keys"},
		{d.psk, "hello again", "device-1: again, under the session's keys"},
		{d.user, "my name is Ada", "device-1: for Ada, with her password; accepted at most once"},
		{d.user, "it is still me", "device-1: for Ada again, known by her token now"},
		{d.rsa, strings.Repeat("a long message ", 70_000), "device-2: exchanges keys under RSA signatures, then sends a MiB"},
	} {
		r, err := m.who.say(m.text)
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		if r.Bytes != int64(len(m.text)) || !r.Encrypted {
			return fmt.Errorf("%s: the answer is not what was sent", m.what)
		}
		d.step(m.what, time.Duration(r.Milliseconds*float64(time.Millisecond)))
	}
	return nil
}

// crash kills the server's agent, and goes on.
func (d *demonstration) crash(context.Context) error {
	if err := syscall.Kill(d.server.agent, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing the server's agent: %w", err)
	}
	killed := time.Now()
	_, err := d.psk.say("are you there?")
	if err != nil { // in flight when the agent died: a transient error, which a sender repeats
		_, err = d.psk.say("are you there?")
	}
	if err != nil {
		return fmt.Errorf("after the server's agent was killed: %w", err)
	}
	again, err := childAgent(d.server.cmd.Process.Pid)
	if err != nil {
		return err
	}
	d.step(fmt.Sprintf("server: its agent is killed; process %d takes over the sessions", again), time.Since(killed))
	d.server.agent = again
	return nil
}

// childAgent finds the agent that a process has started.
func childAgent(parent int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", parent))
	for _, task := range tasks {
		c, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", parent, task.Name()))
		children = append(children, c...)
	}
	for _, field := range strings.Fields(string(children)) {
		return strconv.Atoi(field)
	}
	return 0, errors.Join(fmt.Errorf("process %d has no agent", parent), err)
}
