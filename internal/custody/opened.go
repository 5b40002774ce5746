// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"sync"
	"time"
)

const (
	openedMinutes  = 60 // how long ago is lately
	openedVersions = 4 * maxVersions
)

// An openings counts the master tokens that each version of the token keys has opened lately, so that an operator
// sees whether an old version is still in use. A token counts when a provider opens it, not again while its
// session is open.
type openings struct {
	mu       sync.Mutex
	versions map[uint32]*[openedMinutes]openedMinute
}

// An openedMinute is the count of one minute.
type openedMinute struct {
	minute int64 // since 1970
	count  uint64
}

func (o *openings) add(version uint32, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.versions[version]
	if of == nil {
		if o.versions == nil {
			o.versions = make(map[uint32]*[openedMinutes]openedMinute)
		}
		if len(o.versions) >= openedVersions {
			o.dropOldest()
		}
		of = new([openedMinutes]openedMinute)
		o.versions[version] = of
	}
	minute := now.Unix() / 60
	m := &of[uint64(minute)%openedMinutes]
	if m.minute != minute {
		*m = openedMinute{minute: minute}
	}
	m.count++
}

func (o *openings) dropOldest() {
	oldest := ^uint32(0)
	for version := range o.versions {
		oldest = min(oldest, version)
	}
	delete(o.versions, oldest)
}

// of returns how many it were in this minute and the 59 before it.
func (o *openings) of(version uint32, now time.Time) (n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.versions[version]
	if of == nil {
		return 0
	}
	minute := now.Unix() / 60
	for _, m := range of {
		if m.minute <= minute && minute-m.minute < openedMinutes {
			n += m.count
		}
	}
	return n
}
