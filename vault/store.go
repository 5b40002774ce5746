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

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/secret"
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

// write makes a file, or replaces it, so that after a crash it is there as a whole or not at all.
func (s *store) write(b *blob, replace bool) (err error) {
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.Folder, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // is not there any more if all went well
	_, err = f.Write(append(raw, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	path := filepath.Join(s.Folder, b.file())
	switch {
	case err != nil:
		return err
	case replace:
		err = os.Rename(f.Name(), path)
	default:
		err = os.Link(f.Name(), path) // which never replaces one that is there
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(s.Folder)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
