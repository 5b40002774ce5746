// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package lzw

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// A dictionary finds the code of a known code and one more byte. It is a hash table with linear
// probing, at most half full. The hash is multiplication by a secret number: what is compressed may
// come from a peer, who must not be able to choose data whose entries collide.
type dictionary struct {
	keys   []uint64 // of code literals+i: the known code and the byte
	slots  []uint32 // a power of two of them; 0 if empty, else 1 + the index of a key
	factor uint64
	shift  int // leaves the bits of the hash that number a slot
}

func newDictionary(inputLen int) *dictionary {
	var seed [8]byte
	rand.Read(seed[:])
	d := &dictionary{factor: binary.LittleEndian.Uint64(seed[:]) | 1}
	d.resize(bits.Len(uint(min(max(inputLen, 32), 4096))))
	return d
}

func (d *dictionary) resize(log int) {
	d.slots = make([]uint32, 1<<log)
	d.shift = 64 - log
	for i, key := range d.keys {
		*d.slot(key) = uint32(i + 1)
	}
}

// slot returns the slot that has the key, or the empty one where it belongs.
func (d *dictionary) slot(key uint64) *uint32 {
	i := int(key * d.factor >> d.shift)
	for d.slots[i] != 0 && d.keys[d.slots[i]-1] != key {
		i = (i + 1) & (len(d.slots) - 1)
	}
	return &d.slots[i]
}

// code returns the code of prefix and next. If there is none, it enters the next free code.
func (d *dictionary) code(prefix uint64, next byte) (code uint64, known bool) {
	key := prefix<<8 | uint64(next)
	s := d.slot(key)
	if *s != 0 {
		return uint64(literals + *s - 1), true
	}
	d.keys = append(d.keys, key)
	*s = uint32(len(d.keys))
	if len(d.keys) > len(d.slots)/2 {
		d.resize(bits.Len(uint(len(d.slots))))
	}
	return 0, false
}
