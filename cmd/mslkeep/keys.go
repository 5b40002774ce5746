// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/mslkeep/mslkeep/agent"
)

const keysUsage = `Usage: mslkeep keys list|generate|import|rotate|public|health (--config FILE | --agent-config FILE) [FLAGS] [NAME]

Works on the keys that the agent holds, through the agent: no key passes through this program. import
makes the agent read a file, or the standard input that it shares with this program.

  list [PREFIX]    the keys and their versions: how often the agent has used each since it was started, and
                   how many master tokens each has opened in the last hour
  generate NAME    a new key of --type
  import NAME      a key from --file: raw keys in hex, base64 or JWK, key pairs in PKCS #8
  rotate NAME      the next version of a key; older versions stay good for what they protected
  public NAME      the public half of a key pair, as PEM
  health           how the agent is: its hardening, its provider, its open sessions

Names have meaning: psk/IDENTITY holds the pre-shared keys of an entity, rsa/KEYID or ec/KEYID a key pair
of this side, service/NAME the keys of service tokens.

Types: keyset (an encryption, a signature and a wrapping key), aes-128, aes-256, hmac-sha256,
rsa-2048, rsa-3072, rsa-4096, ec-p256.

Examples:
  mslkeep keys generate --config serve.toml --type rsa-2048 rsa/server
  mslkeep keys generate --config serve.toml --type ec-p256 ec/server
  mslkeep keys import --config serve.toml --type keyset --file device.hex psk/device-1
  openssl rand -hex 48 | mslkeep keys import --config serve.toml --type keyset psk/device-2
`

// keyFlags are the flags of keys.
type keyFlags struct {
	config, agentConfig, kind, file, format string
	json                                    bool
}

func keys(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("keys", flag.ContinueOnError)
	var f keyFlags
	flags.StringVar(&f.config, "config", "", "configuration `file` of serve or send, which names the agent")
	flags.StringVar(&f.agentConfig, "agent-config", "", "the agent's own configuration `file`, if there is no other")
	flags.StringVar(&f.kind, "type", "keyset", "`type` of the key to generate or import")
	flags.StringVar(&f.file, "file", "-", "`file` to import from; - is standard input")
	flags.StringVar(&f.format, "format", "", "hex, base64, jwk or pkcs8 (default: found out)")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	operation := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		operation, args = args[0], args[1:]
	}
	if err := parse(c, flags, keysUsage, args, -1); err != nil {
		return err
	}
	work, ok := keyOperations[operation]
	if !ok {
		return usageError("there is no operation %q", operation)
	}
	name := flags.Arg(0)
	switch {
	case operation == "health" && flags.NArg() > 0:
		return usageError("health takes no name")
	case flags.NArg() > 1 || name == "" && operation != "list" && operation != "health":
		return usageError("%s takes the name of one key", operation)
	}
	k, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer k.Close()
	return work(ctx, c, k, &f, name)
}

func (f *keyFlags) connect(ctx context.Context) (*agent.Client, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	return cfg.connect(ctx, "--manage")
}

// load returns the configuration that the flags name.
func (f *keyFlags) load() (*config, error) {
	if (f.config == "") == (f.agentConfig == "") {
		return nil, usageError("give either --config or --agent-config")
	}
	if f.config != "" {
		return loadConfig(f.config)
	}
	return &config{Agent: agentConfig{Config: f.agentConfig}}, nil
}

// keyOperations is the table of what keys can do.
var keyOperations = map[string]func(context.Context, *cli, *agent.Client, *keyFlags, string) error{
	"list": func(ctx context.Context, c *cli, k *agent.Client, f *keyFlags, prefix string) error {
		list, err := k.Keys(ctx, prefix)
		if some, ok := errors.AsType[*agent.KeysError](err); ok {
			if err := printKeys(c, f, list, nil); err != nil {
				return err
			}
			return &exitError{exitFailure, some, "mslkeep provider check tells more"}
		}
		return printKeys(c, f, list, err)
	},
	"generate": func(ctx context.Context, c *cli, k *agent.Client, f *keyFlags, name string) error {
		list, err := k.GenerateKey(ctx, name, f.kind)
		return printKeys(c, f, list, err)
	},
	"rotate": func(ctx context.Context, c *cli, k *agent.Client, f *keyFlags, name string) error {
		list, err := k.RotateKey(ctx, name)
		return printKeys(c, f, list, err)
	},
	"import": func(ctx context.Context, c *cli, k *agent.Client, f *keyFlags, name string) error {
		path, err := importPath(f.file)
		if err != nil {
			return err
		}
		list, err := k.ImportKey(ctx, name, f.kind, path, f.format)
		return printKeys(c, f, list, err)
	},
	"health": health,
	"public": func(ctx context.Context, c *cli, k *agent.Client, _ *keyFlags, name string) error {
		_, spki, err := k.PublicKey(ctx, name, 0)
		if err != nil {
			return keyError(err)
		}
		return pem.Encode(c.out, &pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	},
}

// health prints the agent's state.
func health(ctx context.Context, c *cli, k *agent.Client, f *keyFlags, _ string) error {
	h, err := k.Health(ctx)
	if err != nil {
		return keyError(err)
	}
	if f.json {
		return printJSON(c.out, h)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	for _, finding := range h.Findings {
		state := "ok"
		if !finding.OK {
			state = "NO"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", finding.Name, state, finding.Detail)
	}
	fmt.Fprintf(w, "open\t\t%d sessions, %d entities\n", h.Sessions, h.Entities)
	return w.Flush()
}

// importPath makes a path absolute, since the agent may have another working directory. The file is
// not opened here.
func importPath(path string) (string, error) {
	if path == "-" {
		return path, nil
	}
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func printKeys(c *cli, f *keyFlags, list []agent.Key, err error) error {
	if err != nil {
		return keyError(err)
	}
	if f.json {
		if list == nil {
			list = []agent.Key{}
		}
		return printJSON(c.out, list)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tTYPE\tCREATED\tUSES\tTOKENS")
	for _, k := range list {
		created := "-"
		if !k.Created.IsZero() {
			created = k.Created.UTC().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%d\n", k.Name, k.Version, k.Type, created, k.Uses, k.Opened)
	}
	return w.Flush()
}

// keyError adds a hint to what the agent said.
func keyError(err error) error {
	return &exitError{exitFailure, err, hintFor(err)}
}

// errNotPinned means that nothing says which agent binary is the right one.
var errNotPinned = errors.New("the agent's binary is not pinned")
