// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 is a provider on any PKCS #11 module (version 2.40): a hardware security module, or
// SoftHSM.
//
// # Keys
//
// A name is the label of a key (CKA_LABEL), and a version its identifier (CKA_ID): one to four bytes that
// are the version, big-endian, or what this package makes, the first 8 bytes of the label's SHA-256 with the
// version in 4 bytes, which no other key of the token has. So
//
//	pkcs11-tool --keygen --key-type AES:16 --label token.enc --id 02 --sensitive
//
// makes version 2 of token.enc, and label and identifier together name one key. Objects of that label with
// another form of identifier are passed over. A key that was made elsewhere with another label and identifier
// gets a name by [Config].Keys, and every key can also be opened by its PKCS #11 URI as its name.
//
// Keys that this package makes are private, sensitive, not extractable and not modifiable, and may be used
// with the mechanisms of their purpose only. AES keys either encrypt or wrap (see [Config].Wrapping): with a
// key that does both, whoever can ask the token to wrap and to decrypt gets other keys out of it. Keys
// that can be extracted are refused, and so is wrapping with a key that also encrypts.
//
// # Failures
//
// All sessions, log-ins and handles are renewed inside: a session or handle that is of no use is replaced and
// the operation done again, once; when the token has gone, operations fail with Transient until it is back. A
// token with another serial number than the first gets neither the PIN nor work. A PIN that was refused is not
// tried a second time in the life of a Provider, and none is tried at all while the token says that the PIN was
// wrong lately; of several processes with the same PIN file one at a time logs in, so that this holds for
// them together. A call into the module cannot be interrupted: an operation whose context ends returns, but the
// session is busy until the module answers.
//
// # What it does not protect
//
// The module is the vendor's code, in this address space: it can do whatever this process can, and its faults
// crash it. The hash says that it is the library that was chosen, not that it is a good one, and does not cover the
// libraries and files that the module loads in turn. This is why a provider has a process of its own.
//
// The PIN is read for each log-in and wiped here. The binding copies it, and what is encrypted or decrypted, to the C
// heap and frees that without wiping it; what the module does with its own copy is up to the module.
//
// What comes out of the token is in this process's memory: plaintexts, unwrapped keys, agreed secrets. To wrap,
// unwrap and agree, the token makes an object for the length of one operation that is not sensitive and can be
// extracted, because the result is wanted here; other applications of the token may see objects of the
// session if the module lets them.
//
// Whoever has the PIN can use every key, and with [Config].AnyMechanism with every mechanism of its type. Attributes
// such as CKA_EXTRACTABLE are what the module says: that the token keeps to them, this package cannot tell. The
// way between the module and a device on the network is the module's to protect.
package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	defaultSessions = 8
	maxSessions     = 1024
	// closeTime is for how long Close waits for calls under way.
	closeTime = 2 * time.Second
)

// A Config says which token to use, and how.
type Config struct {
	Module string // absolute path of the library
	SHA256 string // of the library, in hexadecimal
	// Token is a PKCS #11 URI (RFC 7512) that names one token by token=, serial=, manufacturer= or model=,
	// with ?pin-source=file:PATH or credential:NAME.
	Token string
	// Sessions is how many operations the token does at a time; default 8, or less if the token says so.
	Sessions int
	// Wrapping tells by their names which AES keys are made to wrap keys, and not to encrypt: each is a
	// name, in which one * stands for anything. Default: *.wrap
	Wrapping []string
	// Keys names keys that have another label: the URIs of the versions of a name, oldest first.
	Keys map[string][]string
	// AllowRSAPKCS1 lets RSA keys decrypt with PKCS #1 v1.5, which is an oracle for whoever sees
	// it fail (RFC 8017 §7.2).
	AllowRSAPKCS1 bool
	// Without lists mechanisms that are not used although the token has them, such as AES-GCM where its
	// implementation crashes.
	Without []providers.Mechanism
	// AnyMechanism makes keys without CKA_ALLOWED_MECHANISMS, which some tokens cannot keep: they may then be
	// used with every mechanism of their type and purpose.
	AnyMechanism bool
	// TryPINAgain tries the PIN although the token says that it was wrong the last time. It is never
	// tried when one more failure would lock it.
	TryPINAgain bool
}

// A Provider uses the keys of one token. It is safe for concurrent use. A process can have one at a
// time for each module.
type Provider struct {
	config Config
	token  uri
	named  map[string][]uri
	module *module

	jobs chan *job
	lane chan struct{} // has one element while batches go one after the other
	pace atomic.Int64  // how long an operation takes, in nanoseconds; 0: not known
	quit chan struct{}
	done sync.WaitGroup // workers

	// life is held for reading by calls into the module, and for writing while the module is started and
	// logged in, which must be alone.
	life   sync.RWMutex
	link   *link // nil: there is none
	next   uint64
	refuse error         // for good
	failed error         // the last attempt to get a link
	delay  time.Duration // between attempts
	again  time.Time     // when the next attempt may be

	creating sync.Mutex // one makes or destroys keys
	index    index
}

