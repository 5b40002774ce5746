// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	// fresh is for how long what is known of a key is not asked again: a rotation is seen after that.
	fresh = 2 * time.Second
	// stale is for how long it serves while Vault does not answer.
	stale       = 10 * time.Minute
	maxKeys     = 10_000 // that are listed
	maxVersions = 1000   // of one key
)

// info is what Vault says of a key.
type info struct {
	name           string
	kind           providers.KeyType
	oldest, newest uint32           // versions that can be used
	writes         uint32           // the oldest version that encrypts and signs
	created        map[uint32]int64 // Unix seconds, by version
	public         map[uint32][]byte
}

// has reports whether a version is there.
func (i *info) has(v uint32) bool { return v >= i.oldest && v <= i.newest }

func (i *info) describe(v uint32) providers.KeyInfo {
	return providers.KeyInfo{Name: i.name, Version: v, Type: i.kind, Created: i.created[v]}
}

// An entry is what is known of a key. Its fields are read and written by who has turn.
type entry struct {
	turn  chan struct{}
	info  *info
	asked time.Time // when Vault was asked what it then said
	tried time.Time // when it was asked last, and did not answer
}

// take takes the turn, which is mostly free.
func (e *entry) take(ctx context.Context, p *Provider) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := p.early(ctx)
	defer cancel()
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// allowed reports whether a key may be asked for at all, and its name in Vault.
func (p *Provider) allowed(name string) (string, bool) {
	transit, ok := transitName(name)
	if _, listed := p.config.Keys[name]; len(p.config.Keys) > 0 && !listed {
		ok = p.config.Wrapped != nil && name == p.config.Wrapped.Key
	}
	return transit, ok
}

// info returns what is known of a key that has the version, which is 0 for any. That there is no newer version than those
// that are known, it does not believe of what Vault said before it was called.
func (p *Provider) info(ctx context.Context, name string, version uint32) (*info, error) {
	const op = "looking at a key"
	called := time.Now()
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	if _, ok := p.allowed(name); !ok {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	p.mu.Lock()
	e := p.infos[name]
	if e == nil {
		e = &entry{turn: make(chan struct{}, 1)}
		p.infos[name] = e
	}
	p.mu.Unlock()
	if err := e.take(ctx, p); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	defer func() { <-e.turn }()
	if err := p.refresh(ctx, name, e, version, called); err != nil {
		return nil, err
	}
	if version != 0 && !e.info.has(version) {
		return nil, failure(providers.NoSuchKey, op, nil)
	}
	return e.info, nil
}

// refresh asks Vault about a key again, unless what is known is fresh, or, of a version that is newer than what is known, was
// asked after the call. So one request serves all who have waited for their turn. turn is held.
func (p *Provider) refresh(ctx context.Context, name string, e *entry, version uint32, called time.Time) error {
	age := time.Since(e.asked)
	newer := e.info != nil && version > e.info.newest
	switch {
	case newer && e.asked.After(called):
		return nil
	case newer && e.tried.After(called):
		return failure(providers.Transient, "looking at a key", errUnreached)
	case e.info != nil && !newer && (age < fresh || time.Since(e.tried) < fresh && age < stale):
		return nil
	}
	began := time.Now()
	i, err := p.read(ctx, name)
	if err == nil {
		e.info, e.asked, e.tried = i, began, time.Time{}
		return nil
	}
	if e.info != nil && age < stale && errors.Is(err, providers.Transient) && ctx.Err() == nil {
		if e.tried = time.Now(); !newer {
			return nil // the use itself will tell that Vault is away
		}
	}
	p.drop(name, e, err)
	return err
}

// drop forgets a key that is not there, so that names from outside cannot fill the memory.
func (p *Provider) drop(name string, e *entry, err error) {
	if !errors.Is(err, providers.NoSuchKey) && e.info != nil {
		return
	}
	e.info = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.infos[name] == e {
		delete(p.infos, name)
	}
}

// forget makes the next look at a key a fresh one.
func (p *Provider) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.infos, name)
}

// A description is transit's of a key.
type description struct {
	Type       string                     `json:"type"`
	Latest     uint32                     `json:"latest_version"`
	KeySize    int                        `json:"key_size"`
	MinDecrypt uint32                     `json:"min_decryption_version"`
	MinEncrypt uint32                     `json:"min_encryption_version"`
	Derived    bool                       `json:"derived"`
	Exportable bool                       `json:"exportable"`
	Backup     bool                       `json:"allow_plaintext_backup"`
	Keys       map[string]json.RawMessage `json:"keys"`
}

func (p *Provider) read(ctx context.Context, name string) (*info, error) {
	const op = "looking at a key"
	transit, _ := transitName(name)
	var d description
	if err := p.call(ctx, op, request{method: "GET", path: p.path("keys", transit), again: true}, &d); err != nil {
		return nil, err
	}
	return d.info(name, p.config.Keys[name])
}

