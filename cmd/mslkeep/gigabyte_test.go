// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strconv"
	"testing"
	"time"
)

// TestGigabyte sends a gigabyte, which comes back, over HTTP, and less over other transports. No process may ever
// have more than 64 MiB in memory: neither of the two that speak MSL, nor their agents.
func TestGigabyte(t *testing.T) {
	const most = 64 << 20
	for _, c := range []struct {
		scheme string
		size   int64
	}{{"http", 1 << 30}, {"tcp", 64 << 20}, {"ws", 64 << 20}} {
		t.Run(c.scheme, func(t *testing.T) {
			if testing.Short() {
				c.size = min(c.size, 64<<20)
			}
			w := newWorld(t)
			s := w.serve("--listen", c.scheme+"://127.0.0.1:0")
			began := time.Now()
			p := start(t, nil, "mslkeep", w.sendArgs("device-1", s, []string{
				"--size", strconv.FormatInt(c.size, 10), "--compression", "NONE", "--timeout", "10m"})...)
			const last = 8 << 20 // more than all pipes and sockets hold: send is there until it was read
			if n, err := io.CopyN(io.Discard, p.out, c.size-last); err != nil {
				t.Fatalf("%v after %d bytes: %s", err, n, p.said)
			}
			client, err := childAgent(p.pid())
			if err != nil {
				t.Fatal(err)
			}
			for name, pid := range map[string]int{"serve": s.pid(), "its agent": s.agent, "send": p.pid(), "its agent ": client} {
				peak := peakMemory(t, pid)
				t.Logf("%s has used %d MiB at most", name, peak>>20)
				if peak == 0 || peak > most {
					t.Errorf("%s has used %d MiB, more than %d", name, peak>>20, most>>20)
				}
			}
			if n, err := io.Copy(io.Discard, p.out); n != last || err != nil {
				t.Errorf("%d bytes instead of the last %d: %v", n, last, err)
			}
			if code := p.wait(); code != 0 {
				t.Errorf("send ended with %d: %s", code, p.said)
			}
			t.Logf("%d MiB in %v", c.size>>20, time.Since(began).Round(time.Millisecond))
		})
	}
}
