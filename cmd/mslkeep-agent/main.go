// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-agent is the key agent: the process that holds session keys, so that the protocol
// process holds none. The protocol process starts it, or it runs as a service and listens on a unix
// socket.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers/software"
)

// Exit codes.
const (
	exitFailure  = 1 // it could not do what it was asked
	exitUsage    = 2 // it was asked in a way that it does not understand
	exitConfig   = 3 // the configuration is wrong
	exitKeys     = 4 // the keys cannot be unlocked
	exitProvider = 5 // a provider cannot be started, or fails
)

const usage = `mslkeep-agent holds the keys of mslkeep, which never sees one.

Usage: mslkeep-agent --config FILE                      started by mslkeep
       mslkeep-agent --config FILE --listen unix:PATH   as a service
       mslkeep-agent init --config FILE                 makes what the file names and is not there: the
                                                        file of keys, what unlocks it, keys
       mslkeep-agent rekey --config FILE --key-source SOURCE | --passphrase-source SOURCE
                                                        seals the file of keys anew, for another secret
       mslkeep-agent example                            prints a configuration with every field
       mslkeep-agent random N                           prints N random bytes in hexadecimal, such as
                                                        48 for a pre-shared key
       mslkeep-agent provider hash BINARY [FLAGS]       prints a section of the configuration
       mslkeep-agent provider list --config FILE        lists the providers
       mslkeep-agent provider check --config FILE       starts them and uses each of their keys
       mslkeep-agent provider policy|check-policy NAME --config FILE
                                                        runs that command of a provider which has it,
                                                        as that for Vault has, with its settings
       mslkeep-agent doctor --config FILE [--json]      finds what would keep the agent from starting,
                                                        make it fail later or weaken it; changes nothing

  --config FILE       the configuration
  --listen unix:PATH  listen on a socket, in a folder that nobody else can write to
  --manage            let connected processes generate, import and rotate keys, as mslkeep keys does;
                      without it they can only use them
  --allow-uid UIDS    users who may connect, by number, with commas; default: this user
  --name NAME, --env NAME=VALUE, --module FILE, --token URI
                      of provider hash: more of the section; a PKCS #11 module is hashed, too
  --key-source SOURCE, --passphrase-source SOURCE
                      of rekey: what is to unlock the keys, as in the configuration: file:PATH (made, if it
                      is a key that is not there), credential:NAME, fd:N, or tty for a passphrase
  --json              of doctor: print JSON, with a name for each check that stays
  --needs KIND/NAME   of doctor: a key that must be there; KIND is psk, rsa, ec or service; repeat for more
  --version           print the version

Standard error gets logs and errors. An error is one line: mslkeep-agent: what: why; hint

Example:
  mslkeep-agent example > agent.toml
  mslkeep-agent init --config agent.toml
  mslkeep-agent --config agent.toml --listen unix:/run/mslkeep/agent.sock --allow-uid 990

Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 keys cannot be unlocked,
            5 a provider cannot be started, or fails
`

//go:embed agent.toml.example
var example string

// exitError carries the exit code of a failure, and perhaps a hint.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.hint == "" {
		return e.err.Error()
	}
	return e.err.Error() + "; " + e.hint
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...), "see mslkeep-agent --help"}
}

// ballastBytes is about how much memory is allocated between two collections.
const ballastBytes = 20 << 20

func main() {
	// A heap as small as ours would be collected all the time. Memory that is never touched costs none, and
	// makes the heap look larger to the collector, by so much and no more.
	ballast := make([]byte, ballastBytes)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	runtime.KeepAlive(ballast)
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "mslkeep-agent: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	if e, ok := errors.AsType[*exitError](err); ok {
		os.Exit(e.code)
	}
	os.Exit(exitFailure)
}

