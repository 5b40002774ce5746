// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// The types of an operator's requests that mean the three keys of a crypto context.
const (
	typeKeySet = "keyset"
	typePSK    = "psk"
)

// keySetMembers are the keys of a key set, in the order in which imported bytes hold them.
var keySetMembers = []struct {
	suffix  string
	keyType providers.KeyType
	size    int // bytes
}{
	{encSuffix, providers.AES128, 16},
	{macSuffix, providers.HMACSHA256, 32},
	{wrapSuffix, providers.AES128, 16},
}

func isKeySet(keyType string) bool { return keyType == typeKeySet || keyType == typePSK }

// checkKeyName refuses what no operator means as a name.
func checkKeyName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, bad) {
		return malformed(noNumber, "reading the name of a key")
	}
	return nil
}

func (a *Agent) described(k providers.KeyInfo) wire.Key {
	out := wire.Key{Name: k.Name, Version: k.Version, Type: string(k.Type), Created: k.Created,
		Uses: a.usesOf(k.Name, k.Version).Load()}
	if k.Name == a.cfg.TokenKeys+encSuffix || k.Name == a.cfg.TokenKeys+macSuffix {
		out.Opened = a.lately.of(k.Version, a.now())
	}
	return out
}

func (a *Agent) keys(ctx context.Context, r *wire.KeysRequest) (*wire.KeysReply, error) {
	out := new(wire.KeysReply)
	infos, err := a.provider.Keys(ctx)
	if some, ok := errors.AsType[*providers.KeysError](err); ok {
		out.Failed = failedLists(some, r.Prefix)
	} else if err != nil {
		return nil, err
	}
	for _, k := range infos {
		if strings.HasPrefix(k.Name, r.Prefix) {
			out.Keys = append(out.Keys, a.described(k))
		}
	}
	slices.SortFunc(out.Keys, func(x, y wire.Key) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Version, y.Version))
	})
	return out, nil
}

// failedLists tells which providers have failed whose keys may have the prefix.
func failedLists(e *providers.KeysError, prefix string) (failed []wire.Finding) {
	for who, err := range e.Failed {
		if who == "" {
			failed = append(failed, wire.Finding{Name: "key file", Detail: codeOf(err).Error()})
		} else if strings.HasPrefix(prefix, who+":") || strings.HasPrefix(who+":", prefix) {
			failed = append(failed, wire.Finding{Name: who, Detail: codeOf(err).Error()})
		}
	}
	slices.SortFunc(failed, func(x, y wire.Finding) int { return cmp.Compare(x.Name, y.Name) })
	return failed
}

func (a *Agent) generateKey(ctx context.Context, r *wire.GenerateKeyRequest) (*wire.ChangedKeysReply, error) {
	if err := checkKeyName(r.Name); err != nil {
		return nil, err
	}
	g, ok := a.provider.(providers.Generator)
	if !ok {
		return nil, unsupported(noNumber, "generating in this provider")
	}
	defer a.ring.forget()
	out := new(wire.ChangedKeysReply)
	if !isKeySet(r.Type) {
		return out, a.changed(out)(g.Generate(ctx, strings.Clone(r.Name), providers.KeyType(r.Type)))
	}
	for _, m := range keySetMembers {
		if err := a.changed(out)(g.Generate(ctx, r.Name+m.suffix, m.keyType)); err != nil {
			a.undo(ctx, out)
			return nil, err
		}
	}
	return out, nil
}

// rotateKey rotates a key, or those of a key set that are there.
func (a *Agent) rotateKey(ctx context.Context, r *wire.RotateKeyRequest) (*wire.ChangedKeysReply, error) {
	if err := checkKeyName(r.Name); err != nil {
		return nil, err
	}
	rotator, ok := a.provider.(providers.Rotator)
	if !ok {
		return nil, unsupported(noNumber, "rotating in this provider")
	}
	defer a.ring.forget()
	out := new(wire.ChangedKeysReply)
	if _, err := a.provider.Open(ctx, r.Name+macSuffix, 0); codeOf(err) == wire.NoSuchKey {
		return out, a.changed(out)(rotator.Rotate(ctx, strings.Clone(r.Name)))
	} else if err != nil {
		return nil, err
	}
	for _, m := range keySetMembers {
		err := a.changed(out)(rotator.Rotate(ctx, r.Name+m.suffix))
		if codeOf(err) == wire.NoSuchKey && m.suffix == wrapSuffix {
			continue // optional
		}
		if err != nil {
			a.undo(ctx, out)
			return nil, err
		}
	}
	return out, nil
}

