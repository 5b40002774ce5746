// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package tpm is a provider on a TPM 2.0.
//
// # Keys
//
// Each version of a key is a TSS2 PEM file in a folder (NAME.VERSION.pem), which openssl's TPM tools read, and which is
// of no use without the chip: what is in it is encrypted by the storage root key, at handle 81000001. That key is
// checked by its name against the standard template, and against the name that the folder keeps of it.
//
// A key is made for one purpose and cannot be used for another. Key pairs sign, or decrypt (RSA-OAEP) and agree (ECDH):
// see [Config].Decrypting. AES keys encrypt (CBC), or wrap: see [Config].Wrapping. Where the chip has no AES, and for
// names in [Config].Sealed, the key is sealed data: the chip gives it out for each use, encrypted on the way, and this
// process has it in memory for the microseconds of the operation; such keys also do AES-GCM, which no chip does.
//
// # Commands
//
// One goroutine talks to the chip; operations wait in a queue, and return when their context ends. Commands are sent
// again only when the chip asks for it. One session, whose key only the storage root key could have decrypted,
// authenticates all that is secret or depends on it, and encrypts keys and data, so that nothing of them is seen on the bus.
//
// A wrong authorisation value is never tried a second time: not by this process, nor by a later one with the same file;
// and none is tried while the chip allows one more failure only.
package tpm

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	defaultDevice = "/dev/tpmrm0"
	// maxData is how many bytes an operation of the chip's own takes: a chip does some 20 to 120 KiB a second.
	maxData = 64 << 10
	maxPCR  = 23
	// closeTime is for how long Close waits for the command under way.
	closeTime = 2 * time.Second
)

// A Config says which TPM to use, and how.
type Config struct {
	// Device is /dev/tpmrm0 (default), /dev/tpm0, swtpm:unix:/PATH or swtpm:tcp:HOST:PORT.
	Device string
	// Folder is where the key files are. It is there already, and nobody else can write to it.
	Folder string
	// RootName is the name of the storage root key, in hexadecimal. Without it, the one that is found first is
	// believed if it is made by the standard template, and kept in the folder.
	RootName string
	// PersistRoot keeps the storage root key in the chip if it is not there. Without it, it is made at each start.
	PersistRoot bool
	// AuthSource refers to the authorisation value of keys: file:/PATH or credential:NAME. New keys get it.
	AuthSource string
	// AuthIsRandom says that the value is not guessable, so that new keys need no protection against dictionary attacks,
	// and can be used while the chip is locked because of others.
	AuthIsRandom bool
	// PCRs are those to which new keys are bound: 0 to 23, of the bank of SHA-256.
	PCRs []uint
	// PolicyKey is a PEM file with the public key of who approves of states of the platform; Approvals is the folder with
	// what was approved: see findApproval. Without it, keys are bound to the state in which they are made.
	PolicyKey, Approvals string
	// Decrypting, Wrapping and Sealed tell by their names which new keys decrypt rather than sign, wrap rather than encrypt,
	// and are sealed data although the chip has AES. Each is a name, in which one * stands for anything.
	// Defaults: exchange, *.exchange, *.decrypt and *.agree; *.wrap; storage, *.storage and *.sealed.
	Decrypting, Wrapping, Sealed []string
	// Counters tells beside which keys the chip counts, as those: see [Provider.Count]. Default: storage and *.storage.
	// With CountersRequired, to count beside any other key is refused, so that nothing is stored under it; and a chip that cannot
	// count makes uses of such keys for storing fail, and the provider unhealthy.
	Counters         []string
	CountersRequired bool
}

// A Provider uses the keys of one folder in one TPM. It is safe for concurrent use.
type Provider struct {
	config Config
	store  *store
	queue  queue
	chip   *chip // only the queue's goroutine uses it, but for what it says
	done   chan struct{}
}

// Open connects to the TPM and finds the storage root key. Errors say what of it has failed.
func Open(ctx context.Context, c Config) (*Provider, error) {
	const op = "reading the configuration of a TPM"
	if c.Device == "" {
		c.Device = defaultDevice
	}
	if c.Decrypting == nil {
		c.Decrypting = []string{"exchange", "*.exchange", "*.decrypt", "*.agree"}
	}
	if c.Wrapping == nil {
		c.Wrapping = []string{"*.wrap"}
	}
	if c.Sealed == nil {
		c.Sealed = []string{"storage", "*.storage", "*.sealed"}
	}
	if c.Counters == nil {
		c.Counters = []string{"storage", "*.storage"}
	}
	if err := c.check(); err != nil {
		return nil, failure(providers.Malformed, op, err)
	}
	s, err := openStore(c.Folder)
	if err != nil {
		return nil, failure(providers.Malformed, op, providers.Because(providers.CauseSettings, err))
	}
	p := &Provider{config: c, store: s, queue: queue{more: make(chan struct{}, 1)}, done: make(chan struct{})}
	p.chip = &chip{config: &p.config, store: s, counts: make(map[tpm2.TPMCC]uint64)}
	go func() {
		defer close(p.done)
		p.work()
	}()
	if _, err := do(ctx, p, "opening a TPM", useKeys, func(*chip) (struct{}, error) { return struct{}{}, nil }); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (c *Config) check() error {
	if err := c.checkSettings(); err != nil {
		return providers.Because(providers.CauseSettings, err)
	}
	if c.AuthSource == "" {
		return nil
	}
	auth, _, err := readAuth(c.AuthSource)
	if err != nil {
		return providers.Because(providers.CauseSecretSource, err)
	}
	defer auth.Wipe()
	if c.AuthIsRandom && auth.Len() < minRandomAuth {
		return providers.Because(providers.CauseSecretSource, errAuthShort)
	}
	return nil
}

func (c *Config) checkSettings() error {
	if c.Folder == "" {
		return errors.New("a folder for the keys is missing")
	}
	for _, n := range c.PCRs {
		if n > maxPCR {
			return errors.New("a PCR is a number from 0 to 23")
		}
	}
	if c.PolicyKey == "" {
		return nil
	}
	if len(c.PCRs) == 0 {
		return errors.New("a policy key approves of states of PCRs, of which none is named")
	}
	_, err := readPolicyKey(c.PolicyKey)
	return err
}

// matches reports whether a name is one of the patterns.
func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		before, after, star := strings.Cut(pattern, "*")
		if name == pattern || star && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return true
		}
	}
	return false
}

// Close flushes what is in the chip. Operations fail from then on. It waits two seconds for a command under way; if the
// chip does not answer, the process should exit.
func (p *Provider) Close() error {
	p.queue.close()
	select {
	case <-p.done:
		return nil
	case <-time.After(closeTime):
		return failure(providers.Device, "closing a TPM", errNoAnswer)
	}
}

// Commands returns how often each command was sent so far.
func (p *Provider) Commands() map[tpm2.TPMCC]uint64 {
	p.chip.mu.Lock()
	defer p.chip.mu.Unlock()
	return maps.Clone(p.chip.counts)
}

// RootName returns the name of the storage root key, for [Config].RootName.
func (p *Provider) RootName() []byte {
	p.chip.mu.Lock()
	defer p.chip.mu.Unlock()
	return append([]byte(nil), p.chip.pinned...)
}
