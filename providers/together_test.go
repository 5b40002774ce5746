// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// TestTogether: batches that go together in one call have their own results each, whatever becomes of the others.
func TestTogether(t *testing.T) {
	c := connect(t, settings{}, nil)
	p, k := c.Provider(), macKey(t, c, "mac", "odd/panic")
	want, err := k.MAC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for i := range 64 {
		message := fmt.Appendf(nil, "message %d", i)
		sum, err := k.MAC(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		batch := func(mac []byte) []providers.Operation {
			return []providers.Operation{{Key: "mac", Op: providers.OpVerifyMAC, Input: message, MAC: mac}, {Key: "mac", Op: providers.OpMAC, Input: message}}
		}
		workers.Go(func() {
			for n := range 50 {
				ctx := t.Context()
				switch (i + n) % 4 {
				case 0: // a bad one, which stops
					r := providers.Do(ctx, p, batch(make([]byte, 32)), true)
					if len(r) != 1 || !errors.Is(r[0].Err, providers.VerificationFailed) {
						t.Errorf("a bad MAC among others: %v", r)
					}
				case 1: // one that goes on
					r := providers.Do(ctx, p, batch(make([]byte, 32)), false)
					if len(r) != 2 || !errors.Is(r[0].Err, providers.VerificationFailed) || !bytes.Equal(r[1].Output, sum) {
						t.Errorf("a bad MAC among others, which goes on: %v", r)
					}
				case 2: // a caller that gives up
					brief, cancel := context.WithTimeout(ctx, time.Duration(n)*10*time.Microsecond)
					r := providers.Do(brief, p, batch(sum), true)
					cancel()
					if good := len(r) == 2 && r[1].Err == nil; !good && (len(r) != 1 || !errors.Is(r[0].Err, providers.Transient)) {
						t.Errorf("a caller that gave up: %v", r)
					}
				default:
					r := providers.Do(ctx, p, batch(sum), true)
					if len(r) != 2 || r[0].Err != nil || !bytes.Equal(r[1].Output, sum) {
						t.Errorf("a good MAC among others: %v", r)
					}
				}
			}
		})
	}
	workers.Wait()
	for i := range 40 { // the provider panics at one, which harms no other
		workers.Go(func() {
			if i == 20 {
				if r := providers.Do(t.Context(), p, []providers.Operation{{Key: "odd/panic", Op: providers.OpMAC}}, true); len(r) != 1 || !errors.Is(r[0].Err, providers.Device) {
					t.Errorf("a panic: %v", r)
				}
			} else if got, err := k.MAC(t.Context(), nil); err != nil || !bytes.Equal(got, want) {
				t.Errorf("beside a panic: %x, %v", got, err)
			}
		})
	}
	workers.Wait()
}

// sums makes a number of messages, and their MACs.
func sums(t *testing.T, k providers.MACer, n int) (messages, macs [][]byte) {
	t.Helper()
	for i := range n {
		messages = append(messages, fmt.Appendf(nil, "message %d", i))
		mac, err := k.MAC(t.Context(), messages[i])
		if err != nil {
			t.Fatal(err)
		}
		macs = append(macs, mac)
	}
	return messages, macs
}

// TestTogetherSlow: on a device that is slow, everybody is served whether he comes alone or with others, and nobody waits
// for long.
func TestTogetherSlow(t *testing.T) {
	c := connect(t, settings{}, nil)
	slow := macKey(t, c, "odd/slow")
	messages, macs := sums(t, macKey(t, c, "slow"), 300)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // less than a lost one would wait
	defer cancel()
	for range 3 {
		var callers sync.WaitGroup
		for i := range messages {
			callers.Go(func() {
				if got, err := slow.MAC(ctx, messages[i]); err != nil || !bytes.Equal(got, macs[i]) {
					t.Errorf("caller %d of a slow device: %x, %v", i, got, err)
				}
			})
		}
		callers.Wait()
	}
	for i := range 20 { // one after the other
		if got, err := slow.MAC(ctx, messages[i]); err != nil || !bytes.Equal(got, macs[i]) {
			t.Errorf("a lonely caller of a slow device: %x, %v", got, err)
		}
	}
}

// TestGivenUpMemory: when callers have given up, their memory is their own again, although what they wanted is sent once
// there is a process.
func TestGivenUpMemory(t *testing.T) {
	dir := t.TempDir()
	c := connect(t, settings{Dir: dir}, nil)
	k := macKey(t, c, "odd/noting")
	for end := time.Now().Add(30 * time.Second); missing(filepath.Join(dir, "notes")); { // a start may take longer than they are kept
		if time.Now().After(end) {
			t.Fatal("nothing of it was ever sent")
		}
		pid := c.PID()
		sendSignal(t, c, syscall.SIGKILL)
		waitFor(t, "the process has ended", func() bool { return c.PID() != pid })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				message := []byte("message")
				_, err := k.MAC(ctx, message)
				clear(message)
				if err != nil && !errors.Is(err, providers.Transient) {
					t.Errorf("a caller that may have given up: %v", err)
				}
			})
		}
		callers.Wait()
		cancel()
		waitFor(t, "another process", func() bool { return c.PID() != 0 })
		if _, err := c.Provider().Keys(t.Context()); err != nil { // after what was sent before
			t.Error(err)
		}
	}
	notes, err := os.ReadFile(filepath.Join(dir, "notes"))
	if err != nil || strings.Trim(string(notes), "mesag\n") != "" {
		t.Errorf("%q was sent, %v", notes, err)
	}
}

// TestHungAlone: what hangs a provider takes others along once; then it is asked alone for a while.
func TestHungAlone(t *testing.T) {
	c := connect(t, settings{}, func(c *providers.Config) { c.Timeout = 2 * time.Second })
	k, hanging := macKey(t, c, "mac"), macKey(t, c, "odd/hang")
	messages, macs := sums(t, k, 40)
	if _, err := hanging.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
		t.Fatalf("a hung provider: %v", err)
	}
	eventually(t, k)
	var callers sync.WaitGroup
	for i := range messages {
		callers.Go(func() {
			if i == 20 {
				if _, err := hanging.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
					t.Errorf("a provider that hangs again: %v", err)
				}
			} else if got, err := k.MAC(t.Context(), messages[i]); err != nil || !bytes.Equal(got, macs[i]) {
				t.Errorf("beside a use that hangs again: %x, %v", got, err)
			}
		})
	}
	callers.Wait()
}

// TestClosedUnderLoad: when a provider is closed in the middle, all who wait for it get an error soon, and nothing is left.
func TestClosedUnderLoad(t *testing.T) {
	before := runtime.NumGoroutine()
	c := connect(t, settings{}, nil)
	slow := macKey(t, c, "odd/slow")
	var callers sync.WaitGroup
	for range 300 {
		callers.Go(func() {
			for {
				if _, err := slow.MAC(t.Context(), nil); err != nil {
					if !errors.Is(err, providers.Transient) {
						t.Errorf("closed: %v", err)
					}
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // so that many wait
	c.Close()
	callers.Wait() // or the test never ends
	waitFor(t, "nothing is left of it", func() bool { return runtime.NumGoroutine() <= before })
}
