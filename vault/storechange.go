// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// generate makes version 1 of a key.
func (s *store) generate(ctx context.Context, name string, t providers.KeyType) (providers.KeyInfo, error) {
	const op = "generating a key"
	if sizes[t] == 0 {
		return providers.KeyInfo{}, failure(providers.NotSupported, op, errors.New("wrapped keys are AES and HMAC keys"))
	}
	return s.create(ctx, op, name, t, secret.Random(sizes[t]), true)
}

// Provider returns p with the capabilities that it has: one with wrapped keys imports such keys.
func (p *Provider) Provider() providers.Provider {
	if p.wrapped == nil {
		return p
	}
	return importing{p}
}

// importing is a provider with wrapped keys.
type importing struct{ *Provider }

// Import takes a wrapped key.
func (p importing) Import(ctx context.Context, name string, t providers.KeyType, key []byte) (providers.KeyInfo, error) {
	const op = "importing a key"
	switch {
	case !p.isWrapped(name):
		return providers.KeyInfo{}, failure(providers.NotSupported, op, errors.New("only wrapped keys are imported"))
	case sizes[t] == 0:
		return providers.KeyInfo{}, failure(providers.NotSupported, op, errors.New("wrapped keys are AES and HMAC keys"))
	case len(key) != sizes[t]:
		return providers.KeyInfo{}, failure(providers.Malformed, op, errors.New("the key has the wrong size"))
	}
	own := secret.New(len(key))
	copy(secret.Reveal(own), key)
	return p.wrapped.create(ctx, op, name, t, own, true)
}

func (s *store) rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	const op = "rotating a key"
	if err := s.look(true); err != nil {
		return providers.KeyInfo{}, err
	}
	k := s.find(name, 0)
	if k == nil {
		return providers.KeyInfo{}, failure(providers.NoSuchKey, op, nil)
	}
	return s.create(ctx, op, name, k.blob.Type, secret.Random(sizes[k.blob.Type]), false)
}

// create wraps a key and writes its file, as the next version, or as the first one only. The key belongs to the
// store from then on.
func (s *store) create(ctx context.Context, op, name string, t providers.KeyType, key *secret.Bytes, first bool) (providers.KeyInfo, error) {
	defer key.Wipe()
	if _, ok := transitName(name); !ok {
		return providers.KeyInfo{}, failure(providers.Malformed, op, errors.New("no key can have this name"))
	}
	for range tries {
		if err := s.look(true); err != nil {
			return providers.KeyInfo{}, err
		}
		b := blob{Name: name, Version: s.next(name), Type: t, Created: time.Now().Unix()}
		if first && b.Version != 1 {
			break
		}
		var err error
		if b.Wrapped, err = s.wrap(ctx, &b, key); err != nil {
			return providers.KeyInfo{}, err
		}
		err = s.write(&b, false)
		if errors.Is(err, fs.ErrExist) {
			continue // somebody else was faster
		}
		if err == nil {
			err = s.look(true)
		}
		if err != nil {
			return providers.KeyInfo{}, failure(providers.Device, op, err)
		}
		return b.info(), nil
	}
	return providers.KeyInfo{}, failure(providers.Exists, op, nil)
}

func (s *store) next(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.known[name]; v != nil {
		return v.newest + 1
	}
	return 1
}

// destroy replaces a file by one without a key.
func (s *store) destroy(_ context.Context, name string, version uint32) error {
	const op = "destroying a key"
	unlock, err := s.lock()
	if err != nil {
		return failure(providers.Device, op, err)
	}
	defer unlock()
	if err := s.look(true); err != nil {
		return err
	}
	k := s.find(name, version)
	if k == nil || version == 0 {
		return failure(providers.NoSuchKey, op, nil)
	}
	b := k.blob
	b.Wrapped, b.Destroyed = "", true
	if err := s.write(&b, true); err != nil {
		return failure(providers.Device, op, err)
	}
	return s.look(true)
}

// lock keeps other processes from replacing files.
func (s *store) lock() (unlock func(), err error) {
	folder, err := os.Open(s.Folder)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		folder.Close()
		return nil, err
	}
	return func() { folder.Close() }, nil
}

// write makes a file, or replaces it.
func (s *store) write(b *blob, replace bool) error {
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	put := atomicfile.Create
	if replace {
		put = atomicfile.Replace
	}
	return put(filepath.Join(s.Folder, b.file()), append(raw, '\n'), 0o600)
}
