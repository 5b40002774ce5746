// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import "math"

// Limits bound one object, nested values included. A zero field means the default.
type Limits struct {
	Size    int // bytes; default 16 MiB
	Depth   int // objects and arrays open at once, the outermost counted; default 64
	Members int // members and array elements in all; default 16384
}

func (l Limits) orDefault() Limits {
	pick := func(v, def int) int {
		if v <= 0 {
			return def
		}
		return v
	}
	return Limits{
		Size:    min(pick(l.Size, 16<<20), math.MaxInt32), // positions are kept in 32 bits
		Depth:   pick(l.Depth, 64),
		Members: pick(l.Members, 1<<14),
	}
}

// unlimited is for values inside an object that was held to limits already.
var unlimited = Limits{Size: math.MaxInt32, Depth: math.MaxInt32, Members: math.MaxInt32}
