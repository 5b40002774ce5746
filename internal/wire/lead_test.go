// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// socketPair is as pair, but with a socket, of which callers may read. A caller may do so for most.
func socketPair(t *testing.T, h Handler, o Options, most time.Duration, test func(t *testing.T, c *Client, agent *server)) {
	t.Helper()
	before := descriptors(t)
	near, far := conns(t)
	served := make(chan error, 1)
	agent := newServer(far, h, Options{})
	go func() { served <- agent.serve(context.Background()) }()
	c, err := NewClient(t.Context(), near, o)
	if err != nil {
		t.Fatal(err)
	}
	if c.turns.socket == nil || agent.socket == nil {
		t.Fatal("a unix socket is not read as one")
	}
	c.out.Lock()
	c.turns.most = most
	c.out.Unlock()
	test(t, c, agent)
	c.Close()
	if err := <-served; err != nil && err != net.ErrClosed {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors were open, and now %d", before, after)
	}
}

func descriptors(t *testing.T) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// until returns when c is read by who, after some calls if that is nobody.
func until(t *testing.T, c *Client, who reader) {
	t.Helper()
	for start := time.Now(); ; runtime.Gosched() {
		c.out.Lock()
		now := c.turns.reader
		c.out.Unlock()
		if now == who {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d reads, and not %d", now, who)
		}
		if who == nobody {
			if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

const forever = time.Hour

// start calls in the background.
func start(ctx context.Context, c *Client) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.Call(ctx, &KeysRequest{}, &KeysReply{}) }()
	return done
}

func TestLoss(t *testing.T) {
	for name, tt := range map[string]struct {
		most  time.Duration
		calls int
		who   reader
	}{
		"nobody reads":        {forever, 0, nobody},
		"a caller reads":      {forever, 1, leading},
		"a caller has read":   {0, 1, watching},
		"many callers":        {forever, 5, watching},
		"many of short leads": {0, 5, watching},
	} {
		t.Run(name, func(t *testing.T) {
			socketPair(t, &gate{}, Options{}, tt.most, func(t *testing.T, c *Client, agent *server) {
				until(t, c, nobody)
				var calls []<-chan error
				for range tt.calls {
					calls = append(calls, start(t.Context(), c))
				}
				until(t, c, tt.who)
				agent.close()
				for _, done := range calls {
					if err := <-done; !errors.Is(err, Transient) {
						t.Errorf("a waiting call failed with %v", err)
					}
				}
				<-c.Done()
				if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); err != ErrNotSent {
					t.Errorf("a later call failed with %v", err)
				}
			})
		})
	}
}

func TestCloseWhileLeading(t *testing.T) {
	socketPair(t, &gate{}, Options{}, forever, func(t *testing.T, c *Client, _ *server) {
		until(t, c, nobody)
		done := start(t.Context(), c)
		until(t, c, leading)
		c.Close()
		if err := <-done; !errors.Is(err, Transient) {
			t.Errorf("failed with %v", err)
		}
	})
}

func TestCancelWhileLeading(t *testing.T) {
	socketPair(t, &gate{}, Options{}, forever, func(t *testing.T, c *Client, _ *server) {
		until(t, c, nobody)
		ctx, cancel := context.WithCancel(t.Context())
		done := start(ctx, c)
		until(t, c, leading)
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("failed with %v", err)
		}
		until(t, c, nobody) // the answer to what was given up is read, too
	})
}

func TestTimeoutWhileLeading(t *testing.T) {
	socketPair(t, &gate{}, Options{Timeout: 40 * time.Millisecond}, forever, func(t *testing.T, c *Client, _ *server) {
		until(t, c, nobody)
		if err := c.Call(context.Background(), &KeysRequest{}, &KeysReply{}); !errors.Is(err, Canceled) {
			t.Errorf("failed with %v", err)
		}
		until(t, c, nobody)
	})
}

