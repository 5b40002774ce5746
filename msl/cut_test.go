// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// A cutConn breaks off after so many bytes, which are those that its owner reads or writes. It counts both.
type cutConn struct {
	net.Conn
	reads       bool // are cut, not writes
	left        atomic.Int64
	read, wrote atomic.Int64
}

var errCut = errors.New("cut")

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	if !c.reads {
		return n, err
	}
	if left := c.left.Add(-int64(n)); left < 0 {
		c.Conn.Close()
		return max(0, n+int(left)), io.EOF
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if !c.reads {
		if left := c.left.Add(-int64(len(p))); left < 0 {
			n, _ := c.Conn.Write(p[:max(0, len(p)+int(left))])
			c.Conn.Close()
			return n, errCut
		}
	}
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// TestCutEverywhere cuts a connection at every byte of an exchange, in both directions, on a new connection and on
// one that was used before. The client hears the whole answer or an error, the server never hears a message twice that must
// not be replayed, and the next request succeeds.
func TestCutEverywhere(t *testing.T) {
	for _, name := range []string{"tcp", "tls", "ws", "http1"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			w := newWorld(t)
			w.forget = true
			var mu sync.Mutex
			heard := make(map[string]int)
			w.handler = handler(func(_ context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
				data, err := io.ReadAll(m)
				if err != nil {
					return err
				}
				mu.Lock()
				heard[string(data)]++
				mu.Unlock()
				_, err = rw.Write(data)
				return err
			})
			wire := w.newWire(name)
			client := w.wired(wire)
			w.mustSay(client, msl.Request{}, "get a token")
			// All differ from TCP by their wrapping only.
			step := map[string]int64{"tcp": 1, "tls": 97, "ws": 17, "http1": 17}[name]
			for _, reads := range []bool{true, false} {
				for _, used := range []bool{true, false} {
					cutEach(t, client, wire, reads, used, step)
				}
			}
			for text, n := range heard {
				if strings.HasPrefix(text, "once") && n > 1 {
					t.Errorf("%s was heard %d times", text, n)
				}
			}
		})
	}
}

// cutEach tries all places. With used, the connection carries a message before that.
func cutEach(t *testing.T, client *msl.Client, wire *wire, reads, used bool, step int64) {
	t.Helper()
	recovered, failed := 0, 0
	for at, length := int64(0), int64(1); at < length; at += step {
		wire.idle()
		var conn atomic.Pointer[cutConn]
		meddle := func(c net.Conn) net.Conn {
			cut := &cutConn{Conn: c, reads: reads}
			cut.left.Store(1 << 40)
			if !used {
				cut.left.Store(at)
			}
			if !conn.CompareAndSwap(nil, cut) {
				return c // of another attempt
			}
			return cut
		}
		wire.meddle.Store(&meddle)
		var before int64
		if used {
			if _, _, err := say(client, msl.Request{}, "before"); err != nil {
				t.Fatal(err)
			}
			if before = conn.Load().wrote.Load(); reads {
				before = conn.Load().read.Load()
			}
			conn.Load().left.Store(at)
		}
		r := msl.Request{NonReplayable: at/step%2 == 1}
		text := "again " + strconv.Itoa(int(at))
		if r.NonReplayable {
			text = "once " + strconv.FormatBool(reads) + strconv.FormatBool(used) + strconv.Itoa(int(at))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		got, err := sayWithin(ctx, client, r, text)
		cancel()
		switch c := conn.Load(); {
		case err != nil:
			failed++
			length = max(length, at+step+1)
		case got != text:
			t.Fatalf("cut after %d bytes (reads %v, used %v): heard %q", at, reads, used, got)
		case c.left.Load() >= 0: // it was not cut
			n := c.wrote.Load()
			if reads {
				n = c.read.Load()
			}
			length = min(length, n-before)
		default:
			recovered++
			length = max(length, at+step+1)
		}
		wire.meddle.Store(nil)
		wire.idle()
		if _, _, err := say(client, msl.Request{}, "afterwards"); err != nil {
			t.Fatalf("after a cut after %d bytes (reads %v, used %v): %v", at, reads, used, err)
		}
	}
	if _, stream := wire.transport.(*msl.StreamTransport); !used && failed == 0 || used && stream && recovered == 0 {
		t.Errorf("reads %v, used %v: %d failed, %d were repeated", reads, used, failed, recovered)
	}
}

func sayWithin(ctx context.Context, client *msl.Client, r msl.Request, text string) (string, error) {
	r.Body = strings.NewReader(text)
	answer, err := client.Do(ctx, &r)
	if err != nil {
		return "", err
	}
	defer answer.Close()
	data, err := io.ReadAll(answer)
	return string(data), err
}
