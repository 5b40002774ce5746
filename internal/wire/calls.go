// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

// A callTable holds the requests that wait for an answer, by id. An id names a slot, in its lower half, and which
// of its tenants: an answer that comes twice finds nobody.
type callTable struct {
	slots  []pending
	vacant []uint32
	last   uint32 // tenant
}

func (t *callTable) len() int { return len(t.slots) - len(t.vacant) }

// add gives p an id, which is never 0.
func (t *callTable) add(p pending) uint64 {
	var i uint32
	if n := len(t.vacant); n > 0 {
		i, t.vacant = t.vacant[n-1], t.vacant[:n-1]
	} else {
		i = uint32(len(t.slots))
		t.slots = append(t.slots, pending{})
	}
	if t.last++; t.last == 0 {
		t.last = 1
	}
	p.id = uint64(t.last)<<32 | uint64(i)
	t.slots[i] = p
	return p.id
}

// find returns the request with that id, or nil. It is valid until the next add or remove.
func (t *callTable) find(id uint64) *pending {
	if i := uint32(id); id != 0 && int(i) < len(t.slots) && t.slots[i].id == id {
		return &t.slots[i]
	}
	return nil
}

// remove forgets a request that find has found.
func (t *callTable) remove(p *pending) {
	i := uint32(p.id)
	*p = pending{}
	t.vacant = append(t.vacant, i)
}