// changed returns a function that adds the result of making a key to out.
func (a *Agent) changed(out *wire.ChangedKeysReply) func(providers.KeyInfo, error) error {
	return func(k providers.KeyInfo, err error) error {
		if err == nil {
			out.Keys = append(out.Keys, a.described(k))
		}
		return err
	}
}

// undo destroys, as far as the provider can, what an operation made before it failed.
func (a *Agent) undo(ctx context.Context, out *wire.ChangedKeysReply) {
	d, ok := a.provider.(providers.Destroyer)
	if !ok {
		return
	}
	for _, k := range out.Keys {
		_ = d.Destroy(context.WithoutCancel(ctx), k.Name, k.Version) // the first failure is what counts
	}
}

func (a *Agent) publicKey(ctx context.Context, r *wire.PublicKeyRequest) (*wire.PublicKeyReply, error) {
	key, err := a.provider.Open(ctx, strings.Clone(r.Name), r.Version)
	if err != nil {
		return nil, err
	}
	public, ok := key.(providers.PublicKeyer)
	if !ok {
		return nil, unsupported(noNumber, "reading the public half of a key that has none")
	}
	spki, err := public.PublicKey(ctx)
	info := key.Info()
	info.Name = strings.Clone(r.Name) // which may name the provider, too
	return &wire.PublicKeyReply{Key: a.described(info), SPKI: spki}, err
}

// health reports what the process found at its start, and how the provider is now.
func (a *Agent) health(ctx context.Context) (*wire.HealthReply, error) {
	out := &wire.HealthReply{Findings: slices.Clone(a.cfg.Findings),
		Sessions: uint32(a.sessions.Load()), Entities: uint32(a.entities.Load())}
	if a.cfg.TokenKeys != "" {
		out.Findings = append(out.Findings, roleFinding("token keys", func() error {
			_, err := a.openKeySet(ctx, a.cfg.TokenKeys)
			return err
		}))
	}
	if a.cfg.StorageKey != "" {
		out.Findings = append(out.Findings, roleFinding("storage key", func() error {
			_, err := a.storageKey(ctx, 0)
			return err
		}))
	}
	out.Findings = append(out.Findings, a.providerFindings(ctx)...)
	return out, ctx.Err()
}

// providerFindings tell how each provider is, and what it says of itself.
func (a *Agent) providerFindings(ctx context.Context) (out []wire.Finding) {
	all := &providers.Joined{Main: a.provider}
	if j, ok := a.provider.(*providers.Joined); ok {
		all = j
	}
	for _, s := range all.States(ctx) {
		f := wire.Finding{Name: strings.TrimSpace("provider " + s.Name), OK: s.Err == nil}
		f.Detail = strings.TrimSpace(s.Description.Name + " " + s.Description.Version)
		if s.Err != nil {
			f.Detail = strings.TrimSuffix(codeOf(s.Err).Error()+": "+f.Detail, ": ")
		}
		out = append(out, f)
		for _, fact := range s.Description.Facts {
			out = append(out, wire.Finding{Name: f.Name, OK: true, Detail: fact})
		}
		for _, warning := range s.Description.Warnings {
			out = append(out, wire.Finding{Name: f.Name, Detail: warning})
		}
	}
	return out
}

func roleFinding(name string, check func() error) wire.Finding {
	if err := check(); err != nil {
		return wire.Finding{Name: name, Detail: codeOf(err).Error()}
	}
	return wire.Finding{Name: name, OK: true}
}