// TestHandOver has others come while a caller reads, for itself or until its time is over.
func TestHandOver(t *testing.T) {
	for _, most := range []time.Duration{forever, 0} {
		socketPair(t, &gate{}, Options{}, most, func(t *testing.T, c *Client, _ *server) {
			until(t, c, nobody)
			first := start(t.Context(), c)
			if most > 0 {
				until(t, c, leading)
			}
			for range 3 {
				if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); err != nil {
					t.Error(err)
				}
			}
			until(t, c, watching)
			if err := c.Call(t.Context(), &PublicKeyRequest{}, &PublicKeyReply{}); err != nil {
				t.Error(err)
			}
			if err := <-first; err != nil {
				t.Error(err)
			}
			until(t, c, nobody)
		})
	}
}

// TestLoads has loads come and go, with as many threads as there are, and with one.
func TestLoads(t *testing.T) {
	for _, threads := range []int{runtime.GOMAXPROCS(0), 1} {
		for _, most := range []time.Duration{leadTime, time.Microsecond, forever} {
			t.Run(fmt.Sprint(threads, most), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
				socketPair(t, echo{}, Options{}, most, func(t *testing.T, c *Client, _ *server) {
					for round := range 40 {
						callers := []int{1, 2, 1, 16}[round%4]
						var wg sync.WaitGroup
						for i := range callers {
							wg.Go(func() { load(t, c, round+i, 64/callers) })
						}
						wg.Wait()
					}
				})
			})
		}
	}
}

func load(t *testing.T, c *Client, seed, n int) {
	for i := range n {
		data := bytes.Repeat([]byte{byte(seed), byte(i)}, []int{1, 500, 7000, 600, 100, 40_000}[(seed+i)%6])
		ctx, cancel := context.WithCancel(t.Context())
		stop := (seed+i)%7 == 0
		if stop {
			go cancel()
		}
		var r OpenReply
		err := c.Call(ctx, &OpenRequest{Parts: []Part{{Data: data}}}, &r)
		cancel()
		if stop && err == context.Canceled {
			continue
		}
		if err != nil || !bytes.Equal(r.Plain[0], data) {
			t.Errorf("%v, or another's reply", err)
			return
		}
	}
}

// haltingReader has n bytes at a time, and nothing in between.
type haltingReader struct {
	b    []byte
	n    int
	halt bool
}

func (r *haltingReader) Read(b []byte) (int, error) {
	if r.halt = !r.halt; r.halt {
		return 0, errWait
	}
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.b[:min(r.n, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}

func TestFramesInPieces(t *testing.T) {
	var stream []byte
	sizes := []int{1, 20_000, 100, 16 << 10, 17_000, 60_000, 3, 15_000, 15_000, 15_000, 15_000, 15_000}
	for i, size := range sizes {
		stream = append(stream, rawFrame(uint64(i), 1, &SealServiceTokenRequest{Data: bytes.Repeat([]byte{byte(i)}, size)})...)
	}
	for _, n := range []int{1, 3, 13, 5000, 1 << 20} {
		for _, cut := range []int{0, 1, 15_000} {
			fr := newFrameReader(&haltingReader{b: stream[:len(stream)-cut], n: n}, 1<<20, nil)
			var got int
			for {
				f, err := fr.next()
				if err == errWait {
					continue
				}
				if err != nil {
					if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[cut == 0]; err != want {
						t.Errorf("in pieces of %d: ended with %v", n, err)
					}
					break
				}
				var c coder
				var m SealServiceTokenRequest
				if f.id != uint64(got) || !c.decode(f.body[deadlineSize:], &m) ||
					!bytes.Equal(m.Data, bytes.Repeat([]byte{byte(got)}, sizes[got])) {
					t.Fatalf("in pieces of %d: frame %d is another", n, got)
				}
				got++
			}
			if want := len(sizes); cut == 0 && got != want || cut > 0 && got != want-1 {
				t.Errorf("in pieces of %d: %d frames", n, got)
			}
		}
	}
}
