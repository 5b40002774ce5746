// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	// nameLife is for how long it is believed which versions a name has, so that another process's rotation is
	// noticed and yet the token is not searched for each use.
	nameLife = time.Second
	maxNames = 4096
)

// An index remembers the keys that were found, by name.
type index struct {
	mu    sync.Mutex
	names map[string]*named
}

// named is what is known of one name.
type named struct {
	searching chan struct{} // closed when the search under way is over; nil: none
	at        time.Time     // when the last search began
	keys      []*key        // ascending versions
}

// A key is an object with what it can be used for.
type key struct {
	*object
	usable providers.Key // nil: of a type or with attributes that are not for us
	err    error         // why it must not be used
}

// Open returns a key. Which version is the newest is looked up once a second at most. A version that is not known is
// looked for, since another process may have made it.
func (p *Provider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	const op = "opening a key"
	if len(name) == 0 || len(name) > maxURI {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	keys, err := p.lookUp(ctx, name, version)
	if err != nil {
		return nil, err
	}
	k := pick(keys, version)
	if k == nil {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	if k.err != nil {
		return nil, k.err
	}
	return k.usable, nil
}

func pick(keys []*key, version uint32) *key {
	for _, k := range slices.Backward(keys) {
		if version == 0 || k.info.Version == version {
			return k
		}
	}
	return nil
}

// lookUp returns the versions of a name. A version that is known needs no search. Of those who ask at the
// same time, one searches.
func (p *Provider) lookUp(ctx context.Context, name string, version uint32) ([]*key, error) {
	x, asked := &p.index, time.Now()
	x.mu.Lock()
	for {
		n := x.names[name]
		if n == nil {
			if x.names == nil || len(x.names) >= maxNames {
				x.names = make(map[string]*named)
			}
			n = new(named)
			x.names[name] = n
		}
		known := pick(n.keys, version) != nil && (version != 0 || asked.Sub(n.at) < nameLife)
		if known || n.at.After(asked) {
			defer x.mu.Unlock()
			return n.keys, nil
		}
		if n.searching == nil {
			n.searching = make(chan struct{})
			x.mu.Unlock()
			return p.search(ctx, name, n)
		}
		wait := n.searching
		x.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, failure(providers.Transient, "opening a key", ctx.Err())
		}
		x.mu.Lock()
	}
}

// search asks the token for the versions of a name.
func (p *Provider) search(ctx context.Context, name string, n *named) ([]*key, error) {
	p.index.mu.Lock()
	known := n.keys
	p.index.mu.Unlock()
	began := time.Now()
	keys, err := do(ctx, p, "opening a key", useOther, nil, func(s *session) ([]*key, error) { return s.versions(name, known) })
	p.index.mu.Lock()
	defer p.index.mu.Unlock()
	if err == nil {
		n.keys, n.at = keys, began
	}
	close(n.searching)
	n.searching = nil
	return keys, err
}

// forget makes the next look at a name a search.
func (p *Provider) forget(name string) {
	p.index.mu.Lock()
	defer p.index.mu.Unlock()
	delete(p.index.names, name)
}

// versions searches for all versions of a name, and takes over what is known of them.
func (s *session) versions(name string, known []*key) ([]*key, error) {
	uris, byNumber := s.p.named[name], false
	if isURI(name) {
		u, err := parseURI(name)
		if err != nil || u.object == "" && u.id == "" || !u.matches(&s.link.info) {
			return nil, nil
		}
		uris = []uri{u}
	}
	if uris == nil {
		uris, byNumber = []uri{{object: name}}, true
	}
	var keys []*key
	for i, u := range uris {
		for _, class := range u.classes() {
			found, err := s.find(u.template(class))
			if err != nil {
				return nil, err
			}
			for _, h := range found {
				k, err := s.key(class, h, known)
				if err != nil {
					return nil, err
				}
				version := uint32(i + 1)
				if byNumber {
					version = versionOf(k.label, k.id)
				}
				if version != 0 && k.info.Type != "" {
					keys = append(keys, k.as(s.link, name, version))
				}
			}
		}
	}
	slices.SortFunc(keys, func(a, b *key) int { return int(int64(a.info.Version) - int64(b.info.Version)) })
	for i := 1; i < len(keys); i++ {
		if keys[i].info.Version == keys[i-1].info.Version {
			keys[i].err = failure(providers.Corrupt, "opening a key", errAmbiguous)
			keys[i-1].err = keys[i].err
		}
	}
	return keys, nil
}

// key reads an object, unless it is known.
func (s *session) key(class uint, h p11.ObjectHandle, known []*key) (*key, error) {
	for _, k := range known {
		if at := k.handle.Load(); at != nil && at.link == s.link && at.number == h {
			return k, nil
		}
	}
	o, err := s.read(class, h)
	if err != nil {
		return nil, err
	}
	for _, k := range known { // found again in a new link
		if k.class == class && k.keyType == o.keyType && bytes.Equal(k.label, o.label) && bytes.Equal(k.id, o.id) &&
			k.info.Type == o.info.Type && bytes.Equal(k.public, o.public) {
			k.handle.Store(o.handle.Load())
			return k, nil
		}
	}
	return &key{object: o}, nil
}

var (
	errExtractable = errors.New("the key can be taken out of the token; make it sensitive and not extractable")
	errUseless     = errors.New("neither the key nor the token allows any use that is known here")
)

// as gives a key its name and version, and makes out what it can do.
func (k *key) as(l *link, name string, version uint32) *key {
	if k.usable != nil || k.err != nil {
		return k
	}
	k.info.Name, k.info.Version = name, version
	switch {
	case k.flags[p11.CKA_EXTRACTABLE] || !k.flags[p11.CKA_SENSITIVE]:
		k.err = failure(providers.Denied, "opening a key", errExtractable)
	case k.class == p11.CKO_PRIVATE_KEY:
		k.usable = k.object.pair(l)
	case k.info.Type == providers.HMACSHA256:
		k.usable = k.object.authenticator(l)
	default:
		k.usable = k.object.cipher(l)
	}
	if k.usable == nil && k.err == nil {
		k.err = failure(providers.NotSupported, "opening a key", errUseless)
	}
	return k
}

// Keys lists the keys of the token whose label and identifier are a name and a version, and those that the
// configuration names.
func (p *Provider) Keys(ctx context.Context) ([]providers.KeyInfo, error) {
	return do(ctx, p, "listing keys", useOther, nil, func(s *session) ([]providers.KeyInfo, error) {
		var infos []providers.KeyInfo
		for _, class := range []uint{p11.CKO_SECRET_KEY, p11.CKO_PRIVATE_KEY} {
			found, err := s.find((&uri{}).template(class))
			if err != nil {
				return nil, err
			}
			for _, h := range found {
				o, err := s.read(class, h)
				if err != nil {
					return nil, err
				}
				o.info.Name, o.info.Version = string(o.label), versionOf(o.label, o.id)
				if o.info.Name != "" && o.info.Version != 0 && o.info.Type != "" && p.named[o.info.Name] == nil {
					infos = append(infos, o.info)
				}
			}
		}
		for name := range p.named {
			keys, err := s.versions(name, nil)
			if err != nil {
				return nil, err
			}
			for _, k := range keys {
				infos = append(infos, k.info)
			}
		}
		return infos, nil
	})
}
