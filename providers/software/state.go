// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"errors"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var errClosed = errors.New("the key file was closed")

// read reads and decrypts the file as it is now. The caller wipes the records, or installs them.
func (p *Provider) read(ctx context.Context) ([]record, stamp, error) {
	op := "reading the key file " + p.path
	if err := ctx.Err(); err != nil {
		return nil, stamp{}, failure(providers.Transient, op, err)
	}
	b, st, err := readFile(p.path)
	if err != nil {
		return nil, st, err
	}
	f, err := parseFile(b)
	if err != nil {
		return nil, st, failure(providers.Corrupt, op, err)
	}
	if !f.sameSecret(p.header) {
		return nil, st, failure(providers.Locked, op, errors.New("it was replaced by one with another passphrase; restart to open that"))
	}
	if p.kek.Len() == 0 {
		return nil, st, failure(providers.Locked, op, errClosed)
	}
	rs, err := f.open(p.kek)
	if err != nil {
		return nil, st, failure(providers.Corrupt, op, err)
	}
	return rs, st, nil
}

// refresh reads the file again if it has changed.
func (p *Provider) refresh(ctx context.Context) error {
	p.mu.RLock()
	same, closed := p.stamp == stampAt(p.path), p.closed
	p.mu.RUnlock()
	if closed {
		return failure(providers.Locked, "reading the key file "+p.path, errClosed)
	}
	if same {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.stamp == stampAt(p.path) { // another goroutine was here first
		return nil
	}
	rs, st, err := p.read(ctx)
	if err != nil {
		return err
	}
	return p.installed(p.install(rs, st))
}

// update changes the file: under the lock it reads what is there now, lets change make the new list,
// writes it, and takes it over. change may wipe records that it takes out.
func (p *Provider) update(ctx context.Context, change func([]record) ([]record, error)) error {
	return p.updated(ctx, change, func() {})
}

// updated is update with what undoes change's effects on p when the file could not be written.
func (p *Provider) updated(ctx context.Context, change func([]record) ([]record, error), undo func()) error {
	unlock, err := lock(ctx, p.path)
	if err != nil {
		return err
	}
	defer unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return failure(providers.Locked, "writing the key file "+p.path, errClosed)
	}
	old, _, err := p.read(ctx)
	if err != nil {
		return err
	}
	changed, err := change(old)
	if err == nil {
		if err = p.write(changed); err != nil {
			undo()
		}
	}
	if err != nil {
		wipeRecords(old)
		return err
	}
	return p.installed(p.install(changed, p.stamp))
}

// installed gives the error of install its code.
func (p *Provider) installed(err error) error {
	if err != nil {
		return failure(providers.Corrupt, "reading the key file "+p.path, err)
	}
	return nil
}

// write replaces the file.
func (p *Provider) write(rs []record) error {
	b, err := sealFile(p.header, p.kek, rs)
	if err != nil {
		return failure(providers.Device, "writing the key file "+p.path, err)
	}
	p.stamp, err = writeFile(p.path, b)
	return err
}

// install takes over the records: those that are in memory already keep their key objects, new ones get
// theirs, and what is gone is wiped. It does nothing if a record makes no key.
func (p *Provider) install(rs []record, st stamp) error {
	keys := make(map[string][]*entry)
	kept := make(map[*entry]bool)
	for _, r := range rs {
		e := p.known(r)
		if e == nil {
			e = &entry{record: r}
			if r.bytes.Len() > 0 {
				k, err := newKey(r)
				if err != nil {
					wipeRecords(rs)
					return err
				}
				e.key = k
				p.logKey(r)
			}
		} else {
			kept[e] = true
			r.bytes.Wipe()
		}
		keys[r.info.Name] = append(keys[r.info.Name], e)
	}
	for _, versions := range p.keys {
		for _, e := range versions {
			if !kept[e] {
				e.wipe()
			}
		}
	}
	p.keys, p.stamp = keys, st
	return nil
}

// known returns the entry in memory that holds the same as r, or nil.
func (p *Provider) known(r record) *entry {
	for _, e := range p.keys[r.info.Name] {
		if e.info == r.info && e.bytes.Equal(r.bytes) {
			return e
		}
	}
	return nil
}

// wipe wipes the key, once nobody is using it.
func (e *entry) wipe() {
	if w, ok := e.key.(interface{ wipe() }); ok {
		w.wipe()
	}
}

// logKey writes a key to the key log, and the numbers that make it up if it is a key pair.
func (p *Provider) logKey(r record) {
	if p.log == nil {
		return
	}
	label := "software:" + r.info.Name + ":" + strconv.FormatUint(uint64(r.info.Version), 10)
	p.log.Add(label, r.bytes)
	for part, b := range privateNumbers(r) {
		s := secret.Take(b)
		p.log.Add(label+":"+part, s)
		s.Wipe()
	}
}
