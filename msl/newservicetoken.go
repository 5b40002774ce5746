// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A NewServiceToken is a service token to be made (§3.4), or what to do with one that a message would carry
// anyway (§8.15).
type NewServiceToken struct {
	Name          string
	BoundToEntity bool // to the master token; the token is left out while there is none
	BoundToUser   bool // to the user ID token, and the master token
	Encrypt       bool
	Compression   string // "", "GZIP" or "LZW"; used only if it makes the data shorter
	Data          []byte // none deletes the token of that name and binding

	// Exclude leaves the token of that name and binding out of this message. Whoever keeps it goes on to.
	Exclude bool
}

// addServiceTokens makes tokens and adds them to those that a message has anyway. A token replaces that of
// its name and binding. have is not changed.
func addServiceTokens(ctx context.Context, cfg *Config, keys ServiceTokenKeys, have []*ServiceToken, add []NewServiceToken, m *MasterToken, u *UserIDToken) ([]*ServiceToken, error) {
	if len(add) == 0 {
		return have, nil
	}
	have = slices.Clone(have)
	for i := range add {
		n := &add[i]
		t, err := n.seal(ctx, cfg, keys, m, u)
		if err != nil {
			return nil, err
		}
		if t != nil || n.Exclude {
			have = slices.DeleteFunc(have, n.replaces)
		}
		if t != nil {
			have = append(have, t)
		}
	}
	return have, nil
}

// seal makes the token. It returns nil if there is none to make, or what it is to be bound to is not there.
func (n *NewServiceToken) seal(ctx context.Context, cfg *Config, keys ServiceTokenKeys, m *MasterToken, u *UserIDToken) (*ServiceToken, error) {
	if n.Exclude || n.BoundToUser && u == nil || (n.BoundToEntity || n.BoundToUser) && m == nil {
		return nil, nil
	}
	if !n.BoundToEntity && !n.BoundToUser {
		m = nil
	}
	if !n.BoundToUser {
		u = nil
	}
	if len(n.Data) == 0 {
		return deletedServiceToken(n.Name, m, u), nil
	}
	return sealServiceToken(ctx, cfg, keys, n.Name, m, u, n.Encrypt, n.Compression, n.Data)
}

// replaces reports whether the token takes the place of t in a message: same name, bound in the same ways.
func (n *NewServiceToken) replaces(t *ServiceToken) bool {
	return mslenc.NFC(n.Name) == t.Name && (n.BoundToEntity || n.BoundToUser) == (t.MasterTokenSerialNumber >= 0) &&
		n.BoundToUser == (t.UserIDTokenSerialNumber >= 0)
}
