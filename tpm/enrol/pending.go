// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"crypto"
	"sync"
	"time"
)

// Limits of what waits for an answer.
const (
	maxPending   = 1000
	maxPerDevice = 4 // of one endorsement key
	lifetime     = 2 * time.Minute
)

// An idSize is how many random bytes name a challenge.
const idSize = 16

// A pending is a challenge that was given.
type pending struct {
	id          [idSize]byte
	ends        time.Time
	identity    string
	endorsement Fingerprint
	key         crypto.PublicKey
	secret      []byte
	transcript  []byte
}

// A waiting holds the challenges that were given, each of them once, for a while.
type waiting struct {
	mu   sync.Mutex
	list []*pending // the oldest first
}

// add adds a challenge. Where there are too many, the oldest of that device, or of all, makes room: who floods a server with
// public areas of others cannot keep it busy for two minutes, and keeps out only whom it outruns.
func (w *waiting) add(p *pending, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept, same := w.list[:0], 0
	for _, old := range w.list {
		if now.Before(old.ends) {
			kept = append(kept, old)
			if old.endorsement == p.endorsement {
				same++
			}
		}
	}
	clear(w.list[len(kept):])
	w.list = kept
	if same >= maxPerDevice {
		w.drop(func(old *pending) bool { return old.endorsement == p.endorsement })
	}
	if len(w.list) >= maxPending {
		w.drop(func(*pending) bool { return true })
	}
	w.list = append(w.list, p)
}

// drop removes the first that matches, and returns it.
func (w *waiting) drop(match func(*pending) bool) *pending {
	for i, p := range w.list {
		if match(p) {
			copy(w.list[i:], w.list[i+1:])
			w.list[len(w.list)-1] = nil
			w.list = w.list[:len(w.list)-1]
			return p
		}
	}
	return nil
}

// take removes a challenge and returns it, or nil if there is none that is good now.
func (w *waiting) take(id []byte, now time.Time) *pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.drop(func(p *pending) bool { return string(p.id[:]) == string(id) })
	if p == nil || !now.Before(p.ends) {
		return nil
	}
	return p
}
