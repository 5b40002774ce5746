// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"container/list"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
)

// A wiper is what a handle names.
type wiper interface{ wipe() }

// A table holds what the handles of one connection name, within limits. What is in use is not wiped:
// eviction takes an entry out of the table at once, and the last user wipes it.
type table[T wiper] struct {
	limits Limits
	count  int // at most so many at once
	now    func() time.Time
	open   *atomic.Int64 // of all connections

	mu     sync.Mutex
	m      map[wire.Handle]*entry[T]
	byKey  map[[32]byte]*entry[T]
	order  list.List // of *entry, the most recently used first
	closed bool
}

// An entry is one thing in a table. Its fields but value belong to the table's lock.
type entry[T wiper] struct {
	value  T
	handle wire.Handle
	key    *[32]byte // in byKey, or nil

	born, last  time.Time
	uses, bytes uint64
	refs        int
	gone        bool // out of the table, to be wiped when refs is 0
	elem        *list.Element
}

func newTable[T wiper](limits Limits, count int, now func() time.Time, open *atomic.Int64) *table[T] {
	return &table[T]{limits: limits, count: count, now: now, open: open,
		m: make(map[wire.Handle]*entry[T]), byKey: make(map[[32]byte]*entry[T])}
}

// add puts value into the table, which owns it from then on, and returns it in use: the caller releases
// it. A key, if not nil, is another way to find it; a value that had the same key is evicted.
func (t *table[T]) add(value T, key *[32]byte) (*entry[T], error) {
	var h wire.Handle
	rand.Read(h[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		value.wipe()
		return nil, wire.StaleHandle
	}
	if key != nil {
		if old := t.byKey[*key]; old != nil {
			t.evict(old)
		}
	}
	t.expire()
	for len(t.m) >= t.count {
		t.evict(t.order.Back().Value.(*entry[T]))
	}
	now := t.now()
	e := &entry[T]{value: value, handle: h, key: key, born: now, last: now, refs: 1}
	e.elem = t.order.PushFront(e)
	t.m[h] = e
	if key != nil {
		t.byKey[*key] = e
	}
	t.open.Add(1)
	return e, nil
}

// acquire returns what a handle names, in use, or nil.
func (t *table[T]) acquire(h wire.Handle) *entry[T] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.use(t.m[h])
}

// find is acquire by key.
func (t *table[T]) find(key [32]byte) *entry[T] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.use(t.byKey[key])
}

// has reports whether find would find something, and names whether acquire would.
func (t *table[T]) has(key [32]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[key] != nil
}

func (t *table[T]) names(h wire.Handle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[h] != nil
}

func (t *table[T]) use(e *entry[T]) *entry[T] {
	if e == nil {
		return nil
	}
	now := t.now()
	if t.expired(e, now) {
		t.evict(e)
		return nil
	}
	e.last = now
	e.refs++
	t.order.MoveToFront(e.elem)
	return e
}

// release ends a use, of so many parts with so many bytes.
func (t *table[T]) release(e *entry[T], parts int, bytes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.refs--
	e.uses += uint64(parts)
	e.bytes += bytes
	if !e.gone && (e.uses >= t.limits.Uses || e.bytes >= t.limits.Bytes) {
		t.evict(e)
	} else if e.gone && e.refs == 0 {
		e.value.wipe()
	}
}

// drop evicts what a handle names, if anything.
func (t *table[T]) drop(h wire.Handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[h]; e != nil {
		t.evict(e)
	}
}

// sweep evicts what has been there, or been idle, for too long.
func (t *table[T]) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, e := range t.m {
		if t.expired(e, now) {
			t.evict(e)
		}
	}
}

// close evicts everything, and whatever is added later.
func (t *table[T]) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, e := range t.m {
		t.evict(e)
	}
}

// expire evicts what has been idle for too long, from the end of the order.
func (t *table[T]) expire() {
	now := t.now()
	for back := t.order.Back(); back != nil; back = t.order.Back() {
		e := back.Value.(*entry[T])
		if !t.expired(e, now) {
			return
		}
		t.evict(e)
	}
}

func (t *table[T]) expired(e *entry[T], now time.Time) bool {
	return now.Sub(e.born) >= t.limits.Age || now.Sub(e.last) >= t.limits.Idle
}

func (t *table[T]) evict(e *entry[T]) {
	delete(t.m, e.handle)
	if e.key != nil && t.byKey[*e.key] == e {
		delete(t.byKey, *e.key)
	}
	t.order.Remove(e.elem)
	t.open.Add(-1)
	e.gone = true
	if e.refs == 0 {
		e.value.wipe()
	}
}
