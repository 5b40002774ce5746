// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// reusing echoes, and spoils what it has answered as soon as it may.
type reusing struct {
	echo
	answered, reused atomic.Int64
}

func (r *reusing) Handle(ctx context.Context, req Request) (Reply, error) {
	open, ok := req.(*OpenRequest)
	if !ok {
		return &HealthReply{}, nil
	}
	r.answered.Add(1)
	return &OpenReply{Plain: [][]byte{bytes.Clone(open.Parts[0].Data)}, FailedPart: -1}, nil
}

func (r *reusing) Reuse(reply Reply) {
	clear(reply.(*OpenReply).Plain[0])
	r.reused.Add(1)
}

// TestLargeFields has large fields written in pieces, by both sides, while their memory is about to be
// used for something else.
func TestLargeFields(t *testing.T) {
	h := new(reusing)
	socketPair(t, h, Options{}, leadTime, func(t *testing.T, c *Client, agent *server) {
		for _, s := range []*socket{c.turns.socket, agent.socket} {
			s.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10) })
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				data := make([]byte, 200_000)
				for n := range 30 {
					size := []int{200_000, 20_000, 90_000}[n%3]
					for j := range data {
						data[j] = byte(i + n + j>>8)
					}
					want := bytes.Clone(data[:size])
					ctx, cancel := context.WithCancel(t.Context())
					if n%10 == 7 {
						go cancel()
					}
					var r OpenReply
					err := c.Call(ctx, &OpenRequest{Parts: []Part{{Data: data[:size]}}}, &r)
					cancel()
					if err == context.Canceled && n%10 == 7 {
						continue
					}
					if err != nil || !bytes.Equal(r.Plain[0], want) {
						t.Errorf("%v, or another's reply", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	if n, of := h.reused.Load(), h.answered.Load(); n == 0 || n > of {
		t.Errorf("the memory of %d of %d replies was used again", n, of)
	}
}

// TestCallersMemory: a field of a reply in the memory of the caller has no more capacity than the reply, so that Recycle
// leaves it alone.
func TestCallersMemory(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 1000)
	h := handlerFunc(func(context.Context, Request) (Reply, error) {
		return &SealReply{Parts: []Part{{Data: data, Signature: data}}}, nil
	})
	pair(t, h, Options{}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		buf := make([]byte, 0, 4*largeFrame)
		var r SealReply
		if err := c.CallInto(t.Context(), buf, &SealRequest{Plain: [][]byte{data}}, &r); err != nil || len(r.Parts) != 1 {
			t.Fatalf("%d parts, %v", len(r.Parts), err)
		}
		inside := false
		for _, field := range [][]byte{r.Parts[0].Data, r.Parts[0].Signature} {
			inside = inside || bytes.Contains(buf[:4*len(data)], field)
			if !bytes.Equal(field, data) || cap(field) >= largeFrame {
				t.Errorf("a field of %d bytes has room for %d", len(field), cap(field))
			}
		}
		if !inside {
			t.Error("the caller's memory was not used")
		}
	})
}
