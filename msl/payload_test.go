// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"context"
	"testing"
)

// reusing overwrites what it is given back.
type reusing struct{ CryptoContext }

func (reusing) Recycle(part []byte) {
	part = part[:cap(part)]
	for i := range part {
		part[i] = 0xdb
	}
}

// TestDataOutlivesItsMemory: the data of a payload is the caller's, however much memory its encoding had.
func TestDataOutlivesItsMemory(t *testing.T) {
	for _, size := range []int{1, 1000, smallPayload / 2, smallPayload, 4 * smallPayload} {
		for _, room := range []int{0, 1, smallPayload, 64 << 10} {
			data := bytes.Repeat([]byte{7}, size)
			p := payload{Sequence: 1, MessageID: 5, End: true, Data: data}
			encoded := p.append(nil)
			plain := append(make([]byte, 0, len(encoded)+room), encoded...)
			m := &Message{ID: 5, next: 1, payloads: reusing{}, plain: [][]byte{plain}, limits: (&Config{}).limits()}
			got, err := m.NextChunk(context.Background())
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes with room for %d more: %d bytes, %v", size, room, len(got), err)
			}
		}
	}
}
