// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
)

// A providerConfig is a [[providers]] section. Its own settings are passed on unread.
type providerConfig struct {
	Name      string         `toml:"name"`
	Binary    string         `toml:"binary"`
	SHA256    string         `toml:"sha256"`
	Env       []string       `toml:"env"`
	Timeout   time.Duration  `toml:"timeout"`
	Processes int            `toml:"processes"`
	Settings  map[string]any `toml:"settings"`
}

var providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func checkProviders(all []providerConfig) error {
	seen := make(map[string]bool)
	for _, p := range all {
		switch {
		case !providerName.MatchString(p.Name) || seen[p.Name]:
			return fmt.Errorf("[[providers]] %q: each must have a name of its own, of small letters, digits and hyphens", p.Name)
		case p.Binary == "":
			return fmt.Errorf("[[providers]] %q: binary is missing", p.Name)
		case p.SHA256 == "":
			return fmt.Errorf("[[providers]] %q: sha256 is missing; mslkeep-agent provider hash prints it", p.Name)
		case p.Timeout < 0:
			return fmt.Errorf("[[providers]] %q: timeout must not be negative", p.Name)
		case p.Processes < 0 || p.Processes > providers.MaxProcesses:
			return fmt.Errorf("[[providers]] %q: processes must be 1 to %d", p.Name, providers.MaxProcesses)
		}
		seen[p.Name] = true
	}
	return nil
}

// connected are the providers that run in processes of their own, by name.
type connected map[string]*providers.Connection

// connect starts all providers of the configuration.
func connect(ctx context.Context, cfg *config) (_ connected, err error) {
	all := make(connected)
	defer func() {
		if err != nil {
			all.close()
		}
	}()
	for _, p := range cfg.Providers {
		c, err := p.connect(ctx)
		if err != nil {
			return nil, &exitError{exitProvider, fmt.Errorf("starting provider %s: %w", p.Name, err), providerAdvice(err, cfg).hint}
		}
		all[p.Name] = c
		p.warn(c)
	}
	return all, nil
}

// warn logs what the provider wants an operator to know.
func (p *providerConfig) warn(c *providers.Connection) {
	for _, w := range c.Description().Warnings {
		fmt.Fprintf(os.Stderr, "provider %s: %s\n", p.Name, w)
	}
}

func (p *providerConfig) connect(ctx context.Context) (*providers.Connection, error) {
	settings, err := p.settings()
	if err != nil {
		return nil, err
	}
	// Standard error, as it is now: go-plugin replaces os.Stderr when this process serves its parent.
	return providers.Connect(ctx, providers.Config{Path: p.Binary, SHA256: p.SHA256, Settings: settings, Timeout: p.Timeout, Processes: p.Processes,
		Env: p.env(), Log: &prefixedLog{to: os.Stderr, prefix: "provider " + p.Name + ": "}})
}

// settings are what the provider gets, in JSON.
func (p *providerConfig) settings() ([]byte, error) {
	if p.Settings == nil {
		return []byte("{}"), nil
	}
	settings, err := json.Marshal(p.Settings)
	if err != nil {
		return nil, fmt.Errorf("its settings: %w", err)
	}
	return settings, nil
}

func (p *providerConfig) env() []string { return append([]string{"CREDENTIALS_DIRECTORY"}, p.Env...) }

// with returns keys and the providers as one.
func (c connected) with(keys providers.Provider) providers.Provider {
	if len(c) == 0 {
		return keys
	}
	j := &providers.Joined{Main: keys, Named: make(map[string]providers.Provider)}
	for name, p := range c {
		j.Named[name] = p.Provider()
	}
	return j
}

func (c connected) close() {
	for _, p := range c {
		p.Close()
	}
}

// prefixedLog says whose a line is.
type prefixedLog struct {
	to     io.Writer
	prefix string
}

func (l *prefixedLog) Write(b []byte) (int, error) {
	_, err := l.to.Write(append([]byte(l.prefix), b...))
	return len(b), err
}

// providerCommand is mslkeep-agent provider.
func providerCommand(ctx context.Context, o *options, out io.Writer) error {
	switch o.operation {
	case "hash":
		return o.section.print(o.file, out)
	case "list", "check", "policy", "check-policy":
	default:
		return usageError("provider takes hash, list, check, policy or check-policy")
	}
	cfg, err := loadConfig(o.config)
	if err != nil {
		return &exitError{exitConfig, err, configHint}
	}
	plugin.Harden(false)
	if o.operation == "policy" || o.operation == "check-policy" {
		return cfg.runProvider(ctx, o.file, o.operation, out)
	}
	failed := 0
	for i := range cfg.Providers {
		p := &cfg.Providers[i]
		if o.operation == "list" {
			fmt.Fprintf(out, "%s\t%s\n", p.Name, p.Binary)
		} else if err := p.check(ctx, out); err != nil {
			text := err.Error()
			if a := providerAdvice(err, cfg); a.check != "provider-start" {
				text += "; " + a.hint
			}
			fmt.Fprintf(out, "%s: FAILED: %s\n", p.Name, text)
			failed++
		}
	}
	if failed > 0 {
		return &exitError{exitProvider, fmt.Errorf("%d of %d providers failed", failed, len(cfg.Providers)), ""}
	}
	return nil
}

// runProvider runs a provider's own command, which gets its settings on standard input.
func (c *config) runProvider(ctx context.Context, name, command string, out io.Writer) error {
	i := slices.IndexFunc(c.Providers, func(p providerConfig) bool { return p.Name == name })
	if i < 0 {
		return &exitError{exitConfig, fmt.Errorf("there is no provider %q", name), "provider list shows their names"}
	}
	p := &c.Providers[i]
	settings, err := p.settings()
	if err != nil {
		return &exitError{exitConfig, err, configHint}
	}
	var said bytes.Buffer
	code, err := plugin.Run(ctx, plugin.Spec{Path: p.Binary, SHA256: p.SHA256, Args: []string{command}, Env: p.env(),
		Input: bytes.NewReader(settings), Log: &said}, out)
	if err == nil && code != 0 {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		err = errors.New(lines[len(lines)-1])
	}
	if err != nil {
		return &exitError{exitProvider, fmt.Errorf("provider %s: %w", name, err), ""}
	}
	return nil
}

// check starts a provider as the agent does, and uses every version of every key.
func (p *providerConfig) check(ctx context.Context, out io.Writer) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if d, ok := c.Provider().(providers.Describer); ok {
		what, err := d.Describe(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: started: %s %s\n", p.Name, what.Name, what.Version)
		if what.Random {
			if _, err := providers.Random(ctx, c.Provider(), 32); err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: its generator of random bytes: good\n", p.Name)
		}
	}
	infos, err := c.Provider().Keys(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(infos, func(x, y providers.KeyInfo) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Version, y.Version))
	})
	bad := 0
	for _, i := range infos {
		k, err := c.Provider().Open(ctx, i.Name, i.Version)
		if err == nil {
			err = providers.TryKey(ctx, k)
		}
		says := "good"
		if err != nil {
			says = "FAILED: " + string(bytes.TrimSpace([]byte(err.Error())))
			bad++
		}
		fmt.Fprintf(out, "%s:%s version %d, %s: %s\n", p.Name, i.Name, i.Version, i.Type, says)
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d keys cannot be used", bad, len(infos))
	}
	return c.Provider().(providers.HealthChecker).Health(ctx)
}
