// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-provider-vault lets the key agent use keys in HashiCorp Vault. The agent starts it,
// with the settings that package vault's Config describes, in JSON:
//
//	address      https://HOST:PORT
//	ca           file with the certificates in PEM that Vault's must come from; default: the system's
//	server-name  in Vault's certificate; default: that of address
//	namespace    of Vault
//	mount        of the transit engine; default "transit"
//	auth         {"method": "approle", "role-id": …, "secret-id": "file:/PATH"}, or kubernetes, jwt, cert, token
//	keys         the keys to be used, and their types: {"entities": "aes-256"}
//	create       lets keys be made, rotated and destroyed in Vault
//	wrapped      {"folder": …, "key": …, "names": ["token-keys.*"], "hold": "24h"}: keys for what Vault cannot do
//	timeout      for each operation; default "2s"
//	window       for which uses of a key wait for others; default "300µs"
//
// With the argument policy, it prints the policy that Vault needs for the settings on its standard input. With
// check-policy, it logs in and says what the token cannot do of that, and what it can do beyond it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/vault"
)

func main() {
	plugin.Harden(false)
	run := serve
	switch {
	case len(os.Args) == 2 && os.Args[1] == "policy":
		run = policy
	case len(os.Args) == 2 && os.Args[1] == "check-policy":
		run = checkPolicy
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mslkeep-provider-vault:", err)
		os.Exit(providers.ExitCode(err))
	}
}

func serve() error {
	var c vault.Config
	if err := providers.ReadSettings(&c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := vault.Open(ctx, c)
	if err != nil {
		return err
	}
	return providers.Serve(p.Provider())
}

// given are the settings on standard input.
func given() (c vault.Config, err error) {
	d := json.NewDecoder(os.Stdin)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("reading the settings on standard input: %w", err)
	}
	return c, nil
}

func policy() error {
	c, err := given()
	if err != nil {
		return err
	}
	text, err := vault.Policy(c)
	if err != nil {
		return err
	}
	fmt.Print(text)
	return nil
}

func checkPolicy() error {
	c, err := given()
	if err != nil {
		return err
	}
	if c.Auth.Wrapped {
		return errors.New("logging in would spend the wrapped secret id; the agent's log says at its start what the policy allows too much")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := vault.Open(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	lacking, err := p.Lacking(ctx)
	if err != nil {
		return err
	}
	for _, l := range lacking {
		fmt.Println("lacking:", l)
	}
	wide, err := p.Wide(ctx)
	if err != nil {
		return err
	}
	for _, w := range wide {
		fmt.Println("too much:", w)
	}
	if n := len(lacking) + len(wide); n > 0 {
		return fmt.Errorf("the policy is not that of these settings: %d findings", n)
	}
	fmt.Println("the token can do what these settings need, and nothing else that was looked for")
	return nil
}
