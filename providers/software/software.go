// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package software is the provider that needs no device: keys in one encrypted file, used in this
// process. It is the embedded default of the key agent.
//
// [Create] makes the file and [Open] opens it, with a passphrase or a key file that an [Unlock] refers
// to. All keys of the file are in memory while the [Provider] is open.
//
// Several processes may have the same file open. Writers take turns and read the file again before
// they change it; readers notice a change when they ask for the newest version of a key, or for one
// that they do not know. Each write replaces the file as a whole, so a process that is killed
// leaves the old or the new one. A file that is damaged is refused and named, with code Corrupt; a
// wrong passphrase or key file is Locked; a file that other users can read is Denied.
package software

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Options are the rarely needed ones. The zero value is good.
type Options struct {
	// KeyLog gets all keys of the file in the clear. It is for tests and debugging only.
	KeyLog *secret.Log
}

// A Provider holds the keys of one file. It is safe for concurrent use.
type Provider struct {
	path   string
	header *header
	kek    *secret.Bytes
	log    *secret.Log

	mu     sync.RWMutex
	closed bool
	stamp  stamp
	keys   map[string][]*entry // by name; versions ascending, destroyed ones included
}

// An entry is one version of one key.
type entry struct {
	record
	key providers.Key // nil: destroyed
}

var errOtherKind = errors.New("it has a passphrase and a key source is configured, or the other way round")

// failure makes the error of an operation.
func failure(c providers.Code, op string, err error) *providers.Error {
	return &providers.Error{Code: c, Op: op, Err: err}
}

// withCode leaves an error alone that has a code already.
func withCode(c providers.Code, op string, err error) error {
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return err
	}
	return failure(c, op, err)
}

// Create makes a file without keys, and opens it. It fails with Exists if there is a file.
func Create(path string, u Unlock, o Options) (*Provider, error) {
	return create(path, u, o, argon)
}

func create(path string, u Unlock, o Options, c cost) (*Provider, error) {
	kdf, err := u.kdf()
	if err != nil {
		return nil, err
	}
	path, err = resolve(path)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(context.Background(), path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Lstat(path); err == nil {
		return nil, failure(providers.Exists, "making the key file "+path, nil)
	}
	s, err := u.read(true)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	p := &Provider{path: path, header: newHeader(kdf, c), log: o.KeyLog, keys: make(map[string][]*entry)}
	if p.kek, p.header.check, err = p.header.derive(s); err != nil {
		return nil, failure(providers.Device, "making the key file "+path, err)
	}
	if err := p.write(nil); err != nil {
		p.kek.Wipe()
		return nil, err
	}
	return p, nil
}

// Open opens a file and reads all of its keys.
func Open(path string, u Unlock, o Options) (*Provider, error) {
	kdf, err := u.kdf()
	if err != nil {
		return nil, err
	}
	path, err = resolve(path)
	if err != nil {
		return nil, err
	}
	b, st, err := readFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parseFile(b)
	if err != nil {
		return nil, failure(providers.Corrupt, "opening the key file "+path, err)
	}
	if f.kdf != kdf {
		return nil, failure(providers.Locked, "opening the key file "+path, errOtherKind)
	}
	s, err := u.read(false)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	kek, check, err := f.derive(s)
	if err != nil {
		return nil, failure(providers.Device, "opening the key file "+path, err)
	}
	p := &Provider{path: path, header: &f.header, kek: kek, log: o.KeyLog}
	if subtle.ConstantTimeCompare(check, f.check) != 1 {
		kek.Wipe()
		return nil, failure(providers.Locked, "opening the key file "+path, errors.New("wrong passphrase or key"))
	}
	rs, err := f.open(kek)
	if err == nil {
		err = p.install(rs, st)
	}
	if err != nil {
		kek.Wipe()
		return nil, failure(providers.Corrupt, "opening the key file "+path, err)
	}
	return p, nil
}

// resolve returns the path that a rename can replace, links followed.
func resolve(path string) (string, error) {
	full, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) { // to be made, perhaps
		var dir string
		if dir, err = filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			full = filepath.Join(dir, filepath.Base(path))
		}
	}
	if err == nil {
		full, err = filepath.Abs(full)
	}
	if err != nil {
		return "", failure(providers.Device, "finding the key file "+path, err)
	}
	return full, nil
}

// Close wipes all keys. Keys that were opened fail from then on.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, versions := range p.keys {
		for _, e := range versions {
			e.wipe()
		}
	}
	p.keys, p.closed = nil, true
	p.kek.Wipe()
	return nil
}

// Keys lists the keys that are not destroyed.
func (p *Provider) Keys(ctx context.Context) ([]providers.KeyInfo, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	var infos []providers.KeyInfo
	for _, versions := range p.keys {
		for _, e := range versions {
			if e.key != nil {
				infos = append(infos, e.info)
			}
		}
	}
	return infos, nil
}

// Open returns a key. Asking for the newest version, or for one that is not known, looks whether
// another process has changed the file. When the file cannot be read any more, the keys that were read
// before stay usable.
func (p *Provider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	if version != 0 {
		if k := p.find(name, version); k != nil {
			return k, nil
		}
	}
	err := p.refresh(ctx)
	if k := p.find(name, version); k != nil {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, failure(providers.NoSuchKey, "opening a key", nil)
}

// find returns a key that is in memory, or nil.
func (p *Provider) find(name string, version uint32) providers.Key {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, e := range slices.Backward(p.keys[name]) {
		if e.key != nil && (version == 0 || e.info.Version == version) {
			return e.key
		}
	}
	return nil
}

// Random returns random bytes of the operating system.
func (p *Provider) Random(ctx context.Context, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, "making random bytes", err)
	}
	b := make([]byte, n)
	rand.Read(b)
	return b, nil
}

// Health reads the whole file, and uses a key of each type.
func (p *Provider) Health(ctx context.Context) error {
	rs, _, err := p.read(ctx)
	if err != nil {
		return err
	}
	tried := make(map[providers.KeyType]bool)
	for _, r := range rs {
		if r.bytes.Len() == 0 || tried[r.info.Type] {
			continue
		}
		tried[r.info.Type] = true
		if err = tryKey(ctx, r); err != nil {
			break
		}
	}
	wipeRecords(rs)
	return err
}
