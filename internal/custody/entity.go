// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// maxName bounds identities and names that become part of a key's name, in bytes.
const maxName = 512

// An entity is the crypto context of an entity (§5).
type entity struct {
	protector
	identity string
	// authenticates means that only the entity and this agent have the keys: what opens under them came
	// from the entity.
	authenticates bool
	opened        atomic.Bool // something has
	done          func()      // with the keys; nil: they are in a provider
}

// wipe gives up the keys.
func (e *entity) wipe() {
	if e.done != nil {
		e.done()
	}
}

func (e *entity) open(ctx context.Context, part wire.Part) ([]byte, error) {
	plain, err := e.protector.open(ctx, part)
	if err == nil {
		e.opened.Store(true)
	}
	return plain, err
}

// entitySchemes are the entity authentication schemes whose keys are in the agent (§5.1).
var entitySchemes = map[string]func(context.Context, *Agent, *wire.EntityContextRequest) (*entity, error){
	"PSK":         pskEntity,
	"PSK_PROFILE": pskEntity, // whose keys are found by the identity that the profile makes
	"X509":        rsaEntity,
	"RSA":         rsaEntity,
	"ECC":         eccEntity,
}

// pskEntity is §5.2.
func pskEntity(ctx context.Context, a *Agent, r *wire.EntityContextRequest) (*entity, error) {
	set, done, err := a.pskOf(ctx, r.Identity, r.Record)
	if err != nil {
		return nil, err
	}
	identity := strings.Clone(r.Identity)
	return &entity{protector: set, identity: identity, authenticates: true, done: done}, nil
}

// preSharedKeys returns the pre-shared keys of an entity. An unknown one is NoSuchKey.
func (a *Agent) preSharedKeys(ctx context.Context, identity string) (*keySet, error) {
	name, err := KeyName(a.cfg.PSKPrefix, identity)
	if err != nil {
		return nil, err
	}
	set, err := a.openKeySet(ctx, name)
	if errors.Is(err, providers.NoSuchKey) {
		return nil, &fault{code: wire.NoSuchKey, number: mslEntityNotFound, what: "finding pre-shared keys", err: err}
	}
	if err != nil {
		return nil, err
	}
	label := keyLabel(identity)
	for _, s := range set.versions {
		s.label = label
	}
	return set, nil
}

// rsaEntity is the local entity of §5.3 and of §5.4 with RSA. A remote one's public key needs no custody.
func rsaEntity(ctx context.Context, a *Agent, r *wire.EntityContextRequest) (*entity, error) {
	name, err := KeyName(a.cfg.RSAPrefix, r.KeyID)
	if err != nil {
		return nil, err
	}
	key, err := a.openKey(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	s, err := newRSASigner(ctx, key)
	if err != nil {
		return nil, err
	}
	return &entity{protector: s, identity: strings.Clone(r.Identity)}, nil
}

// KeyName returns the name of the key, or key set, that belongs to an identity, a key id or a service
// token key: the prefix, and id escaped as a segment of a URL path. Two ids never have the same name,
// and no id leads out of the prefix.
func KeyName(prefix, id string) (string, error) {
	if id == "" || len(id) > maxName || !utf8.ValidString(id) {
		return "", &fault{code: wire.NoSuchKey, number: mslEntityNotFound, what: "making a key's name"}
	}
	return prefix + url.PathEscape(id), nil
}

// serviceKeys returns the name of service token keys.
func (a *Agent) serviceKeys(keys string) (string, error) {
	if keys == "" {
		keys = "default"
	}
	return KeyName(a.cfg.ServicePrefix, keys)
}
