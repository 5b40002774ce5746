// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// Health asks whether Vault is sealed, uses the newest version of every key once, and says what is wrong with the
// first that fails.
func (p *Provider) Health(ctx context.Context) error {
	const op = "asking for Vault's health"
	state, err := p.state(ctx)
	if err != nil {
		return coded(op, err)
	}
	if !state.Initialized || state.Sealed {
		return failure(providers.Transient, op, errors.New("it is sealed"))
	}
	infos, err := p.Keys(ctx)
	if err != nil {
		return p.explained(err)
	}
	if err := p.wrapped.trouble(); err != nil {
		return err
	}
	newest := make(map[string]uint32)
	for _, i := range infos {
		newest[i.Name] = max(newest[i.Name], i.Version)
	}
	for name, version := range newest {
		k, err := p.Open(ctx, name, version)
		if err == nil {
			err = try(ctx, k)
		}
		if err != nil && !errors.Is(err, providers.NoSuchKey) { // which was destroyed since it was listed
			return p.explained(failure(providers.CodeOf(err), fmt.Sprintf("trying version %d of %q", version, name), err))
		}
	}
	return nil
}

// explained adds to an error for how long the token is good.
func (p *Provider) explained(err error) error {
	return failure(providers.CodeOf(err), "Vault, with "+p.session.String(), err)
}

// try uses a key once.
func try(ctx context.Context, k providers.Key) (err error) {
	switch k := k.(type) {
	case *aeadKey:
		_, err = k.Encrypt(ctx, providers.AEAD, nil, []byte("health"), nil)
	case *macKey:
		_, err = k.MAC(ctx, []byte("health"))
	case *signer:
		_, err = k.Sign(ctx, k.mechanism, []byte("health"))
	case *heldCipher:
		_, err = k.Encrypt(ctx, providers.AESCBC, make([]byte, 16), []byte("health"), nil)
	case *heldMAC:
		_, err = k.MAC(ctx, []byte("health"))
	}
	return err
}

// A state is what Vault tells everybody of itself.
type state struct {
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
}

func (p *Provider) state(ctx context.Context) (s state, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	err = p.client.bare(ctx, request{method: "GET", path: "sys/seal-status", again: true}, &s)
	return s, err
}

// String tells for how long the token is good.
func (s *session) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.grant.token == "" && s.err != nil:
		return "no token: " + s.err.Error()
	case s.grant.token == "":
		return "no token"
	case s.grant.ttl == 0:
		return "a token that does not end"
	}
	text := fmt.Sprintf("a token for %v", time.Until(s.ends()).Round(time.Second))
	if s.err != nil {
		text += ", which could not be renewed: " + s.err.Error()
	}
	return text
}

// Describe tells Vault's version, the seal, the token's life and the versions of the keys.
func (p *Provider) Describe(ctx context.Context) (providers.Description, error) {
	d := providers.Description{Name: "vault " + p.config.Address, Version: "unknown", MaxData: maxData}
	state, err := p.state(ctx)
	if err != nil {
		d.Name += " (" + err.Error() + ")"
	} else {
		d.Version = state.Version
		seal := "unsealed"
		if state.Sealed {
			seal = "sealed"
		}
		d.Name += fmt.Sprintf(" (%s, %s%s)", seal, p.session, p.versions(ctx))
	}
	for t := range transitTypes {
		switch {
		case p.config.Create && !(p.config.Wrapped != nil && p.config.Wrapped.all()), p.config.Wrapped != nil && sizes[t] > 0:
			d.Generates = append(d.Generates, t)
		}
	}
	if p.config.Wrapped != nil {
		d.Imports = []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256}
	}
	slices.Sort(d.Generates)
	if wide, err := p.Wide(ctx); err == nil { // it may not be allowed to ask
		for _, w := range wide {
			d.Warnings = append(d.Warnings, "the policy is too wide: "+w)
		}
	}
	return d, nil
}

// versions tells those of the keys of the configuration.
func (p *Provider) versions(ctx context.Context) string {
	var texts []string
	for name := range p.config.Keys {
		i, err := p.info(ctx, name, 0)
		if err != nil {
			texts = append(texts, fmt.Sprintf("; %s: %v", name, providers.CodeOf(err)))
		} else {
			texts = append(texts, fmt.Sprintf("; %s: versions %d to %d, made with from %d on", name, i.oldest, i.newest, i.writes))
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, "")
}
