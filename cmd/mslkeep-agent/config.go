// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/providers/software"
)

// A config is the agent's file. agent.toml.example documents every field.
type config struct {
	Keys             string       `toml:"keys"`
	KeySource        string       `toml:"key-source"`
	PassphraseSource string       `toml:"passphrase-source"`
	TokenKeys        string       `toml:"token-keys"`
	StorageKey       string       `toml:"storage-key"`
	PSKPrefix        string       `toml:"psk-prefix"`
	RSAPrefix        string       `toml:"rsa-prefix"`
	ServicePrefix    string       `toml:"service-prefix"`
	Allow            []string     `toml:"allow"`
	KeyLog           string       `toml:"key-log"`
	Limits           limitsConfig `toml:"limits"`

	path   string // of this file
	manage bool   // --manage
}

// limitsConfig: a field that is 0 means its default.
type limitsConfig struct {
	Age      time.Duration `toml:"age"`
	Idle     time.Duration `toml:"idle"`
	Uses     int64         `toml:"uses"`
	Bytes    int64         `toml:"bytes"`
	Sessions int           `toml:"sessions"`
	Entities int           `toml:"entities"`
	Pending  int           `toml:"pending"`
	PairAge  time.Duration `toml:"pair-age"`
	PairUses int           `toml:"pair-uses"`
}

// loadConfig reads the file and makes its paths absolute. A key that means nothing is an error.
func loadConfig(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := parseConfig(string(text))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	c.path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(c.path)
	c.Keys = beside(dir, c.Keys)
	c.KeySource = sourceBeside(dir, c.KeySource)
	c.PassphraseSource = sourceBeside(dir, c.PassphraseSource)
	if c.KeyLog != "" {
		c.KeyLog = beside(dir, c.KeyLog)
	}
	return c, nil
}

func parseConfig(text string) (*config, error) {
	c := &config{PSKPrefix: "psk/", RSAPrefix: "rsa/", ServicePrefix: "service/"}
	md, err := toml.Decode(text, c)
	if err != nil {
		return nil, err
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("there is no field %s; mslkeep-agent example prints them all", unknown[0])
	}
	l := c.Limits
	switch {
	case c.Keys == "":
		return nil, errors.New("keys is missing: the file that holds all keys")
	case (c.KeySource == "") == (c.PassphraseSource == ""):
		return nil, errors.New("set either key-source or passphrase-source, which opens the file of keys")
	case c.PSKPrefix == "" || c.RSAPrefix == "" || c.ServicePrefix == "":
		return nil, errors.New("psk-prefix, rsa-prefix and service-prefix must not be empty")
	case c.PSKPrefix == c.RSAPrefix || c.PSKPrefix == c.ServicePrefix || c.RSAPrefix == c.ServicePrefix:
		return nil, errors.New("psk-prefix, rsa-prefix and service-prefix must differ")
	case min(l.Age, l.Idle, l.PairAge) < 0 || min(l.Uses, l.Bytes) < 0 || min(l.Sessions, l.Entities, l.Pending, l.PairUses) < 0:
		return nil, errors.New("limits must not be negative")
	}
	return c, nil
}

// beside makes a path absolute, relative to a folder.
func beside(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// sourceBeside does so for a reference to a secret in a file.
func sourceBeside(dir, source string) string {
	if path, ok := strings.CutPrefix(source, "file:"); ok && path != "" {
		return "file:" + beside(dir, path)
	}
	return source
}

func (c *config) unlock() software.Unlock {
	return software.Unlock{PassphraseSource: c.PassphraseSource, KeySource: c.KeySource}
}

func (l limitsConfig) custody() custody.Limits {
	return custody.Limits{Age: l.Age, Idle: l.Idle, Uses: uint64(l.Uses), Bytes: uint64(l.Bytes), Sessions: l.Sessions,
		Entities: l.Entities, Pending: l.Pending, PairAge: l.PairAge, PairUses: l.PairUses}
}
