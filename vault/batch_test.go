// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// load decrypts n times, at most so many at a time, and returns the requests that it took.
func (w *world) load(t testing.TB, p *Provider, n, concurrency int) uint64 {
	t.Helper()
	c := w.seal(t)
	k, err := p.Open(t.Context(), "entities", 0)
	if err != nil {
		t.Fatal(err)
	}
	before := p.client.requests.Load()
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	var wg sync.WaitGroup
	for range concurrency {
		wg.Go(func() {
			for range work {
				if _, err := k.(providers.Decrypter).Decrypt(t.Context(), providers.AEAD, nil, c, []byte("aad")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return p.client.requests.Load() - before
}

// TestBatching: the more there is to do at a time, the fewer requests it takes.
func TestBatching(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	w.config.Address = w.Address
	p := open(t, w.config)
	for _, c := range []struct {
		concurrency int
		most        uint64
	}{{1, 1010}, {16, 500}, {64, 250}, {256, 120}} {
		n := w.load(t, p, 1000, c.concurrency)
		t.Logf("1000 operations, %d at a time: %d requests", c.concurrency, n)
		if n > c.most {
			t.Errorf("%d at a time: %d requests for 1000 operations, want at most %d", c.concurrency, n, c.most)
		}
	}
	w.config.Window = Duration(-1)
	if n := w.load(t, open(t, w.config), 100, 10); n < 100 {
		t.Errorf("%d requests for 100 operations without batches", n)
	}
}

// TestAllGone: a request that nobody waits for any more is given up.
func TestAllGone(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	c := w.seal(t)
	w.proxy.delays(10*time.Second, "decrypt")
	began := time.Now()
	if err := w.decrypts(t, c); err == nil {
		t.Error("decrypted although Vault is slow")
	}
	w.Eventually("nothing is under way", func() bool {
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		for _, q := range w.provider.queues {
			q.mu.Lock()
			flights := q.flights
			q.mu.Unlock()
			if flights > 0 {
				return false
			}
		}
		return true
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("that took %v", took)
	}
}

func BenchmarkDecrypt(b *testing.B) {
	w := newWorld(b, vaulttest.Options{}, "")
	w.config.Address, w.config.Timeout = w.Address, 0
	for _, c := range []struct {
		name        string
		window      Duration
		concurrency int
	}{{"alone", 0, 1}, {"16", 0, 16}, {"64", 0, 64}, {"256", 0, 256}, {"64-unbatched", -1, 64}} {
		b.Run(c.name, func(b *testing.B) {
			w.config.Window = c.window
			p := open(b, w.config)
			b.ResetTimer()
			n := w.load(b, p, b.N, c.concurrency)
			b.ReportMetric(1000*float64(n)/float64(b.N), "requests/1000")
		})
	}
}

// BenchmarkMAC compares MACs in Vault with those of a wrapped key, of a message of 300 bytes, 16 at a time.
func BenchmarkMAC(b *testing.B) {
	w := newWorld(b, vaulttest.Options{}, "")
	w.config.Address, w.config.Timeout = w.Address, 0
	w.config.Wrapped = &Wrapped{Folder: b.TempDir(), Key: "entities", Names: []string{"wrapped.*"}}
	p := open(b, w.config)
	if _, err := p.Generate(b.Context(), "wrapped.mac", providers.HMACSHA256); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"mac", "wrapped.mac"} {
		k, err := p.Open(b.Context(), name, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(8) // times two processors
			b.RunParallel(func(pb *testing.PB) {
				message := make([]byte, 300)
				for pb.Next() {
					if _, err := k.(providers.MACer).MAC(b.Context(), message); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
