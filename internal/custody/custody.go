// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package custody is the key agent's engine. It holds session keys, opens and issues tokens, runs key
// exchanges, and answers the operations of contract A (package wire). The roots of trust stay in a
// provider. It parses the parts of messages that hold or protect keys, and no whole message.
//
// An [Agent] is the engine of one process. A [Peer] is one connection to it: handles belong to it, and
// closing it wipes what they name.
//
// # Failures
//
// All errors that leave the package are of type [*wire.Error]. Whatever is wrong with a token, an
// envelope, a signature or a wrapped key from outside, the error is the same, byte for byte. Inside,
// the number of the MSL error that the specification names is kept, and the tests compare it with the
// reference's.
//
// # Wiping
//
// Keys are held as [secret.Bytes] and wiped when a session is evicted, but never during an operation.
// What crypto/aes, crypto/hmac and crypto/rsa derive from a key cannot be wiped: it is dropped at the
// same time, and is gone when the collector reuses its memory.
package custody

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A Config says what an agent does. The zero value of every field but Provider means its default, or off.
type Config struct {
	Provider providers.Provider

	// TokenKeys is the key set of master tokens and user ID tokens: NAME.enc, NAME.mac and NAME.wrap.
	// Without it, the agent issues nothing and no token verifies, as on a device.
	TokenKeys string
	// StorageKey is the AES-256 key under which sessions are sealed. Without it, none can be.
	StorageKey string
	// ExchangeKey is an RSA key of the provider with which this side begins ASYMMETRIC_WRAPPED key exchanges, always with
	// the same. Without it, the agent makes key pairs for that and drops them soon, so that what was exchanged stays
	// secret even if a device's keys are lost later. It decrypts by RSA-OAEP, and should be used for nothing else.
	ExchangeKey string

	// Prefixes of key names. An entity's pre-shared keys are the key set PSKPrefix + escaped identity;
	// a key pair is RSAPrefix or ECPrefix + escaped key id; service token keys are the key set
	// ServicePrefix + escaped name, of which "default" stands for the empty name. See [KeyName].
	PSKPrefix, RSAPrefix, ECPrefix, ServicePrefix string // default "psk/", "rsa/", "ec/", "service/"

	// RecordKey is the key under which the pre-shared keys of entities are sealed as records, which the protocol process
	// keeps and shows (AES-256 with GCM, or AEAD). Without it there are none.
	RecordKey string

	Limits Limits

	// Groups are the groups of DIFFIE_HELLMAN, by parameters id. Without any, that key exchange is off.
	Groups map[string]Group

	// Allow names the key exchange mechanisms that are off unless they are named: "RSA", "JWK_RSAES", and
	// "DIFFIE_HELLMAN/" + the id of a group below 2048 bits.
	Allow []string

	// Manage lets connected processes generate, import and rotate keys. Without it they can only use them.
	Manage bool

	KeyLog   *secret.Log      // nil: no log
	Findings []wire.Finding   // of the process, for Health
	Now      func() time.Time // default time.Now
	Stdin    io.Reader        // what ImportKey reads for "-"; nil: none
}

// Limits bound what a connection's handles may hold. What passes a limit is evicted and wiped, and its
// handle becomes stale.
type Limits struct {
	Age, Idle time.Duration // of a handle; default 24 h, 1 h
	Uses      uint64        // parts protected by a session; default 2^32
	Bytes     uint64        // plaintext protected by a session; default 2^38 (256 GiB)
	Sessions  int           // at once, the least recently used goes first; default 65536
	Entities  int           // default 4096
	Pending   int           // key exchanges that wait for their response; default 4096
	Records   int           // opened records of entities, of all connections; default 16384

	// An RSA key pair that the agent makes for a key exchange serves others for PairAge (default 10
	// minutes) and at most PairUses times (default 100), since making one is slow.
	PairAge  time.Duration
	PairUses int
}

func (l Limits) withDefaults() Limits {
	set(&l.Age, 24*time.Hour)
	set(&l.Idle, time.Hour)
	set(&l.Uses, 1<<32)
	set(&l.Bytes, 1<<38)
	set(&l.Sessions, 1<<16)
	set(&l.Entities, 1<<12)
	set(&l.Pending, 1<<12)
	set(&l.Records, 1<<14)
	set(&l.PairAge, 10*time.Minute)
	set(&l.PairUses, 100)
	return l
}

