// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers/software"
)

// An opened agent is ready to serve.
type opened struct {
	*custody.Agent
	keys    *software.Provider
	running connected
	log     *secret.Log
}

// open unlocks the keys and makes the agent. stdin is what keys are imported from, or nil.
func open(ctx context.Context, cfg *config, findings []plugin.Finding, stdin io.Reader) (_ *opened, err error) {
	o := new(opened)
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	if o.log, err = openKeyLog(cfg); err != nil {
		return nil, err
	}
	if o.keys, err = software.Open(cfg.Keys, cfg.unlock(), software.Options{KeyLog: o.log}); err != nil {
		return nil, &exitError{exitKeys, err, keyFileAdvice(err, cfg).hint}
	}
	if o.running, err = connect(ctx, cfg); err != nil {
		return nil, err
	}
	groups, err := cfg.dhGroups()
	if err != nil {
		return nil, &exitError{exitConfig, err, ""}
	}
	engine := cfg.custody(o.running.with(o.keys), groups)
	engine.KeyLog, engine.Manage, engine.Findings, engine.Stdin = o.log, cfg.manage, wireFindings(findings), stdin
	if o.Agent, err = custody.New(ctx, engine); err != nil {
		return nil, &exitError{exitConfig, err, roleAdvice(err, cfg).hint}
	}
	return o, nil
}

func (o *opened) close() {
	o.running.close()
	if o.keys != nil {
		o.keys.Close()
	}
	o.log.Close()
}

// openKeyLog opens the key log, if there is to be one, and says so loudly.
func openKeyLog(cfg *config) (*secret.Log, error) {
	if cfg.KeyLog == "" {
		return nil, nil
	}
	l, err := secret.OpenLog(cfg.KeyLog)
	if err != nil {
		return nil, &exitError{exitConfig, err, "key-log is for debugging only; remove it from " + cfg.path}
	}
	bar := strings.Repeat("*", 72)
	fmt.Fprintf(os.Stderr, "%s\nWARNING: key-log is on. EVERY KEY IS WRITTEN IN THE CLEAR to\n%s\nand this process's memory can be read. Never use this outside tests.\n%s\n",
		bar, cfg.KeyLog, bar)
	return l, nil
}

func wireFindings(findings []plugin.Finding) []wire.Finding {
	out := make([]wire.Finding, len(findings))
	for i, f := range findings {
		out[i] = wire.Finding{Name: f.Name, OK: f.OK, Detail: f.Detail}
	}
	return out
}

// runChild serves the parent that started this process, until it is gone.
func runChild(ctx context.Context, cfg *config, findings []plugin.Finding) error {
	signal.Ignore(os.Interrupt) // from the terminal that we may share with the parent, who decides
	o, err := open(ctx, cfg, findings, os.Stdin)
	if err != nil {
		return err
	}
	defer o.close()
	child, err := plugin.ServeChild(wire.Version)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(child.Log, nil))
	logFindings(log, findings)
	ctx, stop := child.Context(ctx)
	defer stop()
	peer := o.NewPeer()
	defer peer.Close()
	return wire.Serve(ctx, child.Conn, peer, wire.Options{Logger: log})
}

// logFindings logs what hardening could not do.
func logFindings(log *slog.Logger, findings []plugin.Finding) {
	for _, f := range findings {
		if !f.OK {
			log.Warn("not hardened", "what", f.Name, "why", f.Detail)
		}
	}
}
