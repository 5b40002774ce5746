// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"container/list"
	"sync"
	"time"
)

// A cache remembers what tokens say, by tokenHash, so that a provider opens each only once. It holds no
// keys.
type cache[V any] struct {
	count int
	age   time.Duration
	now   func() time.Time

	mu    sync.Mutex
	m     map[[32]byte]*list.Element
	order list.List // of cached[V], the most recently used first
}

type cached[V any] struct {
	key   [32]byte
	value V
	born  time.Time
}

func newCache[V any](count int, age time.Duration, now func() time.Time) *cache[V] {
	return &cache[V]{count: count, age: age, now: now, m: make(map[[32]byte]*list.Element)}
}

func (c *cache[V]) find(key [32]byte) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[key]
	if e == nil {
		return v, false
	}
	found := e.Value.(cached[V])
	if c.now().Sub(found.born) >= c.age {
		c.remove(e)
		return v, false
	}
	c.order.MoveToFront(e)
	return found.value, true
}

func (c *cache[V]) add(key [32]byte, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.m[key]; e != nil {
		c.remove(e)
	}
	for len(c.m) >= c.count {
		c.remove(c.order.Back())
	}
	c.m[key] = c.order.PushFront(cached[V]{key, v, c.now()})
}

func (c *cache[V]) remove(e *list.Element) {
	delete(c.m, e.Value.(cached[V]).key)
	c.order.Remove(e)
}

func (c *cache[V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.m)
	c.order.Init()
}
