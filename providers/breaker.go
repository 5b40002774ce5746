// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	faultsToOpen = 5 // in a row
	firstPause   = 100 * time.Millisecond
	longestPause = time.Second // so that a device that is back is noticed soon
)

// A breaker keeps callers from waiting for a device that fails. After faults in a row it is open: calls
// fail at once. After a pause, which doubles each time and has jitter, it is half open: one call goes
// through, and closes it or opens it again. Data from a peer that does not verify is no fault.
type breaker struct {
	now func() time.Time

	mu      sync.Mutex
	faults  int
	pause   time.Duration
	until   time.Time
	probing bool
}

// enter reports whether a call may be made. If so, the caller calls leave.
func (b *breaker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults < faultsToOpen {
		return true
	}
	if b.probing || b.now().Before(b.until) {
		return false
	}
	b.probing = true
	return true
}

// ready reports whether enter would, too.
func (b *breaker) ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults < faultsToOpen || !b.probing && !b.now().Before(b.until)
}

// An outcome is what a call says of the device.
type outcome uint8

const (
	worked  outcome = iota // it did what it should, be it to refuse
	faulty                 // it failed
	unknown                // the caller gave up
)

func (b *breaker) leave(o outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o {
	case worked:
		b.faults, b.pause, b.probing = 0, 0, false
	case unknown:
		b.probing = false // the next call is the probe
	case faulty:
		b.faults++
		if b.faults < faultsToOpen || b.faults > faultsToOpen && !b.probing {
			return // not yet open, or begun before it was
		}
		b.probing = false
		b.pause = min(max(2*b.pause, firstPause), longestPause)
		b.until = b.now().Add(b.pause/2 + rand.N(b.pause/2))
	}
}
