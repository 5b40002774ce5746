// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// The methods in this file say what zero fields of a Config mean.

func (c *Config) now() time.Time { return c.clock()() }

func (c *Config) limits() Limits {
	l := c.Limits
	for _, d := range []struct {
		v       *int
		initial int
	}{{&l.Header, 1 << 20}, {&l.Payload, 4 << 20}, {&l.Inflate, 16 << 20}, {&l.Tokens, 64}, {&l.Requests, 16}} {
		if *d.v <= 0 {
			*d.v = d.initial
		}
	}
	return l
}

// decoderLimits bounds the objects of a message's stream: a header or a chunk.
func (c *Config) decoderLimits() mslenc.Limits {
	l := c.limits()
	return mslenc.Limits{Size: max(l.Header, l.Payload)}
}

var defaultCapabilities = Capabilities{Compression: []string{GZIP, LZW}, Formats: []string{"JSON"}}

func (c *Config) capabilities() *Capabilities {
	if c.Capabilities != nil {
		return c.Capabilities
	}
	return &defaultCapabilities
}

// keyExchanges returns the exchanges of this side, the preferred one first.
func (c *Config) keyExchanges() []KeyExchange {
	if c.KeyExchanges != nil {
		return c.KeyExchanges
	}
	return defaultKeyExchanges(c.Entity.preShared())
}

// serverKeyExchanges returns those that a server answers: with pre-shared keys whatever it uses itself.
func (c *Config) serverKeyExchanges() []KeyExchange {
	if c.KeyExchanges != nil {
		return c.KeyExchanges
	}
	return acceptedKeyExchanges()
}

func (c *Config) acceptsExchange(scheme string) bool {
	return slices.ContainsFunc(c.serverKeyExchanges(), func(k KeyExchange) bool { return k.Scheme == scheme })
}

// serviceKeys returns the name of the keys that protect a service token (§3.4).
func (c *Config) serviceKeys(name string) (keys string, ok bool) {
	if keys, ok = c.ServiceTokenKeys[name]; !ok {
		keys, ok = c.ServiceTokenKeys[""]
	}
	return keys, ok
}

// tokenTimes returns the renewal window and expiration of a token issued now, in Unix seconds.
func tokenTimes(now time.Time, renewal, lifetime time.Duration) (renewalWindow, expiration int64) {
	t := now.Unix()
	expiration = t + int64(lifetime/time.Second)
	return min(t+int64(renewal/time.Second), expiration), expiration
}

// randomID returns a random identifier, 0 to 2^53-1 (§1.4).
func randomID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) & (mslenc.MaxLong - 1))
}
