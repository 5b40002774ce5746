// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
	"github.com/mslkeep/mslkeep/providers/software"
)

func newSoftware(t *testing.T) *software.Provider {
	t.Helper()
	dir := t.TempDir()
	unlock := software.Unlock{KeySource: "file:" + filepath.Join(dir, "unlock")}
	if err := software.NewUnlockKey(filepath.Join(dir, "unlock")); err != nil {
		t.Fatal(err)
	}
	p, err := software.Create(filepath.Join(dir, "keys"), unlock, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// bare is a provider that can only use keys, and is not well.
type bare struct{ p providers.Provider }

func (b bare) Keys(ctx context.Context) ([]providers.KeyInfo, error) { return b.p.Keys(ctx) }
func (b bare) Open(ctx context.Context, name string, v uint32) (providers.Key, error) {
	return b.p.Open(ctx, name, v)
}

// away is a provider that cannot list its keys.
type away struct{ providers.Provider }

func (away) Keys(context.Context) ([]providers.KeyInfo, error) {
	return nil, &providers.Error{Code: providers.Transient}
}

func (b bare) Health(context.Context) error { return &providers.Error{Code: providers.Device} }

func TestJoined(t *testing.T) {
	ctx, main, a, b := t.Context(), newSoftware(t), newSoftware(t), newSoftware(t)
	j := &providers.Joined{Main: main, Named: map[string]providers.Provider{"a": a, "b": bare{b}}}
	for _, name := range []string{"key", "a:key", "c:key"} {
		info, err := j.Generate(ctx, name, providers.HMACSHA256)
		if err != nil || info.Name != name {
			t.Errorf("generating %s: %+v, %v", name, info, err)
		}
		if info, err = j.Rotate(ctx, name); err != nil || info.Name != name || info.Version != 2 {
			t.Errorf("rotating %s: %+v, %v", name, info, err)
		}
	}
	for _, err := range []error{
		second(j.Generate(ctx, "b:key", providers.AES128)), second(j.Rotate(ctx, "b:key")),
		second(j.Import(ctx, "b:key", providers.AES128, make([]byte, 16))), j.Destroy(ctx, "b:key", 1),
	} {
		if !errors.Is(err, providers.NotSupported) {
			t.Errorf("what the provider cannot do: %v", err)
		}
	}
	infos, err := j.Keys(ctx)
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"a:key", "a:key", "c:key", "c:key", "key", "key"}) {
		t.Errorf("keys %q, %v", names, err)
	}
	if _, err := main.Open(ctx, "a:key", 0); !errors.Is(err, providers.NoSuchKey) {
		t.Errorf("the key of another provider is in the main one: %v", err)
	}
	results := providers.Do(ctx, j, []providers.Operation{{Key: "key", Op: providers.OpMAC}, {Key: "a:key", Op: providers.OpMAC},
		{Key: "a:none", Op: providers.OpMAC}, {Key: "key", Op: providers.OpMAC}}, true)
	if len(results) != 3 || len(results[1].Output) != 32 || !errors.Is(results[2].Err, providers.NoSuchKey) {
		t.Errorf("a batch for two: %v", results)
	}
	random := providers.Do(ctx, j, []providers.Operation{{Key: "a:", Op: providers.OpRandom, Length: 16}}, true)
	if len(random) != 1 || len(random[0].Output) != 16 {
		t.Errorf("random bytes of a provider by name: %v", random)
	}
	if err := j.Destroy(ctx, "a:key", 1); err != nil {
		t.Error(err)
	}
	for _, named := range []bool{true, false} {
		j := &providers.Joined{Main: away{main}, Named: map[string]providers.Provider{"a": a}}
		who, first := "", "a:key"
		if named {
			j.Main, j.Named["hsm"] = main, away{b}
			who, first = "hsm", "key"
		}
		infos, err := j.Keys(ctx)
		e, ok := errors.AsType[*providers.KeysError](err)
		if !ok || len(e.Failed) != 1 || !errors.Is(e.Failed[who], providers.Transient) || !errors.Is(err, providers.Transient) ||
			!slices.ContainsFunc(infos, func(i providers.KeyInfo) bool { return i.Name == first }) {
			t.Errorf("keys when %q is away: %v, %v", who, infos, err)
		}
	}
}

func second(_ providers.KeyInfo, err error) error { return err }

// TestJoinedConformance: keys of the main provider are as they were.
func TestJoinedConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providers.Provider { return &providers.Joined{Main: newSoftware(t)} },
		providertest.Options{Generates: []providers.KeyType{providers.AES128, providers.HMACSHA256}})
}

// TestStates: each provider has a state of its own, whatever is wrong with the others.
func TestStates(t *testing.T) {
	j := &providers.Joined{Main: newSoftware(t), Named: map[string]providers.Provider{"a": newSoftware(t), "b": bare{newSoftware(t)}}}
	states := j.States(t.Context())
	if len(states) != 3 || states[0].Name != "" || states[1].Name != "a" || states[2].Name != "b" {
		t.Fatalf("%+v", states)
	}
	if states[0].Err != nil || states[1].Err != nil || !errors.Is(states[2].Err, providers.Device) {
		t.Errorf("%+v", states)
	}
}
