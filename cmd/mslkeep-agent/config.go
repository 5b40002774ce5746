// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// A config is the agent's file. agent.toml.example documents every field.
type config struct {
	Keys             string       `toml:"keys"`
	KeySource        string       `toml:"key-source"`
	PassphraseSource string       `toml:"passphrase-source"`
	TokenKeys        string       `toml:"token-keys"`
	StorageKey       string       `toml:"storage-key"`
	ExchangeKey      string       `toml:"exchange-key"`
	RecordKey        string       `toml:"record-key"`
	PSKPrefix        string       `toml:"psk-prefix"`
	RSAPrefix        string       `toml:"rsa-prefix"`
	ECPrefix         string       `toml:"ec-prefix"`
	ServicePrefix    string       `toml:"service-prefix"`
	Allow            []string     `toml:"allow"`
	KeyLog           string       `toml:"key-log"`
	Limits           limitsConfig `toml:"limits"`
	Groups           []dhGroup    `toml:"dh-groups"`

	Providers []providerConfig `toml:"providers"`

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
	Records  int           `toml:"records"`
	PairAge  time.Duration `toml:"pair-age"`
	PairUses int           `toml:"pair-uses"`
}

// A dhGroup is a group for the key exchange DIFFIE_HELLMAN: one of RFC 3526 by name, or its numbers in hexadecimal.
type dhGroup struct {
	ID    string `toml:"id"`
	Group string `toml:"group"`
	P     string `toml:"p"`
	G     string `toml:"g"`
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
	for i := range c.Providers {
		c.Providers[i].Binary = beside(dir, c.Providers[i].Binary)
	}
	return c, nil
}

func parseConfig(text string) (*config, error) {
	c := &config{PSKPrefix: "psk/", RSAPrefix: "rsa/", ECPrefix: "ec/", ServicePrefix: "service/"}
	md, err := toml.Decode(text, c)
	if err != nil {
		return nil, err
	}
	unknown := slices.DeleteFunc(md.Undecoded(), func(k toml.Key) bool { // tables in a provider's settings
		return len(k) > 2 && k[0] == "providers" && k[1] == "settings"
	})
	if len(unknown) > 0 {
		return nil, fmt.Errorf("there is no field %s", unknown[0])
	}
	l := c.Limits
	switch {
	case c.Keys == "":
		return nil, errors.New("keys is missing: the file that holds all keys")
	case (c.KeySource == "") == (c.PassphraseSource == ""):
		return nil, errors.New("set either key-source or passphrase-source, which opens the file of keys")
	case !distinct(c.PSKPrefix, c.RSAPrefix, c.ECPrefix, c.ServicePrefix):
		return nil, errors.New("psk-prefix, rsa-prefix, ec-prefix and service-prefix must differ, and not be empty")
	case min(l.Age, l.Idle, l.PairAge) < 0 || min(l.Uses, l.Bytes) < 0 || min(l.Sessions, l.Entities, l.Pending, l.Records, l.PairUses) < 0:
		return nil, errors.New("limits must not be negative")
	}
	if err := checkProviders(c.Providers); err != nil {
		return nil, err
	}
	_, err = c.dhGroups()
	return c, err
}

// distinct reports whether no two of the names are the same, and none is empty.
func distinct(names ...string) bool {
	slices.Sort(names)
	return names[0] != "" && len(slices.Compact(names)) == len(names)
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

// dhGroups returns the groups by id. Whether they are any good, package custody finds out.
func (c *config) dhGroups() (map[string]custody.Group, error) {
	groups := make(map[string]custody.Group)
	for _, d := range c.Groups {
		if _, twice := groups[d.ID]; twice || d.ID == "" {
			return nil, fmt.Errorf("[[dh-groups]] %q: each must have an id of its own", d.ID)
		}
		g, ok := custody.StandardGroup(d.Group)
		if d.Group == "" {
			var ok1, ok2 bool
			g.P, ok1 = hexNumber(d.P)
			g.G, ok2 = hexNumber(d.G)
			ok = ok1 && ok2
		} else if d.P != "" || d.G != "" {
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("[[dh-groups]] %q: set either group, to a name such as modp2048, or p and g, in hexadecimal", d.ID)
		}
		groups[d.ID] = g
	}
	return groups, nil
}

// hexNumber reads a number, which may have white space in it.
func hexNumber(text string) ([]byte, bool) {
	text = strings.Join(strings.Fields(text), "")
	if len(text)%2 == 1 {
		text = "0" + text
	}
	b, err := hex.DecodeString(text)
	return b, err == nil && len(b) > 0
}

// custody is what package custody is to do.
func (c *config) custody(p providers.Provider, groups map[string]custody.Group) custody.Config {
	return custody.Config{Provider: p, TokenKeys: c.TokenKeys, StorageKey: c.StorageKey, ExchangeKey: c.ExchangeKey, RecordKey: c.RecordKey,
		PSKPrefix: c.PSKPrefix, RSAPrefix: c.RSAPrefix, ECPrefix: c.ECPrefix, ServicePrefix: c.ServicePrefix,
		Limits: c.Limits.custody(), Allow: c.Allow, Groups: groups}
}

func (l limitsConfig) custody() custody.Limits {
	return custody.Limits{Age: l.Age, Idle: l.Idle, Uses: uint64(l.Uses), Bytes: uint64(l.Bytes), Sessions: l.Sessions,
		Entities: l.Entities, Pending: l.Pending, Records: l.Records, PairAge: l.PairAge, PairUses: l.PairUses}
}
