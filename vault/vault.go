// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package vault is a provider on the transit engine of HashiCorp Vault. OpenBao has the same interface.
//
// # Keys
//
// A key of the name N is transit's key N, where a / of N is written __, and its versions are transit's. AES keys
// (aes128-gcm96 and aes256-gcm96) do [providers.AEAD] and nothing else, hmac keys of 32 bytes HMAC-SHA-256, and
// key pairs (rsa-2048 to rsa-4096, ecdsa-p256) sign. All of it happens in Vault. Keys that can be exported or
// backed up in the clear are refused.
//
// Transit does neither AES-CBC nor AES key wrap. Keys for that are made here, and kept in a folder,
// each version in a file of its own, encrypted by a key of transit and bound to name, version and type
// (see [Wrapped]). They are decrypted by Vault and then held in this process, for a bounded time.
//
// # Requests
//
// Uses of the same key at the same time go to Vault in one request, with an answer for each. A request is
// tried again, with a growing pause and only within its deadline, when Vault or what is in front of it says that
// it is busy (429, 472, 473, 502, 503, 504), unless it is one that makes or changes a key.
//
// The token is renewed for as long as Vault allows, and then replaced by logging in again. A token that Vault
// refuses is replaced at once. What it refuses to take for a login is not tried again at once: a secret id not before its
// file changes or a quarter of an hour has passed, since Vault locks roles.
package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// A Config says which Vault to use, and how. Secrets are not in it, only references: file:PATH of a file that
// only its owner can read, or credential:NAME of what the service manager passes.
type Config struct {
	Address    string `json:"address"`     // such as https://vault.example:8200
	CA         string `json:"ca"`          // file with the certificates in PEM that Vault's must come from; default: the system's
	ServerName string `json:"server-name"` // in Vault's certificate; default: that of Address
	Namespace  string `json:"namespace"`
	Mount      string `json:"mount"` // of transit; default "transit"
	Auth       Auth   `json:"auth"`

	// Keys are the types of the keys to be used, by name, without wrapped ones. Others are not even asked for.
	// If it is empty, all keys of the mount are used, for which the token must be allowed to list them.
	Keys map[string]providers.KeyType `json:"keys"`

	// Create lets keys be made, rotated and destroyed in Vault, if its policy does, too.
	Create bool `json:"create"`

	Wrapped *Wrapped `json:"wrapped"` // nil: none

	// Timeout is for each operation, retries included; default 2 s.
	Timeout Duration `json:"timeout"`
	// Window is for how long uses of a key wait for others to share their request, while another
	// request is under way; default 300 µs, none if negative.
	Window Duration `json:"window"`
}

// Wrapped says where the keys are that Vault cannot use itself, but wraps.
type Wrapped struct {
	Folder string   `json:"folder"` // absolute
	Key    string   `json:"key"`    // of transit, an AES one, which wraps them
	Names  []string `json:"names"`  // of the keys that are kept so; in each, one * stands for anything. Default: all
	// Hold is for how long a key is held after Vault has decrypted it; default 24 h. When half of it is over,
	// and the key is used, it is decrypted again in the background.
	Hold Duration `json:"hold"`
}

// A Duration is one that JSON has as text, such as "2s".
type Duration time.Duration

// UnmarshalText parses text as [time.ParseDuration] does.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

const (
	defaultTimeout = 2 * time.Second
	defaultWindow  = 300 * time.Microsecond
	defaultHold    = 24 * time.Hour
	// maxData bounds the input of one operation, in bytes: Vault takes JSON strings of 1 MiB.
	maxData = 512 << 10
)

// A Provider uses keys in Vault. It is safe for concurrent use.
type Provider struct {
	config  Config
	timeout time.Duration
	client  *client
	session *session
	wrapped *store // nil: none

	stop context.CancelFunc
	run  context.Context // until Close
	done sync.WaitGroup

	mu     sync.Mutex
	infos  map[string]*entry
	queues map[string]*queue
}

// Open logs in and sees that the keys of the configuration are there, wrapped ones included, which it decrypts.
// Errors say what has failed, and are Malformed for a configuration that makes no sense.
func Open(ctx context.Context, c Config) (*Provider, error) {
	const op = "reading the configuration of Vault"
	if err := c.complete(); err != nil {
		return nil, failure(providers.Malformed, op, providers.Because(providers.CauseSettings, err))
	}
	client, err := newClient(&c)
	if err != nil {
		return nil, failure(providers.Malformed, op, providers.Because(providers.CauseSettings, err))
	}
	p := &Provider{config: c, timeout: time.Duration(c.Timeout), client: client, infos: make(map[string]*entry), queues: make(map[string]*queue)}
	p.run, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.session = newSession(client, c.Auth)
	if err := p.session.start(ctx); err != nil {
		p.close()
		return nil, err
	}
	p.done.Go(func() { p.session.keep(p.run) })
	if c.Wrapped != nil {
		p.wrapped, err = openStore(ctx, p, *c.Wrapped)
	}
	if err == nil {
		err = p.look(ctx)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// look sees that all keys of the configuration that must be there are. Those that can be made need not.
func (p *Provider) look(ctx context.Context) error {
	for name := range p.config.Keys {
		if _, err := p.info(ctx, name, 0); err != nil && !(p.config.Create && errors.Is(err, providers.NoSuchKey)) {
			return err
		}
	}
	return nil
}

// Close gives the token back, if this process has got it by logging in, and wipes the keys that are held.
// Operations fail from then on.
func (p *Provider) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.stop()
	p.done.Wait()
	p.session.end(ctx)
	p.close()
	return nil
}

func (p *Provider) close() {
	p.stop()
	if p.wrapped != nil {
		p.wrapped.wipe()
	}
	p.client.transport.CloseIdleConnections()
}

// failure makes the error of an operation.
func failure(c providers.Code, op string, err error) *providers.Error {
	return &providers.Error{Code: c, Op: op, Err: err}
}

// Random returns n random bytes of Vault's.
func (p *Provider) Random(ctx context.Context, n int) ([]byte, error) {
	const op = "making random bytes"
	if n < 1 || n > 128<<10 { // Vault's own limit
		return nil, failure(providers.Malformed, op, errSize)
	}
	var out struct {
		Bytes []byte `json:"random_bytes"`
	}
	if err := p.call(ctx, op, request{method: "POST", path: p.path("random"), body: fmt.Appendf(nil, `{"bytes":%d}`, n), again: true}, &out); err != nil {
		return nil, err
	}
	if len(out.Bytes) != n {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return out.Bytes, nil
}

// path is that of an endpoint of transit.
func (p *Provider) path(elements ...string) string {
	s := p.config.Mount
	for _, e := range elements {
		s += "/" + e
	}
	return s
}
