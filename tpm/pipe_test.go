// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

// The test binary is also the provider.
func TestMain(m *testing.M) {
	if !plugin.IsChild() {
		os.Exit(m.Run())
	}
	if err := providerMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func providerMain() error {
	plugin.Harden(false)
	var c Config
	if err := providers.ReadSettings(&c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := Open(ctx, c)
	if err != nil {
		return err
	}
	return providers.Serve(p)
}

// connect starts the provider in a process of its own.
func connect(t *testing.T, c Config) *providers.Connection {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum, Settings: settings, Env: []string{"GOCOVERDIR"}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestConformanceThroughThePipe runs the suite with the provider in a process of its own.
func TestConformanceThroughThePipe(t *testing.T) {
	config := newTPM(t).config(t)
	conn := connect(t, config)
	providertest.Run(t, func(t *testing.T) providers.Provider { return conn.Provider() }, options())
}
