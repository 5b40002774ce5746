// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// None is an entity that does not authenticate: its messages are neither encrypted nor signed (§5.5).
// Peers refuse it unless they enabled it by name.
func None(identity string) EntityAuthData {
	return identityData(schemeNone, identity)
}

func parseNone(authData *fields) EntityAuthData {
	return EntityAuthData{identity: authData.text("identity")}
}

// NoneSuffixed is an entity that does not authenticate, and shares the first part of its identity,
// ROOT.SUFFIX, with others (§5.5).
func NoneSuffixed(root, suffix string) EntityAuthData {
	root, suffix = mslenc.NFC(root), mslenc.NFC(suffix)
	var b mslenc.Builder
	b.String("root", root)
	b.String("suffix", suffix)
	return EntityAuthData{Scheme: schemeNoneSuffixed, identity: root + "." + suffix, owner: root, authData: string(b.Bytes())}
}

func parseNoneSuffixed(authData *fields) EntityAuthData {
	root, suffix := authData.text("root"), authData.text("suffix")
	return EntityAuthData{identity: root + "." + suffix, owner: root}
}

func contextNone(context.Context, *Config, EntityKeys, *EntityAuthData, bool) (CryptoContext, error) {
	return nullContext{}, nil
}

// nullContext protects nothing (§2.7). It accepts any signature.
type nullContext struct{}

func (nullContext) isLocal() {}

func (nullContext) Seal(_ context.Context, plain [][]byte) ([]Part, error) {
	parts := make([]Part, len(plain))
	for i, p := range plain {
		parts[i] = Part{Data: p, Signature: []byte{}}
	}
	return parts, nil
}

func (nullContext) Open(_ context.Context, parts []Part) ([][]byte, error) {
	plain := make([][]byte, len(parts))
	for i, p := range parts {
		plain[i] = p.Data
	}
	return plain, nil
}
