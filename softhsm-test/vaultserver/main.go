// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command vaultserver is a Vault server for tests: the core of HashiCorp Vault with the secret engines and
// the ways to log in that the tests use. It is a module of its own, so that nothing of Vault is ever part of
// mslkeep.
//
// It prints one line of JSON when it answers: its address, and, if its storage was new, the root token and
// the unseal key. With storage that is not new, it is sealed. It ends when its standard input does.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "address")
	flag.StringVar(&o.storage, "storage", "", "folder; empty: in memory")
	flag.StringVar(&o.cert, "tls-cert", "", "certificate in PEM; empty: plain HTTP")
	flag.StringVar(&o.key, "tls-key", "", "its private key in PEM")
	flag.StringVar(&o.level, "log", "off", "level of the log on standard error")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

type options struct{ listen, storage, cert, key, level string }

// started is what is printed.
type started struct {
	Address string   `json:"address"`
	Token   string   `json:"token,omitempty"`
	Keys    []string `json:"keys,omitempty"`
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.LevelFromString(o.level)})
	storage, err := open(o.storage, log)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, Logger: log, DisableMlock: true, BuiltinRegistry: registry{}, ClusterName: "test",
		DefaultLeaseTTL: 768 * time.Hour, MaxLeaseTTL: 768 * time.Hour,
	})
	if err != nil {
		return err
	}
	var out started
	if out.Token, out.Keys, err = initialise(ctx, core); err != nil {
		return err
	}
	listener, scheme, err := listen(o)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core: core, ListenerConfig: &configutil.Listener{Address: o.listen}})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test that started this is gone
		stop()
	}()
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	out.Address = scheme + "://" + listener.Addr().String()
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return core.Shutdown()
}

func open(folder string, log hclog.Logger) (physical.Backend, error) {
	if folder == "" {
		return inmem.NewInmem(nil, log)
	}
	return file.NewFileBackend(map[string]string{"path": folder}, log)
}

func listen(o options) (net.Listener, string, error) {
	l, err := net.Listen("tcp", o.listen)
	if err != nil || o.cert == "" {
		return l, "http", err
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, "", err
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS12}), "https", nil
}

// initialise makes the root token and the one unseal key of a new storage, and unseals it.
func initialise(ctx context.Context, core *vault.Core) (token string, keys []string, err error) {
	if old, err := core.Initialized(ctx); old || err != nil {
		return "", nil, err
	}
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	result, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: one})
	if err != nil {
		return "", nil, err
	}
	for _, share := range result.SecretShares {
		keys = append(keys, hex.EncodeToString(share))
		if _, err := core.Unseal(share); err != nil {
			return "", nil, err
		}
	}
	return result.RootToken, keys, nil
}

// A registry is what this server has built in.
type registry struct{}

var (
	secrets = map[string]logical.Factory{"transit": transit.Factory}
	logins  = map[string]logical.Factory{"approle": approle.Factory, "cert": cert.Factory, "jwt": jwtauth.Factory,
		"kubernetes": kubeauth.Factory}
)

func ofType(t consts.PluginType) map[string]logical.Factory {
	switch t {
	case consts.PluginTypeSecrets:
		return secrets
	case consts.PluginTypeCredential:
		return logins
	}
	return nil
}

func (registry) Contains(name string, t consts.PluginType) bool { return ofType(t)[name] != nil }

func (registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	f := ofType(t)[name]
	return func() (any, error) { return f, nil }, f != nil
}

func (registry) Keys(t consts.PluginType) (names []string) {
	for name := range ofType(t) {
		names = append(names, name)
	}
	return names
}

func (registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, ofType(t)[name] != nil
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