// Open loads the module, finds the token and logs in. Errors say which of it has failed.
func Open(ctx context.Context, c Config) (*Provider, error) {
	const op = "reading the configuration of a PKCS #11 token"
	token, err := parseURI(c.Token)
	if err == nil && (token.object != "" || token.id != "" || token.class != "") {
		err = errors.New("the URI of a token has no attributes of a key")
	}
	if err == nil && token.token == "" && token.serial == "" {
		err = errors.New("the URI of a token must have token= or serial=")
	}
	if c.Sessions < 0 || c.Sessions > maxSessions {
		err = fmt.Errorf("sessions must be 1 to %d", maxSessions)
	}
	if err != nil {
		return nil, unset(op, err)
	}
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Wrapping == nil {
		c.Wrapping = []string{"*.wrap"}
	}
	for _, m := range c.Without {
		if mechanismsOf[m] == nil {
			return nil, unset(op, fmt.Errorf("without: there is no mechanism %q", m))
		}
	}
	named, err := parseNames(c.Keys)
	if err != nil {
		return nil, unset(op, err)
	}
	m, err := loadModule(c.Module, c.SHA256)
	if err != nil {
		return nil, err
	}
	p := &Provider{config: c, token: token, named: named, module: m, jobs: make(chan *job), lane: make(chan struct{}, 1), quit: make(chan struct{})}
	if err := p.renew(nil, true); err != nil {
		p.stop()
		return nil, err
	}
	for range min(c.Sessions, p.link.sessions) {
		p.done.Go(p.work)
	}
	if err := ctx.Err(); err != nil {
		p.Close()
		return nil, failure(providers.Transient, "opening a PKCS #11 token", err)
	}
	return p, nil
}

// unset is the error of a configuration that makes no sense.
func unset(op string, err error) error {
	return failure(providers.Malformed, op, providers.Because(providers.CauseSettings, err))
}

func parseNames(keys map[string][]string) (map[string][]uri, error) {
	named := make(map[string][]uri)
	for name, texts := range keys {
		for _, text := range texts {
			u, err := parseURI(text)
			if err != nil {
				return nil, fmt.Errorf("key %q: %w", name, err)
			}
			if u.object == "" && u.id == "" || u.pinSource != "" {
				return nil, fmt.Errorf("key %q: the URI of a key must have object= or id=, and no pin-source", name)
			}
			named[name] = append(named[name], u)
		}
	}
	return named, nil
}

// wraps reports whether an AES key of that name is to wrap.
func (c *Config) wraps(name string) bool {
	for _, pattern := range c.Wrapping {
		before, after, star := strings.Cut(pattern, "*")
		if name == pattern || star && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return true
		}
	}
	return false
}

// Close ends all sessions. Operations fail from then on. It waits two seconds for calls under way; if the
// module does not answer, the process should exit.
func (p *Provider) Close() error {
	close(p.quit)
	idle := make(chan struct{})
	go func() { p.done.Wait(); close(idle) }()
	select {
	case <-idle:
		p.stop()
		return nil
	case <-time.After(closeTime):
		return failure(providers.Device, "closing a PKCS #11 token", errors.New("the module does not answer"))
	}
}

// stop finalizes the module. It stays loaded: unloading crashes some.
func (p *Provider) stop() {
	p.life.Lock()
	defer p.life.Unlock()
	p.link, p.refuse = nil, failure(providers.Transient, opToken, errClosed)
	p.module.call("C_Finalize", (*p11.Ctx).Finalize) // nothing can be done about an error
}

// Calls returns how often each function of the module was called so far, by its name in PKCS #11. A call
// whose result has no fixed size is counted once; the binding asks for the size first.
func (p *Provider) Calls() map[string]uint64 { return p.module.counts() }

// Describe names the token.
func (p *Provider) Describe(ctx context.Context) (providers.Description, error) {
	return do(ctx, p, "describing a token", useOther, nil, func(s *session) (providers.Description, error) {
		return providers.Description{
			Name: "pkcs11 " + s.link.info.ManufacturerID + " " + s.link.info.Model, Version: fmt.Sprintf("%d.%d",
				s.link.info.FirmwareVersion.Major, s.link.info.FirmwareVersion.Minor),
			Generates: s.link.generates(), Imports: s.link.imports(), MaxData: maxData, Warnings: p.config.warnings(&s.link.info),
		}, nil
	})
}

// Random returns n bytes of the token's generator.
func (p *Provider) Random(ctx context.Context, n int) ([]byte, error) {
	const op = "making random bytes"
	if n < 0 || n > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	if n == 0 {
		return nil, nil
	}
	return do(ctx, p, op, useOther, nil, func(s *session) (b []byte, err error) {
		err = s.call("C_GenerateRandom", func(c *p11.Ctx) error { b, err = c.GenerateRandom(s.handle, n); return err })
		return b, err
	})
}
