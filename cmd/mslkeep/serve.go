// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

const serveUsage = `Usage: mslkeep serve --config FILE [FLAGS]

Answers MSL messages that come over HTTP, WebSockets, TCP or unix sockets: echoes their data, or hands it to
an HTTP service and answers with what that says. The service sees the sender in the headers MSL-Entity and
MSL-User.

Examples:
  mslkeep serve --config serve.toml --upstream http://127.0.0.1:9000/
  mslkeep serve --config serve.toml --key-exchange JWE_LADDER/WRAP,JWE_LADDER/PSK --master-token-renewal 1m
  mslkeep serve --config serve.toml --listen http://127.0.0.1:8080,ws://127.0.0.1:8081,tcp://127.0.0.1:8082
`

// serveConfig is the section [serve].
type serveConfig struct {
	Listen          textList     `toml:"listen"`
	IdleTimeout     duration     `toml:"idle-timeout"`
	MaxConns        int          `toml:"max-connections"`
	Origins         []string     `toml:"websocket-origins"`
	Upstream        string       `toml:"upstream"`
	UserSchemes     []string     `toml:"user-schemes"`
	ProvisionPrefix string       `toml:"provision-prefix"`
	Users           []userConfig `toml:"users"`
}

func serve(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	var f serveFlags
	f.define(flags)
	if err := parse(c, flags, serveUsage, args, 0); err != nil {
		return err
	}
	if f.example {
		return example(c, "serve.toml")
	}
	cfg, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	if err := f.override(cfg); err != nil {
		return err
	}
	mslConfig, err := cfg.server()
	if err != nil {
		return err
	}
	handler, err := newHandler(cfg.Serve.Upstream)
	if err != nil {
		return err
	}
	tokens, err := newServiceTokens(cfg, f.serviceTokens)
	if err != nil {
		return err
	}
	doors, err := listenOn(cfg)
	if err != nil {
		return err
	}
	defer closeAll(doors)
	keys, err := cfg.connect(ctx)
	if err != nil {
		return err
	}
	defer keys.Close()
	if err := cfg.checkEntity(ctx, keys, mslConfig.Entity); err != nil {
		return err
	}
	var custody ownKeys = keys
	if cfg.Entities.Database != "" {
		if err := checkRecordKey(ctx, keys); err != nil {
			return err
		}
		store, err := cfg.openEntities(ctx)
		if err != nil {
			return err
		}
		defer store.Close()
		custody = withRecords(keys, store)
	}
	if cfg.Peers.Directory != "" {
		dir, err := cfg.keyDirectory()
		if err != nil {
			return err
		}
		custody = &enrolledKeys{custody, dir}
	}
	server, err := msl.NewServer(mslConfig, custody, &answering{handler, f.compression, tokens})
	if err != nil {
		return configError(err, "")
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level}))
	server.Failed = func(err error) { log.Debug("message failed", "error", err) }
	server.IdleTimeout, server.MaxConns, server.Grace = time.Duration(cfg.Serve.IdleTimeout), cfg.Serve.MaxConns, shutdownTime
	if err := ready(c, urls(doors), keys, f.json); err != nil {
		return err
	}
	return cfg.serveAll(ctx, doors, server, log)
}

// server turns the file into the Config of a server.
func (c *config) server() (*msl.Config, error) {
	m, err := c.msl()
	if err != nil {
		return nil, err
	}
	if m.Users, err = newUsers(c.Serve.Users); err != nil {
		return nil, err
	}
	m.UserSchemes = c.Serve.UserSchemes
	if prefix := c.Serve.ProvisionPrefix; prefix != "" {
		m.Provision = func(context.Context) (string, error) { return prefix + rand.Text(), nil }
	}
	m.Policy = &policy{msl.NewMemoryPolicy(m), c.Peers.Revoked}
	return m, nil
}

// ready says on standard output that the server answers from now on, and where.
func ready(c *cli, urls []string, keys *agent.Client, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(map[string]any{"url": urls[0], "urls": urls, "agent_pid": keys.PID()})
	}
	_, err := fmt.Fprintf(c.out, "serving %s, key agent is process %d\n", strings.Join(urls, ", "), keys.PID())
	return err
}

// newHandler echoes, or forwards to a service.
func newHandler(upstream string) (msl.Handler, error) {
	if upstream == "" {
		return echo{}, nil
	}
	u, err := url.Parse(upstream)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, configError(fmt.Errorf("upstream %q is not the URL of an HTTP service", upstream), "")
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.URL.Path, r.Out.URL.RawQuery = u.Path, u.RawQuery
	}}
	return msl.HTTPHandler(proxy), nil
}

// echo answers with the data that came, protected as it came.
type echo struct{}

func (echo) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	switch {
	case m.Encrypted:
		w.Protection = msl.Encrypted
	case m.IntegrityProtected:
		w.Protection = msl.IntegrityProtected
	default:
		w.Protection = msl.Unprotected
	}
	for {
		chunk, err := m.NextChunk(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
}

// policy refuses the entities that the configuration revokes.
type policy struct {
	*msl.MemoryPolicy
	revoked []string
}

func (p *policy) Entity(_ context.Context, identity, _ string) (msl.Code, error) {
	if slices.Contains(p.revoked, identity) {
		return msl.EntityRevoked, nil
	}
	return 0, nil
}

func (p *policy) MasterToken(_ context.Context, identity string, _ *msl.MasterToken, _ bool) (msl.Code, error) {
	if slices.Contains(p.revoked, identity) {
		return msl.MasterTokenIdentityRevoked, nil
	}
	return 0, nil
}
