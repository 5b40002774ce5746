// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep speaks the Message Security Layer: a server, a client, and tools around them. It
// holds no keys: those are in mslkeep-agent, which it starts or connects to.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// Output goes by these rules. What a command was asked for goes to standard output, everything else to
// standard error. An error is one line, "mslkeep: what: why", with a hint after a semicolon where there
// is one. With --json, standard output is JSON and nothing else.

// Set by the linker: the SHA-256 of the binaries that were built beside this one, in hexadecimal.
var agentSHA256, scanSHA256, enrolSHA256 string

// Exit codes.
const (
	exitFailure = 1 // the command could not do what it was asked
	exitUsage   = 2 // it was asked in a way that it does not understand
	exitConfig  = 3 // the configuration is wrong
	exitAgent   = 4 // the key agent cannot be started or reached
	exitRefused = 5 // the peer refused the message
)

const usage = `mslkeep speaks the Message Security Layer and holds no keys.

Usage: mslkeep COMMAND [FLAGS]

  serve     answer messages: echo them, or hand them to an HTTP service
  send      send messages and print what comes back
  inspect   print everything in a message that needs no key
  keys      list, generate, import and rotate the agent's keys
  entities  import, revoke and list entities whose sealed keys are in a database
  provider  help with the providers that the agent's configuration names
  device    enrol this device with keys in its TPM
  vault     print or check the policy that the agent's configuration needs in Vault
  doctor    find what would keep serve, send or the agent from working, before they start
  password  print the hash of a user's password, for serve
  demo      run agent, server and client on this machine, and look for keys in their memory
  bench     measure, as ratios against plain HTTP and against custody in process
  version   print the version

Each command explains itself: mslkeep COMMAND --help

Example:
  mslkeep demo

Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 key agent, 5 refused by the peer
`

// A command is one of mslkeep's.
type command func(ctx context.Context, c *cli, args []string) error

// commands is the table of them.
var commands = map[string]command{
	"serve": serve, "send": send, "inspect": inspect, "keys": keys, "entities": entitiesCommand, "provider": provider, "device": device, "vault": vault, "doctor": doctor, "password": password,
	"demo": demo, "bench": bench, "version": version,
}

// examples are the commented configurations that serve and send print.
//
//go:embed examples
var examples embed.FS

// A cli is what a command sees of the outside.
type cli struct {
	in       io.Reader
	out, err io.Writer
}

// exitError carries the exit code of a failure.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.hint != "" {
		return e.err.Error() + "; " + e.hint
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ballastBytes is about how much memory is allocated between two collections.
const ballastBytes = 20 << 20

func main() {
	// A heap as small as ours would be collected all the time. Memory that is never touched costs none, and
	// makes the heap look larger to the collector, by so much and no more.
	ballast := make([]byte, ballastBytes)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &cli{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	runtime.KeepAlive(ballast)
	os.Exit(code)
}

// run runs a command and returns the exit code.
func run(ctx context.Context, c *cli, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(c.err, usage)
		return exitUsage
	}
	switch args[0] {
	case "-h", "--help", "-help", "help":
		fmt.Fprint(c.out, usage)
		return 0
	case "--version", "-version":
		args[0] = "version"
	}
	cmd, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(c.err, "mslkeep: there is no command %q; mslkeep --help lists them\n", args[0])
		return exitUsage
	}
	err := cmd(ctx, c, args[1:])
	switch e := (*exitError)(nil); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &e):
		fmt.Fprintf(c.err, "mslkeep: %s: %v\n", args[0], err)
		return e.code
	default:
		fmt.Fprintf(c.err, "mslkeep: %s: %v\n", args[0], err)
		return exitFailure
	}
}

// parse parses the flags of a command, whose help is text followed by the flags. It leaves want
// arguments or fails; want < 0 allows any number.
func parse(c *cli, flags *flag.FlagSet, text string, args []string, want int) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(c.out, text, "\nFlags:\n")
		flags.SetOutput(c.out)
		flags.PrintDefaults()
		return err
	case err != nil:
		return usageError("%v", err)
	case want >= 0 && flags.NArg() != want:
		return usageError("takes %d arguments, not %d", want, flags.NArg())
	}
	return nil
}

// example prints a commented configuration.
func example(c *cli, name string) error {
	text, err := examples.ReadFile("examples/" + name)
	if err != nil {
		return err
	}
	_, err = c.out.Write(text)
	return err
}

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...), "--help explains"}
}

func configError(err error, hint string) error { return &exitError{exitConfig, err, hint} }

func version(_ context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("version", flag.ContinueOnError)
	if err := parse(c, flags, "Usage: mslkeep version\n\nPrints the version, and which agent binary belongs to this one.\n", args, 0); err != nil {
		return err
	}
	v := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	fmt.Fprintf(c.out, "mslkeep %s\nagent SHA-256 %s\n", v, orNone(agentSHA256))
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none: name it in the configuration"
	}
	return s
}
