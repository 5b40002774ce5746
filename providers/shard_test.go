// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
	"github.com/mslkeep/mslkeep/providers/software"
)

// A remembering provider believes what it knows of a name until it is asked for a version that it does not know,
// or changes the key itself.
type remembering struct {
	*software.Provider
	newest sync.Map // of providers.Key, by name
}

func (r *remembering) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	if k, ok := r.newest.Load(name); ok && (version == 0 || version == k.(providers.Key).Info().Version) {
		return k.(providers.Key), nil
	}
	r.newest.Delete(name)
	if k, err := r.Provider.Open(ctx, name, 0); err == nil {
		r.newest.Store(name, k)
	}
	return r.Provider.Open(ctx, name, version)
}

func (r *remembering) Rotate(ctx context.Context, name string) (providers.KeyInfo, error) {
	defer r.newest.Delete(name)
	return r.Provider.Rotate(ctx, name)
}

func (r *remembering) Destroy(ctx context.Context, name string, version uint32) error {
	defer r.newest.Delete(name)
	return r.Provider.Destroy(ctx, name, version)
}

func processes(n int) func(*providers.Config) { return func(c *providers.Config) { c.Processes = n } }

// TestShardsConformance: several processes are one provider, although each remembers keys.
func TestShardsConformance(t *testing.T) {
	c := connect(t, settings{Remembers: true}, processes(3))
	providertest.Run(t, func(t *testing.T) providers.Provider { return c.Provider() }, providertest.Options{TooLarge: providers.MaxData + 1,
		Generates: []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.ECP256}})
}

// TestShardsNotice: what one process does to a key, all know at once.
func TestShardsNotice(t *testing.T) {
	c := connect(t, settings{Remembers: true}, processes(3))
	p := c.Provider()
	macKey(t, c, "mac")
	everywhere := func(what string, version, want uint32) {
		t.Helper()
		var opened sync.WaitGroup
		for range 24 { // at once, so that each process gets some
			opened.Go(func() {
				k, err := p.Open(t.Context(), "mac", version)
				if want == 0 && !errors.Is(err, providers.NoSuchKey) || want != 0 && (err != nil || k.Info().Version != want) {
					t.Errorf("%s: version %d is %v, %v", what, version, k, err)
				}
			})
		}
		opened.Wait()
	}
	everywhere("generated", 0, 1)
	for v := uint32(2); v < 6; v++ {
		if _, err := p.(providers.Rotator).Rotate(t.Context(), "mac"); err != nil {
			t.Fatal(err)
		}
		everywhere("rotated", 0, v)
		everywhere("rotated", 1, 1)
	}
	for v := uint32(5); v > 2; v-- {
		if err := p.(providers.Destroyer).Destroy(t.Context(), "mac", v); err != nil {
			t.Fatal(err)
		}
		everywhere("destroyed", v, 0)
		everywhere("destroyed", 0, v-1)
	}
}

// A load uses a key all the time, several times at once.
type load struct {
	good, bad atomic.Int64
	stop      context.CancelFunc
	workers   sync.WaitGroup
}

const loadWorkers = 8

func (l *load) start(t *testing.T, k providers.MACer) {
	want, err := k.MAC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = func() { stop(); l.workers.Wait() }
	t.Cleanup(l.stop)
	for range loadWorkers {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				switch got, err := k.MAC(t.Context(), nil); {
				case err == nil && string(got) == string(want):
					l.good.Add(1)
				case errors.Is(err, providers.Transient):
					l.bad.Add(1)
				default:
					t.Errorf("under load: %x, %v", got, err)
					return
				}
			}
		})
	}
}

// progress waits until so many more uses of the key succeeded.
func (l *load) progress(t *testing.T, n int64) {
	t.Helper()
	waitFor(t, "uses that succeed", func() bool { return l.good.Load() >= n })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// TestShardKilled: a process that is killed takes only what it was doing.
func TestShardKilled(t *testing.T) {
	c := connect(t, settings{}, processes(3))
	var l load
	l.start(t, macKey(t, c, "mac"))
	for i := range 3 {
		l.progress(t, l.good.Load()+100)
		before := l.bad.Load()
		pid := c.PIDs()[i]
		if pid == 0 {
			t.Fatal("a process is missing")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.progress(t, l.good.Load()+100)
		waitFor(t, "a process in place of the one that was killed", func() bool { now := c.PIDs()[i]; return now != 0 && now != pid })
		l.progress(t, l.good.Load()+100)
		if lost := l.bad.Load() - before; lost > loadWorkers {
			t.Errorf("%d uses failed when one of three processes was killed, and %d were under way", lost, loadWorkers)
		}
	}
}

// TestShardHung: a process that hangs takes only what it was asked before that was known, and is killed.
func TestShardHung(t *testing.T) {
	c := connect(t, settings{}, func(c *providers.Config) { c.Processes, c.Timeout = 3, 2*time.Second })
	var l load
	l.start(t, macKey(t, c, "mac"))
	l.progress(t, 100)
	pid := c.PIDs()[0]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the process that hung is killed and replaced", func() bool { now := c.PIDs()[0]; return now != 0 && now != pid })
	l.progress(t, l.good.Load()+100)
	if lost := l.bad.Load(); lost > loadWorkers {
		t.Errorf("%d uses failed when one of three processes hung", lost)
	}
	if slices.Contains(c.PIDs()[1:], 0) {
		t.Error("another process has ended, too")
	}
}

func TestShardsHealth(t *testing.T) {
	c := connect(t, settings{}, processes(2))
	p := c.Provider().(providers.HealthChecker)
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(c.PIDs()[1], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the process has stopped", func() bool { return stopped(c.PIDs()[1]) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Health(ctx); !errors.Is(err, providers.Transient) {
		t.Errorf("with one of two processes stopped: %v", err)
	}
	if err := syscall.Kill(c.PIDs()[1], syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := providers.Connect(t.Context(), providers.Config{Processes: providers.MaxProcesses + 1}); err == nil {
		t.Error("too many processes")
	}
}
