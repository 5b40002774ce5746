// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// A Joined is several providers seen as one: a key of the provider NAME is called NAME:KEY, and one of Main
// has its own name. A key's Info has the name that its own provider knows.
//
// What it can do beyond using keys depends on the key's name, so it has all the methods, which fail with
// NotSupported where that provider has not.
type Joined struct {
	Main  Provider
	Named map[string]Provider // by names without a colon
}

// route returns the provider of a key, its name there, and the prefix of such names.
func (j *Joined) route(name string) (p Provider, own, prefix string) {
	if who, rest, ok := strings.Cut(name, ":"); ok && j.Named[who] != nil {
		return j.Named[who], rest, who + ":"
	}
	return j.Main, name, ""
}

// A KeysError says which of several providers did not list their keys. The others' are listed beside it.
type KeysError struct {
	Failed map[string]error // by the names of providers; that of the main one is ""
}

func (e *KeysError) Error() string {
	names := slices.Sorted(maps.Keys(e.Failed))
	return fmt.Sprintf("listing keys: %d of the providers failed, such as %q: %v", len(names), names[0], e.Failed[names[0]])
}

// Unwrap returns what the providers said.
func (e *KeysError) Unwrap() []error { return slices.Collect(maps.Values(e.Failed)) }

// Keys lists the keys of all providers. If some of them fail, it returns the keys of the others and a [*KeysError].
func (j *Joined) Keys(ctx context.Context) ([]KeyInfo, error) {
	var mu sync.Mutex
	var all []KeyInfo
	failed := make(map[string]error)
	list := func(who, prefix string, p Provider) {
		infos, err := p.Keys(ctx)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed[who] = err
			return
		}
		for _, i := range infos {
			i.Name = prefix + i.Name
			all = append(all, i)
		}
	}
	var lists sync.WaitGroup
	for who, p := range j.Named {
		lists.Go(func() { list(who, who+":", p) })
	}
	list("", "", j.Main)
	lists.Wait()
	if len(failed) > 0 {
		return all, &KeysError{failed}
	}
	return all, nil
}

// Open opens a key of one of the providers.
func (j *Joined) Open(ctx context.Context, name string, version uint32) (Key, error) {
	p, own, _ := j.route(name)
	return p.Open(ctx, own, version)
}

// Do does a batch in one round trip if all of it is for one provider.
func (j *Joined) Do(ctx context.Context, ops []Operation, stop bool) []Result {
	var one Provider
	routed := slices.Clone(ops)
	for i := range ops {
		p, own, _ := j.route(ops[i].Key)
		if routed[i].Key = own; i > 0 && p != one {
			return doEach(ctx, j, ops, stop)
		}
		one = p
	}
	if one == nil {
		return nil
	}
	return Do(ctx, one, routed, stop)
}

var errCannot = errors.New("this provider cannot do that")

// change does what makes or changes a key, if its provider has the capability T.
func change[T any](j *Joined, op, name string, do func(p T, own string) (KeyInfo, error)) (KeyInfo, error) {
	p, own, prefix := j.route(name)
	able, ok := p.(T)
	if !ok {
		return KeyInfo{}, &Error{Code: NotSupported, Op: op, Err: errCannot}
	}
	info, err := do(able, own)
	info.Name = prefix + info.Name
	return info, err
}

// Generate makes a key, if the provider that its name begins with can.
func (j *Joined) Generate(ctx context.Context, name string, t KeyType) (KeyInfo, error) {
	return change(j, "generating a key", name, func(g Generator, own string) (KeyInfo, error) { return g.Generate(ctx, own, t) })
}

// Import takes a key, if the provider that its name begins with can.
func (j *Joined) Import(ctx context.Context, name string, t KeyType, key []byte) (KeyInfo, error) {
	return change(j, "importing a key", name, func(i Importer, own string) (KeyInfo, error) { return i.Import(ctx, own, t, key) })
}

// Rotate rotates a key, if its provider can.
func (j *Joined) Rotate(ctx context.Context, name string) (KeyInfo, error) {
	return change(j, "rotating a key", name, func(r Rotator, own string) (KeyInfo, error) { return r.Rotate(ctx, own) })
}

// Destroy destroys a version of a key, if its provider can.
func (j *Joined) Destroy(ctx context.Context, name string, version uint32) error {
	_, err := change(j, "destroying a key", name, func(d Destroyer, own string) (KeyInfo, error) {
		return KeyInfo{}, d.Destroy(ctx, own, version)
	})
	return err
}

// Random asks the main provider. To ask another, use Do, with the name NAME: for a key.
func (j *Joined) Random(ctx context.Context, n int) ([]byte, error) { return Random(ctx, j.Main, n) }

// A State is how one of several providers is now.
type State struct {
	Name        string // "" for the main one
	Err         error  // why it does not work
	Description Description
}

// States checks all providers, and has those that can describe themselves. They are in the order of their names.
func (j *Joined) States(ctx context.Context) []State {
	names := append([]string{""}, slices.Sorted(maps.Keys(j.Named))...)
	states := make([]State, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		p := j.Named[name]
		if i == 0 {
			p = j.Main
		}
		all.Go(func() {
			states[i] = State{Name: name, Err: Check(ctx, p)}
			if d, ok := p.(Describer); ok {
				if what, err := d.Describe(ctx); err == nil { // else Err says what is wrong
					states[i].Description = what
				}
			}
		})
	}
	all.Wait()
	return states
}