// ofOthers are the limits of keys that are not session keys: Uses and Bytes are for those.
func (l Limits) ofOthers() Limits {
	l.Uses, l.Bytes = math.MaxUint64, math.MaxUint64
	return l
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// An Agent holds what all connections share. It is safe for concurrent use.
type Agent struct {
	provider providers.Provider
	cfg      Config
	limits   Limits
	now      func() time.Time
	ring     keyRing
	pairs    keyPairs
	groups   map[string]*group
	uses     sync.Map // keyID → *atomic.Uint64
	lately   openings
	records  *table[*recordKeys]
	batches  batchSize // of operations with the key of records

	sessions, entities, pendings, opened atomic.Int64 // open now, of all peers
}

// New checks that the keys of all configured roles are there and can do what they must.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	if cfg.Provider == nil {
		return nil, errors.New("custody: no provider")
	}
	set(&cfg.PSKPrefix, "psk/")
	set(&cfg.RSAPrefix, "rsa/")
	set(&cfg.ECPrefix, "ec/")
	set(&cfg.ServicePrefix, "service/")
	groups, err := newGroups(cfg.Groups, cfg.Allow)
	if err != nil {
		return nil, fmt.Errorf("custody: %w", err)
	}
	for _, name := range cfg.Allow {
		if !slices.Contains(legacyMechanisms, name) && !smallGroup(groups, name) {
			return nil, fmt.Errorf("custody: allowing %q: no such mechanism, or not one that is off", name)
		}
	}
	for _, role := range []string{cfg.TokenKeys, cfg.StorageKey, cfg.ExchangeKey, cfg.RecordKey} {
		for _, prefix := range []string{cfg.PSKPrefix, cfg.RSAPrefix, cfg.ECPrefix, cfg.ServicePrefix} {
			// Those keys protect what the protocol process chooses: they must not also protect tokens.
			if strings.HasPrefix(role, prefix) {
				return nil, fmt.Errorf("custody: key %q serves two roles: its name begins with the prefix %q", role, prefix)
			}
		}
	}
	if l := cfg.Limits; min(l.Age, l.Idle, l.PairAge) < 0 || min(l.Sessions, l.Entities, l.Pending, l.Records, l.PairUses) < 0 {
		return nil, errors.New("custody: a limit is negative")
	}
	a := &Agent{provider: cfg.Provider, cfg: cfg, limits: cfg.Limits.withDefaults(), now: cfg.Now, groups: groups, batches: batchSize{n: firstBatch}}
	if a.now == nil {
		a.now = time.Now
	}
	a.pairs.init(a.limits, a.now)
	a.records = newTable[*recordKeys](a.limits.ofOthers(), a.limits.Records, a.now, &a.opened)
	if cfg.TokenKeys != "" {
		if _, err := a.roleKeys(ctx, cfg.TokenKeys); err != nil {
			return nil, fmt.Errorf("custody: token keys %q: %w", cfg.TokenKeys, err)
		}
	}
	if cfg.StorageKey != "" {
		if _, err := a.storageKey(ctx, 0); err != nil {
			return nil, fmt.Errorf("custody: storage key %q: %w", cfg.StorageKey, err)
		}
	}
	if cfg.ExchangeKey != "" {
		if _, err := a.exchangeKey(ctx); err != nil {
			return nil, fmt.Errorf("custody: exchange key %q: %w", cfg.ExchangeKey, err)
		}
	}
	if cfg.RecordKey != "" {
		if _, _, err := a.wrappingKey(ctx, 0); err != nil {
			return nil, fmt.Errorf("custody: record key %q: %w", cfg.RecordKey, err)
		}
	}
	return a, nil
}

// A keyID names one version of a key of the provider.
type keyID struct {
	name    string
	version uint32
}

// A usedKey is a provider's key whose uses are counted.
type usedKey struct {
	providers.Key
	uses *atomic.Uint64
}

func (k usedKey) used() { k.uses.Add(1) }

// openKey opens one version of a key; 0 is the newest.
func (a *Agent) openKey(ctx context.Context, name string, version uint32) (usedKey, error) {
	key, err := a.provider.Open(ctx, name, version)
	if err != nil {
		return usedKey{}, err
	}
	return usedKey{key, a.usesOf(name, key.Info().Version)}, nil
}

func (a *Agent) usesOf(name string, version uint32) *atomic.Uint64 {
	id := keyID{name, version}
	if n, ok := a.uses.Load(id); ok {
		return n.(*atomic.Uint64)
	}
	n, _ := a.uses.LoadOrStore(id, new(atomic.Uint64))
	return n.(*atomic.Uint64)
}

// tokenKeys returns the keys that make this agent an issuer.
func (a *Agent) tokenKeys(ctx context.Context) (*keySet, error) {
	if a.cfg.TokenKeys == "" {
		return nil, unsupported(noNumber, "using token keys, of which none are configured")
	}
	return a.roleKeys(ctx, a.cfg.TokenKeys)
}
