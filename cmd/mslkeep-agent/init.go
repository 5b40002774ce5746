// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers/software"
)

// initKeys makes what the configuration names and is not there. It can be run again.
func initKeys(ctx context.Context, cfg *config, out io.Writer) error {
	log, err := openKeyLog(cfg)
	if err != nil {
		return err
	}
	defer log.Close()
	keys, err := openOrCreate(cfg, software.Options{KeyLog: log}, out)
	if err != nil {
		return &exitError{exitKeys, err, keyFileAdvice(err, cfg).hint}
	}
	defer keys.Close()
	running, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer running.close()
	// An agent without roles, so that it does not ask for keys that are yet to be made.
	agent, err := custody.New(ctx, custody.Config{Provider: running.with(keys), KeyLog: log, Manage: true})
	if err != nil {
		return err
	}
	peer := agent.NewPeer()
	defer peer.Close()
	service, err := custody.KeyName(cfg.ServicePrefix, "default")
	if err != nil {
		return err
	}
	for _, k := range []struct{ name, keyType string }{
		{cfg.TokenKeys, "keyset"}, {cfg.StorageKey, "aes-256"}, {cfg.ExchangeKey, "rsa-2048"}, {cfg.RecordKey, "aes-256"}, {service, "keyset"},
	} {
		if k.name == "" {
			continue
		}
		if err := ensureKey(ctx, peer, k.name, k.keyType, out); err != nil {
			return fmt.Errorf("making %s: %w", k.name, err)
		}
	}
	return nil
}

// openOrCreate opens the file of keys, or makes it, and a key to unlock it if that is to be in a file.
func openOrCreate(cfg *config, o software.Options, out io.Writer) (*software.Provider, error) {
	keys, err := software.Open(cfg.Keys, cfg.unlock(), o)
	if !errors.Is(err, os.ErrNotExist) || !missing(cfg.Keys) {
		return keys, err
	}
	if path, ok := strings.CutPrefix(cfg.KeySource, "file:"); ok && missing(path) {
		if err := software.NewUnlockKey(path); err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "made %s, which unlocks the keys: back it up, apart from them\n", path)
	}
	if keys, err = software.Create(cfg.Keys, cfg.unlock(), o); err == nil {
		fmt.Fprintf(out, "made %s\n", cfg.Keys)
	}
	return keys, err
}

// rekey seals the file of keys anew, for another secret, which it makes if that is to be in a file that is not there.
func rekey(ctx context.Context, cfg *config, to software.Unlock, out io.Writer) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	to.KeySource, to.PassphraseSource = sourceBeside(dir, to.KeySource), sourceBeside(dir, to.PassphraseSource)
	keys, err := software.Open(cfg.Keys, cfg.unlock(), software.Options{})
	if err != nil {
		return &exitError{exitKeys, err, keyFileAdvice(err, cfg).hint}
	}
	defer keys.Close()
	if path, ok := strings.CutPrefix(to.KeySource, "file:"); ok && missing(path) {
		if err := software.NewUnlockKey(path); err != nil {
			return err
		}
		fmt.Fprintf(out, "made %s\n", path)
	}
	if err := keys.Rekey(ctx, to); err != nil {
		return &exitError{exitKeys, err, "the file is as it was"}
	}
	setting := "key-source = " + strconv.Quote(to.KeySource)
	if to.KeySource == "" {
		setting = "passphrase-source = " + strconv.Quote(to.PassphraseSource)
	}
	fmt.Fprintf(out, "sealed %s anew. Now have %s say %s, restart the agents that use it, and make new backups: older ones open with the old secret\n",
		cfg.Keys, cfg.path, setting)
	return nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// ensureKey generates a key, or a key set, unless it is there.
func ensureKey(ctx context.Context, peer *custody.Peer, name, keyType string, out io.Writer) error {
	reply, err := peer.Handle(ctx, &wire.KeysRequest{Prefix: name})
	if err != nil {
		return err
	}
	if failed := reply.(*wire.KeysReply).Failed; len(failed) > 0 { // the key may be there
		return fmt.Errorf("listing the keys of %s: %s", failed[0].Name, failed[0].Detail)
	}
	for _, k := range reply.(*wire.KeysReply).Keys {
		if k.Name == name || strings.HasPrefix(k.Name, name+".") {
			fmt.Fprintf(out, "%s is there\n", name)
			return nil
		}
	}
	reply, err = peer.Handle(ctx, &wire.GenerateKeyRequest{Name: name, Type: keyType})
	if err != nil {
		return err
	}
	for _, k := range reply.(*wire.ChangedKeysReply).Keys {
		fmt.Fprintf(out, "made %s version %d, %s\n", k.Name, k.Version, k.Type)
	}
	return nil
}
