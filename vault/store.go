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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	maxBlob  = 4096 // bytes of a file
	maxFiles = 10_000
	suffix   = ".key"
	tries    = 8 // to make a version that somebody else makes, too
)

// A blob is the file of one version of a wrapped key. Nothing in it is secret, and Vault decrypts what is wrapped
// only together with the rest.
type blob struct {
	Name      string            `json:"name"`
	Version   uint32            `json:"version"`
	Type      providers.KeyType `json:"type"`
	Created   int64             `json:"created"`
	Wrapped   string            `json:"wrapped,omitempty"`
	Destroyed bool              `json:"destroyed,omitempty"` // the version's number is not used again
}

// aad is what a wrapped key is bound to.
func (b *blob) aad() []byte {
	return []byte("mslkeep wrapped key 1\x00" + b.Name + "\x00" + strconv.FormatUint(uint64(b.Version), 10) + "\x00" + string(b.Type))
}

func (b *blob) info() providers.KeyInfo {
	return providers.KeyInfo{Name: b.Name, Version: b.Version, Type: b.Type, Created: b.Created}
}

// sizes are the types of wrapped keys, and their bytes.
var sizes = map[providers.KeyType]int{providers.AES128: 16, providers.AES256: 32, providers.HMACSHA256: 32}

func (b *blob) file() string {
	transit, _ := transitName(b.Name)
	return transit + "." + strconv.FormatUint(uint64(b.Version), 10) + suffix
}

// isWrapped reports whether a key of that name is one of the folder's: those that the configuration has among the keys in
// Vault are not.
func (p *Provider) isWrapped(name string) bool {
	_, listed := p.config.Keys[name]
	return p.config.Wrapped != nil && !listed && p.config.Wrapped.matches(name)
}

// A store is the folder of the wrapped keys, and those of them that are held.
type store struct {
	Wrapped
	p *Provider

	mu    sync.Mutex
	stamp stamp // of the folder when it was read
	err   error // that was found in it since
	known map[string]*versions
}

// versions are those of one key.
type versions struct {
	newest uint32 // destroyed ones included
	held   map[uint32]*heldKey
}

// openStore reads the folder, and has Vault decrypt all that is in it.
func openStore(ctx context.Context, p *Provider, w Wrapped) (*store, error) {
	s := &store{Wrapped: w, p: p, known: make(map[string]*versions)}
	i, err := p.info(ctx, w.Key, 0)
	if err != nil {
		return nil, err
	}
	if i.kind != providers.AES128 && i.kind != providers.AES256 {
		return nil, failure(providers.NotSupported, "looking at the key that wraps keys", errMechanism)
	}
	if err := s.look(true); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, k := range s.all() {
		wg.Go(func() {
			if err := k.reveal(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				first = errors.Join(first, err)
			}
		})
	}
	wg.Wait()
	if first != nil {
		s.wipe()
		return nil, failure(providers.CodeOf(first), "unwrapping the keys of "+w.Folder, first)
	}
	return s, nil
}

// look reads the folder if it has changed, or if it must. If only the latter, what is damaged makes it fail; else the
// keys that are known go on, and Health tells.
func (s *store) look(must bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = s.read(must)
	if must {
		return s.err
	}
	return nil
}

// read does what look does; mu is held.
func (s *store) read(must bool) error {
	const op = "reading the folder of wrapped keys"
	now := stampOf(s.Folder)
	if !must && now.same(s.stamp) && time.Since(now.time) > time.Second { // or a file of the same moment is missed
		return s.err
	}
	entries, err := os.ReadDir(s.Folder)
	if err != nil {
		return failure(providers.Device, op, err)
	}
	if len(entries) > maxFiles {
		return failure(providers.Corrupt, op, errors.New("there are too many files"))
	}
	var damaged error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !strings.HasPrefix(e.Name(), ".") {
			if err := s.take(e.Name()); err != nil {
				damaged = failure(providers.Corrupt, op, err)
			}
		}
	}
	s.stamp = now
	return damaged
}

// trouble is what was found in the folder since the start.
func (s *store) trouble() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// take reads a file that is not known yet, or that may have been destroyed since; mu is held.
func (s *store) take(file string) error {
	path := filepath.Join(s.Folder, file)
	raw, err := readSmall(path, maxBlob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var b blob
	if err == nil {
		err = json.Unmarshal(raw, &b)
	}
	switch {
	case err != nil || b.Version == 0 || b.file() != file || sizes[b.Type] == 0 || !s.p.isWrapped(b.Name):
		return errors.New("a file is damaged, or not one of these keys: " + strconv.Quote(file))
	case b.Destroyed:
	default:
		if _, _, ok := parse(b.Wrapped); !ok {
			return errors.New("a file is damaged: " + strconv.Quote(file))
		}
	}
	s.add(b)
	return nil
}

// stillThere reports whether a file is one of a key that was not destroyed.
func stillThere(raw []byte) bool {
	var b blob
	return json.Unmarshal(raw, &b) == nil && !b.Destroyed
}

// add makes a version known; mu is held.
func (s *store) add(b blob) {
	v := s.known[b.Name]
	if v == nil {
		v = &versions{held: make(map[uint32]*heldKey)}
		s.known[b.Name] = v
	}
	v.newest = max(v.newest, b.Version)
	old := v.held[b.Version]
	switch {
	case b.Destroyed && old != nil:
		old.wipe()
		delete(v.held, b.Version)
	case b.Destroyed:
	case old == nil:
		v.held[b.Version] = newHeld(s, b)
	default:
		old.wrappedAs(b.Wrapped)
	}
}

// all returns all versions of all keys.
func (s *store) all() (all []*heldKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.known {
		for _, k := range v.held {
			all = append(all, k)
		}
	}
	return all
}

func (s *store) wipe() {
	for _, k := range s.all() {
		k.wipe()
	}
}

// keys lists what is there.
func (s *store) keys(context.Context) ([]providers.KeyInfo, error) {
	if err := s.look(false); err != nil {
		return nil, err
	}
	var infos []providers.KeyInfo
	for _, k := range s.all() {
		infos = append(infos, k.blob.info())
	}
	return infos, nil
}

// find returns one version; 0 is the newest.
func (s *store) find(name string, version uint32) *heldKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.known[name]
	if v == nil {
		return nil
	}
	if version != 0 {
		return v.held[version]
	}
	var newest *heldKey
	for n, k := range v.held {
		if newest == nil || n > newest.blob.Version {
			newest = k
		}
	}
	return newest
}

func (s *store) open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	const op = "opening a key"
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	if err := s.look(false); err != nil {
		return nil, err
	}
	k := s.find(name, version)
	if k == nil {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	if k.blob.Type == providers.HMACSHA256 {
		return &heldMAC{k}, nil
	}
	return &heldCipher{k}, nil
}
