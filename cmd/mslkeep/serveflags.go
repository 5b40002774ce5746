// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	config, upstream            string
	listen                      textList
	example, json, verbose      bool
	network                     networkFlags
	userSchemes, compression    string
	serviceTokens               []string
	entity                      entityConfig
	masterRenewal, masterExpiry time.Duration
	userRenewal, userExpiry     time.Duration
}

func (f *serveFlags) define(flags *flag.FlagSet) {
	flags.StringVar(&f.config, "config", "", "configuration `file`")
	flags.Func("listen", "`URL` to listen on, instead of the file's; HOST:PORT means HTTP; repeat for more", addList(&f.listen))
	flags.StringVar(&f.upstream, "upstream", "", "`URL` of the HTTP service, instead of the file's")
	flags.BoolVar(&f.example, "example", false, "print a configuration that explains every field, and exit")
	flags.BoolVar(&f.json, "json", false, "say in JSON on standard output where the server listens")
	flags.BoolVar(&f.verbose, "verbose", false, "log every message that fails")
	f.network.define(flags, "clients", "accept")
	flags.StringVar(&f.userSchemes, "user-schemes", "", "how users may authenticate, as `SCHEME,…`")
	flags.StringVar(&f.compression, "compression", "", "GZIP, LZW or NONE, for answers (default: the first that both sides have)")
	defineServiceTokens(flags, &f.serviceTokens)
	f.entity.define(flags)
	flags.DurationVar(&f.masterRenewal, "master-token-renewal", 0, "master tokens may be renewed after this `time`; 1ms: at once")
	flags.DurationVar(&f.masterExpiry, "master-token-lifetime", 0, "master tokens expire after this `time`")
	flags.DurationVar(&f.userRenewal, "user-id-token-renewal", 0, "user ID tokens may be renewed after this `time`; 1ms: at once")
	flags.DurationVar(&f.userExpiry, "user-id-token-lifetime", 0, "user ID tokens expire after this `time`")
}

// override lets flags win over the file.
func (f *serveFlags) override(cfg *config) error {
	if f.listen != nil {
		cfg.Serve.Listen = f.listen
	}
	if f.upstream != "" {
		cfg.Serve.Upstream = f.upstream
	}
	if f.userSchemes != "" {
		cfg.Serve.UserSchemes = strings.Split(f.userSchemes, ",")
	}
	for _, d := range []struct {
		to   *duration
		from time.Duration
	}{
		{&cfg.MSL.MasterTokenRenewal, f.masterRenewal}, {&cfg.MSL.MasterTokenLifetime, f.masterExpiry},
		{&cfg.MSL.UserIDTokenRenewal, f.userRenewal}, {&cfg.MSL.UserIDTokenLifetime, f.userExpiry},
	} {
		if d.from < 0 {
			return usageError("renewal and lifetime of tokens must not be negative")
		}
		if d.from > 0 {
			*d.to = duration(d.from)
		}
	}
	f.network.override(cfg)
	if err := f.entity.override(cfg); err != nil {
		return err
	}
	if cfg.Entity.ProtectedBy != "" {
		return configError(errors.New("[entity] has protected-by"), "a server has no master token to use")
	}
	return checkCompression(f.compression)
}

// networkFlags are those that serve and send have in common: what the other side may be and do.
type networkFlags struct {
	entitySchemes, keyExchanges string
	peerToPeer                  bool
}

// define defines them. others is who is on the other side, and verb what we do with key exchanges.
func (f *networkFlags) define(flags *flag.FlagSet, others, verb string) {
	flags.StringVar(&f.entitySchemes, "entity-schemes", "", "how "+others+" may authenticate, as `SCHEME,…`")
	flags.StringVar(&f.keyExchanges, "key-exchange", "", "key exchanges to "+verb+", the preferred one first, as `SCHEME/MECHANISM,…`")
	flags.BoolVar(&f.peerToPeer, "peer-to-peer", false, "be a party of a peer-to-peer network")
}

func (f *networkFlags) override(cfg *config) {
	if f.entitySchemes != "" {
		cfg.Peers.Schemes = strings.Split(f.entitySchemes, ",")
	}
	if f.keyExchanges != "" {
		cfg.MSL.KeyExchanges = strings.Split(f.keyExchanges, ",")
	}
	cfg.MSL.PeerToPeer = cfg.MSL.PeerToPeer || f.peerToPeer
}

// defineServiceTokens defines the flag that collects service tokens.
func defineServiceTokens(flags *flag.FlagSet, to *[]string) {
	flags.Func("service-token", "add a service token `NAME=DATA`; NAME may end in @entity or @user to bind it; repeat for more", func(s string) error {
		*to = append(*to, s)
		return nil
	})
}

// newServiceTokens reads what the flag has collected.
func newServiceTokens(cfg *config, texts []string) (tokens []msl.NewServiceToken, err error) {
	if texts != nil && len(cfg.MSL.ServiceTokenKeys) == 0 {
		return nil, configError(errors.New("there is no key for service tokens"), "set service-token-keys in [msl]")
	}
	for _, text := range texts {
		name, data, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usageError("a --service-token has no =")
		}
		t := msl.NewServiceToken{Encrypt: true, Data: []byte(data)}
		name, t.BoundToUser = strings.CutSuffix(name, "@user")
		t.Name, t.BoundToEntity = strings.CutSuffix(name, "@entity")
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// checkCompression refuses what --compression does not know.
func checkCompression(name string) error {
	switch name {
	case "", "NONE", msl.GZIP, msl.LZW:
		return nil
	}
	return usageError("--compression %q is not GZIP, LZW or NONE", name)
}

// answering is a handler whose answers are compressed, and set service tokens, as flags say.
type answering struct {
	msl.Handler
	compression string
	tokens      []msl.NewServiceToken
}

func (a *answering) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	w.Compression, w.ServiceTokens = a.compression, a.tokens
	return a.Handler.ServeMSL(ctx, w, m)
}
