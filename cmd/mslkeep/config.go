// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// A config is the file that serve, send and keys read. The commented examples serve.toml and
// send.toml document every field. It holds no secret: keys, and what unlocks them, are the agent's.
type config struct {
	Agent  agentConfig  `toml:"agent"`
	Entity entityConfig `toml:"entity"`
	Peers  peersConfig  `toml:"peers"`
	MSL    mslConfig    `toml:"msl"`
	Serve  serveConfig  `toml:"serve"`
	Send   sendConfig   `toml:"send"`

	Entities entitiesConfig `toml:"entities"`

	dir string    // relative paths are relative to the file's folder
	log io.Writer // of the agent; nil for standard error
}

// agentConfig says how to get at the key agent: start one, or connect to one.
type agentConfig struct {
	Binary string `toml:"binary"` // default: mslkeep-agent beside mslkeep
	SHA256 string `toml:"sha256"` // default: the one that mslkeep was built with
	Config string `toml:"config"` // the agent's own file
	Socket string `toml:"socket"` // "unix:PATH" of a running agent, instead of the three above
}

// peersConfig says who may be on the other side.
type peersConfig struct {
	Schemes       []string        `toml:"schemes"`
	Identity      string          `toml:"identity"`
	RSA           []peerKeyConfig `toml:"rsa"`
	ECC           []peerKeyConfig `toml:"ecc"`
	Roots         string          `toml:"x509-roots-file"`
	Intermediates string          `toml:"x509-intermediates-file"`
	Directory     string          `toml:"public-key-directory"`
	Revoked       []string        `toml:"revoked"` // identities that serve refuses
}

// peerKeyConfig is the public key of a remote entity.
type peerKeyConfig struct {
	KeyID      string   `toml:"key-id"`
	File       string   `toml:"public-key-file"` // PEM, SubjectPublicKeyInfo
	Identities []string `toml:"identities"`
}

// mslConfig is about messages and tokens.
type mslConfig struct {
	PeerToPeer          bool              `toml:"peer-to-peer"`
	KeyExchanges        []string          `toml:"key-exchanges"`
	Compression         []string          `toml:"compression"`
	Languages           []string          `toml:"languages"`
	ServiceTokenKeys    map[string]string `toml:"service-token-keys"`
	MasterTokenRenewal  duration          `toml:"master-token-renewal"`
	MasterTokenLifetime duration          `toml:"master-token-lifetime"`
	UserIDTokenRenewal  duration          `toml:"user-id-token-renewal"`
	UserIDTokenLifetime duration          `toml:"user-id-token-lifetime"`
	MaxHeader           int               `toml:"max-header-bytes"`
	MaxPayload          int               `toml:"max-payload-bytes"`
	MaxInflated         int               `toml:"max-inflated-bytes"`
}

// A duration is written as Go writes it: "90s", "1h30m".
type duration time.Duration

// UnmarshalText parses a duration that is not negative.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = errors.New("must not be negative")
	}
	*d = duration(v)
	return err
}

// loadConfig reads a file, refusing fields that it does not know.
func loadConfig(path string) (*config, error) {
	if path == "" {
		return nil, usageError("--config FILE is missing")
	}
	c := &config{dir: filepath.Dir(path)}
	meta, err := toml.DecodeFile(path, c)
	if err != nil {
		return nil, configError(fmt.Errorf("reading %s: %w", path, err), "")
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, configError(fmt.Errorf("%s: there is no field %q", path, unknown[0].String()), "check its spelling and its section")
	}
	return c, nil
}

// path makes a path of the file absolute.
func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// connect starts the agent, with further arguments if there are any, or connects to one that runs.
func (c *config) connect(ctx context.Context, args ...string) (*agent.Client, error) {
	a := c.Agent
	if a.Socket != "" {
		if a.Binary != "" || a.SHA256 != "" || a.Config != "" {
			return nil, configError(errors.New("[agent] names a socket and a binary to start"), "use one of the two")
		}
		return dialAgent(ctx, a.Socket)
	}
	binary, sum, err := c.agentBinary()
	if err != nil {
		return nil, err
	}
	if a.Config == "" {
		return nil, configError(errors.New("[agent] names neither a config nor a socket"), "set config to the agent's file")
	}
	log := c.log
	if log == nil {
		log = os.Stderr
	}
	return startAgent(ctx, binary, sum, append([]string{"--config", c.path(a.Config)}, args...), log)
}

// agentBinary returns the path of the agent's binary, and its SHA-256.
func (c *config) agentBinary() (binary, sum string, err error) {
	if binary = c.path(c.Agent.Binary); binary == "" {
		self, err := os.Executable()
		if err != nil {
			return "", "", err
		}
		binary = filepath.Join(filepath.Dir(self), "mslkeep-agent")
	}
	if sum = c.Agent.SHA256; sum == "" {
		sum = agentSHA256
	}
	if sum == "" {
		return "", "", configError(errNotPinned, "set sha256 in [agent], from: sha256sum "+binary)
	}
	return binary, sum, nil
}

// msl turns the file into the Config of package msl.
func (c *config) msl() (*msl.Config, error) {
	m := &msl.Config{
		PeerToPeer:          c.MSL.PeerToPeer,
		EntitySchemes:       c.Peers.Schemes,
		RemoteIdentity:      c.Peers.Identity,
		ServiceTokenKeys:    c.MSL.ServiceTokenKeys,
		MasterTokenRenewal:  time.Duration(c.MSL.MasterTokenRenewal),
		MasterTokenLifetime: time.Duration(c.MSL.MasterTokenLifetime),
		UserIDTokenRenewal:  time.Duration(c.MSL.UserIDTokenRenewal),
		UserIDTokenLifetime: time.Duration(c.MSL.UserIDTokenLifetime),
		Limits:              msl.Limits{Header: c.MSL.MaxHeader, Payload: c.MSL.MaxPayload, Inflate: c.MSL.MaxInflated},
		Capabilities:        &msl.Capabilities{Compression: []string{msl.GZIP, msl.LZW}, Formats: []string{"JSON"}, Languages: c.MSL.Languages},
	}
	if c.MSL.Compression != nil {
		m.Capabilities.Compression = c.MSL.Compression
	}
	var err error
	if m.Entity, err = c.entity(); err != nil {
		return nil, err
	}
	if m.KeyExchanges, err = keyExchanges(c.MSL.KeyExchanges); err != nil {
		return nil, err
	}
	return m, c.trust(m)
}

// keyExchanges parses names such as "ASYMMETRIC_WRAPPED/JWE_RSA".
func keyExchanges(names []string) ([]msl.KeyExchange, error) {
	var out []msl.KeyExchange
	for _, name := range names {
		scheme, mechanism, ok := strings.Cut(name, "/")
		if !ok {
			return nil, configError(fmt.Errorf("key exchange %q", name), "write SCHEME/MECHANISM, as in ASYMMETRIC_WRAPPED/JWE_RSA")
		}
		out = append(out, msl.KeyExchange{Scheme: scheme, Mechanism: mechanism})
	}
	return out, nil
}