// options are what the command line says.
type options struct {
	command   string // "", "init", "rekey", "doctor", "example", "random", "provider" or "version"
	operation string // of provider
	file      string // of provider hash; of policy and check-policy, the name of the provider
	count     string // of bytes, for random
	config    string
	listen    string // path of the socket, or ""
	allowUIDs []int
	manage    bool
	section   sectionText     // of provider hash
	json      bool            // of doctor
	needs     []string        // of doctor
	unlock    software.Unlock // of rekey
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parseArgs(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err = io.WriteString(out, usage)
		return err
	}
	if err != nil {
		return err
	}
	switch o.command {
	case "version":
		_, err = fmt.Fprintf(out, "mslkeep-agent %s\n", version())
		return err
	case "example":
		_, err = io.WriteString(out, example)
		return err
	case "random":
		return printRandom(o.count, out)
	case "provider":
		return providerCommand(ctx, o, out)
	case "doctor":
		return doctor(ctx, o, out)
	}
	cfg, err := loadConfig(o.config)
	if err != nil {
		return &exitError{exitConfig, err, configHint}
	}
	cfg.manage = o.manage
	findings := plugin.Harden(cfg.KeyLog != "") // before any secret is read
	switch {
	case o.command == "init":
		return initKeys(ctx, cfg, out)
	case o.command == "rekey":
		return rekey(ctx, cfg, o.unlock, out)
	case o.listen != "":
		return runService(ctx, cfg, o, findings)
	case plugin.IsChild():
		return runChild(ctx, cfg, findings)
	}
	return usageError("nothing to serve: mslkeep starts the agent itself, and a service needs --listen")
}

func parseArgs(args []string) (*options, error) {
	o := &options{allowUIDs: []int{os.Geteuid()}}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.command, args = args[0], args[1:]
		switch o.command {
		case "init", "rekey", "doctor", "example":
		case "random":
			if len(args) != 1 {
				return nil, usageError("random takes one number")
			}
			o.count, args = args[0], nil
		case "provider":
			if len(args) == 0 {
				return nil, usageError("provider takes hash BINARY, list, check, policy NAME or check-policy NAME")
			}
			o.operation, args = args[0], args[1:]
			what, takes := map[string]string{"hash": "a BINARY", "policy": "the NAME of a provider", "check-policy": "the NAME of a provider"}[o.operation]
			if !takes {
				break
			}
			if len(args) == 0 || strings.HasPrefix(args[0], "-") {
				return nil, usageError("provider %s takes %s", o.operation, what)
			}
			o.file, args = args[0], args[1:]
		default:
			return nil, usageError("there is no command %q", o.command)
		}
	}
	flags := flag.NewFlagSet("mslkeep-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.config, "config", "", "")
	flags.Func("listen", "", func(s string) error {
		path, ok := strings.CutPrefix(s, "unix:")
		if !ok || path == "" {
			return errors.New("must be unix:PATH")
		}
		o.listen = path
		return nil
	})
	flags.Func("allow-uid", "", func(s string) (err error) {
		o.allowUIDs, err = parseUIDs(s)
		return err
	})
	flags.BoolVar(&o.manage, "manage", false, "")
	o.section.define(flags)
	flags.BoolVar(&o.json, "json", false, "")
	flags.Func("needs", "", func(s string) error {
		if kind, name, _ := strings.Cut(s, "/"); kinds[kind] == nil || name == "" {
			return errors.New("must be psk/NAME, rsa/NAME, ec/NAME or service/NAME")
		}
		o.needs = append(o.needs, s)
		return nil
	})
	flags.StringVar(&o.unlock.KeySource, "key-source", "", "")
	flags.StringVar(&o.unlock.PassphraseSource, "passphrase-source", "", "")
	wantVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil, err
	case err != nil:
		return nil, usageError("%w", err)
	case flags.NArg() > 0:
		return nil, usageError("unexpected argument %q", flags.Arg(0))
	case *wantVersion:
		o.command = "version"
	case (o.command == "init" || o.command == "rekey" || o.command == "doctor") && o.listen != "":
		return nil, usageError("%s does not listen", o.command)
	case o.operation != "hash" && !o.section.empty():
		return nil, usageError("--name, --module, --token and --env are of provider hash only")
	case o.command != "rekey" && o.unlock != software.Unlock{}:
		return nil, usageError("--key-source and --passphrase-source are of rekey only: else they are in the configuration")
	case o.command == "rekey" && (o.unlock.KeySource == "") == (o.unlock.PassphraseSource == ""):
		return nil, usageError("rekey takes --key-source or --passphrase-source")
	case o.command != "doctor" && (o.json || o.needs != nil):
		return nil, usageError("--json and --needs are of doctor only")
	case o.command != "example" && o.command != "random" && o.operation != "hash" && o.config == "":
		return nil, usageError("--config is missing")
	}
	return o, nil
}

func parseUIDs(s string) ([]int, error) {
	var uids []int
	for _, field := range strings.Split(s, ",") {
		uid, err := strconv.ParseUint(field, 10, 31)
		if err != nil {
			return nil, errors.New("must be numbers of users, with commas")
		}
		uids = append(uids, int(uid))
	}
	return uids, nil
}

// version is that of the module, or the revision that this was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
