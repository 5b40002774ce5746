// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"

	"github.com/mslkeep/mslkeep/agent"
)

const providerUsage = `Usage: mslkeep provider hash [--name NAME] [--env NAME=VALUE] [--module FILE] [--token URI] BINARY
       mslkeep provider list|check (--config FILE | --agent-config FILE)

Helps with the providers that the key agent's configuration names. It runs the agent's own binary, which
does the work: this program never speaks with a provider.

  hash     prints a section for the agent's configuration, which pins the binary of a provider, and the PKCS #11
           module that it loads if there is one
  list     the providers
  check    starts each provider as the agent does, and uses each version of each of its keys once

Examples:
  mslkeep provider hash --name hsm --module /usr/lib/softhsm/libsofthsm2.so \
      --token 'pkcs11:token=keys?pin-source=file:/etc/mslkeep/pin' /usr/libexec/mslkeep-provider-pkcs11 >> agent.toml
  mslkeep provider check --config serve.toml
`

// provider runs mslkeep-agent provider.
func provider(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("provider", flag.ContinueOnError)
	var f keyFlags
	flags.StringVar(&f.config, "config", "", "configuration `file` of serve or send, which names the agent")
	flags.StringVar(&f.agentConfig, "agent-config", "", "the agent's own configuration `file`, if there is no other")
	var more []string // flags of hash
	for name, usage := range map[string]string{"name": "hash: `name` of the provider", "env": "hash: variable that it gets, as `NAME=VALUE`; repeat for more",
		"module": "hash: `file` of a PKCS #11 module", "token": "hash: PKCS #11 `URI` of the token, with the source of its PIN"} {
		flags.Func(name, usage, func(value string) error { more = append(more, "--"+name, value); return nil })
	}
	operation := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		operation, args = args[0], args[1:]
	}
	file := ""
	if operation == "hash" && len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		file, args = args[0], args[1:]
	}
	if err := parse(c, flags, providerUsage, args, -1); err != nil {
		return err
	}
	if operation == "hash" && file == "" && flags.NArg() == 1 {
		file = flags.Arg(0)
	} else if flags.NArg() > 0 {
		return usageError("unexpected argument %q", flags.Arg(0))
	}
	if operation != "hash" && more != nil {
		return usageError("%s is of hash only", more[0])
	}
	cfg, err := new(config), error(nil)
	if operation != "hash" || f.config != "" {
		if cfg, err = f.load(); err != nil {
			return err
		}
	}
	run := []string{"provider", operation}
	switch {
	case operation == "hash" && file != "":
		if file, err = filepath.Abs(file); err != nil {
			return err
		}
		run = append(append(run, file), more...)
	case operation == "list" || operation == "check":
		if cfg.Agent.Config == "" {
			return configError(errors.New("[agent] does not name the agent's configuration"), "use --agent-config")
		}
		run = append(run, "--config", cfg.path(cfg.Agent.Config))
	default:
		return usageError("takes hash BINARY, list or check")
	}
	binary, sum, err := cfg.agentBinary()
	if err != nil {
		return err
	}
	code, err := agent.Command(ctx, agent.Config{Path: binary, SHA256: sum, Args: run, Env: agentEnv, Log: c.err}, c.out)
	if err != nil {
		return &exitError{exitAgent, err, ""}
	}
	if code != 0 {
		return &exitError{exitFailure, fmt.Errorf("the agent's command ended with exit code %d", code), ""}
	}
	return nil
}
