// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"strings"

	"github.com/mslkeep/mslkeep/agent"
)

const vaultUsage = `Usage: mslkeep vault policy (--config FILE | --agent-config FILE) [--name NAME] [--check]

Prints the policy, in Vault's language, that the provider for Vault needs with the settings in the agent's
configuration, and nothing more: every key has its name in it, so that Vault refuses a name that is mistyped, where it
would otherwise make a key.

With --check, logs in to Vault as the provider does and says what the token cannot do but should, and what it can
do but should not, such as making a key by a typo. It exits with 1 if there is anything. Vault is not changed.

The provider's own binary does the work, which the agent's starts: this program never talks to Vault.

Examples:
  mslkeep vault policy --agent-config agent.toml | vault policy write mslkeep -
  mslkeep vault policy --agent-config agent.toml --check
`

// vault runs a command of the provider for Vault.
func vault(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("vault", flag.ContinueOnError)
	var f keyFlags
	flags.StringVar(&f.config, "config", "", "configuration `file` of serve or send, which names the agent")
	flags.StringVar(&f.agentConfig, "agent-config", "", "the agent's own configuration `file`, if there is no other")
	name := flags.String("name", "vault", "`name` of the provider in the agent's configuration")
	check := flags.Bool("check", false, "compare with what the token can do")
	operation := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		operation, args = args[0], args[1:]
	}
	if err := parse(c, flags, vaultUsage, args, 0); err != nil {
		return err
	}
	if operation != "policy" {
		return usageError("takes policy")
	}
	if *name == "" || (*name)[0] == '-' {
		return usageError("--name %q is no name of a provider", *name)
	}
	cfg, err := f.load()
	if err != nil {
		return err
	}
	if cfg.Agent.Config == "" {
		return configError(errors.New("[agent] does not name the agent's configuration"), "use --agent-config")
	}
	if *check {
		operation = "check-policy"
	}
	binary, sum, err := cfg.agentBinary()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	code, err := agent.Command(ctx, agent.Config{Path: binary, SHA256: sum, Env: agentEnv, Log: &said,
		Args: []string{"provider", operation, *name, "--config", cfg.path(cfg.Agent.Config)}}, c.out)
	if err != nil {
		return &exitError{exitAgent, err, ""}
	}
	if code == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	reason := strings.TrimPrefix(lines[len(lines)-1], "mslkeep-agent: ")
	if code != exitConfig { // which means the same there
		code = exitFailure
	}
	return &exitError{code, errors.New(reason), ""}
}