// info checks a description. want is the type that the key must have; empty: any.
func (d *description) info(name string, want providers.KeyType) (*info, error) {
	const op = "looking at a key"
	kind, known := typeOf(d.Type)
	switch {
	case d.Exportable || d.Backup:
		return nil, failure(providers.Denied, op, errors.New("its bytes can be got out of Vault (exportable, or allow_plaintext_backup)"))
	case !known || d.Derived || kind == providers.HMACSHA256 && d.KeySize != 32:
		return nil, failure(providers.NotSupported, op, errors.New("its type is not one that is used here"))
	case want != "" && want != kind:
		return nil, failure(providers.Denied, op, errors.New("its type in Vault is not that of the configuration"))
	case d.Latest < 1 || d.Latest-d.MinDecrypt > maxVersions || len(d.Keys) > maxVersions:
		return nil, failure(providers.Device, op, errAnswer)
	}
	i := &info{name: name, kind: kind, oldest: max(d.MinDecrypt, 1), newest: d.Latest, writes: max(d.MinEncrypt, 1),
		created: make(map[uint32]int64), public: make(map[uint32][]byte)}
	for number, raw := range d.Keys {
		v, err := strconv.ParseUint(number, 10, 32)
		if err != nil || !i.one(uint32(v), raw) {
			return nil, failure(providers.Device, op, errAnswer)
		}
	}
	return i, nil
}

// one takes what Vault says of one version: of a symmetric key, when it was made, and of a key pair an object.
func (i *info) one(v uint32, raw json.RawMessage) bool {
	if json.Unmarshal(raw, new(int64)) == nil {
		var created int64
		_ = json.Unmarshal(raw, &created)
		i.created[v] = created
		return true
	}
	var pair struct {
		Public  string    `json:"public_key"`
		Created time.Time `json:"creation_time"`
	}
	if json.Unmarshal(raw, &pair) != nil {
		return false
	}
	block, _ := pem.Decode([]byte(pair.Public))
	if block == nil || block.Type != "PUBLIC KEY" {
		return false
	}
	i.created[v], i.public[v] = pair.Created.Unix(), block.Bytes
	return true
}

// Keys lists every version of every key that can be used: those of the configuration, or all of the mount.
func (p *Provider) Keys(ctx context.Context) ([]providers.KeyInfo, error) {
	names, err := p.names(ctx)
	if err != nil {
		return nil, err
	}
	var all []providers.KeyInfo
	for _, name := range names {
		i, err := p.info(ctx, name, 0)
		if errors.Is(err, providers.NoSuchKey) || errors.Is(err, providers.NotSupported) || errors.Is(err, providers.Denied) && len(p.config.Keys) == 0 {
			continue // destroyed since it was listed, or of other programs
		}
		if err != nil {
			return nil, err
		}
		for v := i.oldest; v <= i.newest; v++ {
			all = append(all, i.describe(v))
		}
	}
	if p.wrapped == nil {
		return all, nil
	}
	held, err := p.wrapped.keys(ctx)
	return append(all, held...), err
}

// names are those of all keys of transit.
func (p *Provider) names(ctx context.Context) (names []string, err error) {
	for name := range p.config.Keys {
		names = append(names, name)
	}
	if len(names) > 0 || p.config.Wrapped != nil && p.config.Wrapped.all() {
		return names, nil
	}
	var out struct {
		Keys []string `json:"keys"`
	}
	err = p.call(ctx, "listing keys", request{method: "GET", path: p.path("keys"), query: "list=true", again: true}, &out)
	if errors.Is(err, providers.NoSuchKey) {
		return nil, nil // Vault says so of an empty list
	}
	if len(out.Keys) > maxKeys {
		return nil, failure(providers.Device, "listing keys", errors.New("there are too many: name those to be used"))
	}
	for _, transit := range out.Keys {
		name, ok := ourName(transit)
		if ok && !p.isWrapped(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// Open returns one version of a key.
func (p *Provider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	if p.isWrapped(name) {
		return p.wrapped.open(ctx, name, version)
	}
	i, err := p.info(ctx, name, version)
	if err != nil {
		return nil, err
	}
	if version == 0 {
		version = i.newest
	}
	k := &transitKey{p: p, info: i.describe(version)}
	switch i.kind {
	case providers.AES128, providers.AES256:
		return &aeadKey{k}, nil
	case providers.HMACSHA256:
		return &macKey{k}, nil
	case providers.ECP256:
		return &signer{k, providers.ECDSAP256}, nil
	}
	return &signer{k, providers.RSAPKCS1}, nil
}

var errNotAllowed = errors.New("the configuration does not let keys be made, rotated or destroyed (create)")

// changing checks that a key may be made or changed, and returns its name in Vault.
func (p *Provider) changing(op, name string, t providers.KeyType) (string, error) {
	transit, ok := p.allowed(name)
	switch want, listed := p.config.Keys[name]; {
	case !ok:
		return "", failure(providers.Denied, op, errors.New("no key in Vault can have that name, or the configuration does not have it"))
	case !p.config.Create:
		return "", failure(providers.Denied, op, errNotAllowed)
	case t != "" && transitTypes[t] == "":
		return "", failure(providers.NotSupported, op, errors.New("no key in Vault is of that type"))
	case t != "" && listed && t != want:
		return "", failure(providers.Denied, op, errors.New("the configuration has another type for that name"))
	}
	return transit, nil
}

// post changes a key and forgets what was known of it.
func (p *Provider) post(ctx context.Context, op, name string, q request) error {
	defer p.forget(name)
	return p.call(ctx, op, q, nil)
}

func put(path, body string) request {
	return request{method: http.MethodPost, path: path, body: []byte(body)}
}
