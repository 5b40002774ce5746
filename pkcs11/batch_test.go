// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// TestBatches: of batches together, each has the results that it would have alone, on tokens that are quick and slow.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		name     string
		sessions int
		pace     time.Duration
	}{{"Quick", 8, 1}, {"Slow", 8, time.Hour}, {"OneSession", 1, 1}, {"SlowOneSession", 1, time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHSM(t)
			config := h.config()
			config.Sessions = c.sessions
			p := h.open(t, config)
			p.pace.Store(int64(c.pace))
			k := made[*macKey](t, p, "mac", providers.HMACSHA256)
			batches, check := mixed(t, k)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 8 {
						check(p.DoMany(t.Context(), batches))
						p.index.mu.Lock()
						p.index.names = nil // so that some look for the keys while others have the sessions
						p.index.mu.Unlock()
					}
				})
			}
			all.Wait()
		})
	}
}

// mixed makes batches that succeed, stop, go on, and fail, and what checks their results.
func mixed(t *testing.T, k *macKey) ([]providers.Batch, func([][]providers.Result)) {
	var batches []providers.Batch
	var sums [][]byte
	for i := range 12 {
		message := fmt.Appendf(nil, "message %d", i)
		sum, err := k.MAC(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
		mac := sum
		if i%4 == 1 || i%4 == 2 {
			mac = make([]byte, macSize)
		}
		name := "mac"
		if i%4 == 3 {
			name = "none"
		}
		batches = append(batches, providers.Batch{Stop: i%4 != 2, Ops: []providers.Operation{
			{Op: providers.OpVerifyMAC, Key: name, Input: message, MAC: mac}, {Op: providers.OpMAC, Key: name, Input: message}}})
	}
	return batches, func(results [][]providers.Result) {
		if len(results) != len(batches) {
			t.Errorf("%d results of %d batches", len(results), len(batches))
			return
		}
		for i, r := range results {
			good := false
			switch i % 4 {
			case 0:
				good = len(r) == 2 && r[0].Err == nil && r[1].Err == nil && bytes.Equal(r[1].Output, sums[i])
			case 1:
				good = len(r) == 1 && errors.Is(r[0].Err, providers.VerificationFailed)
			case 2:
				good = len(r) == 2 && errors.Is(r[0].Err, providers.VerificationFailed) && bytes.Equal(r[1].Output, sums[i])
			case 3:
				good = len(r) == 1 && errors.Is(r[0].Err, providers.NoSuchKey)
			}
			if !good {
				t.Errorf("batch %d: %v", i, r)
			}
		}
	}
}

// TestBatchesLost: whatever call of batches fails once, and with whatever error that something else can heal, all of
// them are done.
func TestBatchesLost(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	k := made[*macKey](t, p, "mac", providers.HMACSHA256)
	batches, check := mixed(t, k)
	for _, code := range []p11.Error{p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_REMOVED} {
		for n := range 30 {
			var calls atomic.Int32
			p.fail(func(call string) error {
				switch call {
				case "C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify":
					if int(calls.Add(1)) == n+1 {
						return code
					}
				}
				return nil
			})
			check(p.DoMany(t.Context(), batches))
			p.fail(nil)
			if t.Failed() {
				t.Fatalf("call %d failed with %v", n, code)
			}
		}
	}
}

// TestBatchesGivenUp: who gives up gets errors at once, of each operation that was to be done.
func TestBatchesGivenUp(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	k := made[*macKey](t, p, "mac", providers.HMACSHA256)
	batches, check := mixed(t, k)
	for _, pace := range []time.Duration{1, time.Hour} {
		p.pace.Store(int64(pace))
		ctx, cancel := context.WithCancel(t.Context())
		held := make(chan struct{})
		p.fail(func(string) error {
			cancel()
			<-held
			return nil
		})
		for i, r := range p.DoMany(ctx, batches) {
			want := len(batches[i].Ops)
			if batches[i].Stop {
				want = 1
			}
			if len(r) != want || !errors.Is(r[0].Err, providers.Transient) && !errors.Is(r[0].Err, providers.NoSuchKey) {
				t.Errorf("batch %d: %v", i, r)
			}
		}
		p.fail(nil)
		close(held)
		check(p.DoMany(t.Context(), batches))
	}
}

// TestBatchesBesideHung: while one call of the module hangs, other batches are done, with the other sessions.
func TestBatchesBesideHung(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	k := made[*macKey](t, p, "mac", providers.HMACSHA256)
	batches, check := mixed(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	hung, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	p.fail(func(call string) error {
		if call == "C_Verify" && calls.Add(1) == 1 {
			close(hung)
			<-release
		}
		return nil
	})
	var first sync.WaitGroup
	first.Go(func() { check(p.DoMany(t.Context(), batches)) })
	<-hung
	for range 5 {
		check(p.DoMany(ctx, batches))
	}
	close(release)
	first.Wait()
	check(p.DoMany(ctx, batches))
}

// TestBatchesGivenUpMemory: what is still done for somebody who has given up reads nothing of his. The race detector
// sees it.
func TestBatchesGivenUpMemory(t *testing.T) {
	h := newHSM(t)
	p := h.open(t, h.config())
	k := made[*macKey](t, p, "mac", providers.HMACSHA256)
	batches, check := mixed(t, k)
	for _, pace := range []time.Duration{1, time.Hour} {
		p.pace.Store(int64(pace))
		ctx, cancel := context.WithCancel(t.Context())
		p.fail(func(call string) error {
			if call == "C_VerifyInit" {
				cancel()
				time.Sleep(20 * time.Millisecond) // the caller returns meanwhile
			}
			return nil
		})
		given := slices.Clone(batches)
		for i := range given {
			given[i].Ops = slices.Clone(given[i].Ops)
		}
		p.DoMany(ctx, given)
		for i := range given {
			for j := range given[i].Ops {
				given[i].Ops[j].Input = nil // the race detector does not see clear
			}
		}
		for p.pace.Load() == int64(pace) { // until it is over, without a word to who does it
			time.Sleep(time.Millisecond)
		}
		p.fail(nil)
		check(p.DoMany(t.Context(), batches))
	}
}

// TestBatchesClosed: who is in the middle of batches when the provider is closed, or comes later, gets errors that may be
// tried again.
func TestBatchesClosed(t *testing.T) {
	for _, sessions := range []int{1, 8} {
		h := newHSM(t)
		config := h.config()
		config.Sessions = sessions
		p, err := Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		made[*macKey](t, p, "mac", providers.HMACSHA256)
		ops := []providers.Operation{{Op: providers.OpMAC, Key: "mac"}, {Op: providers.OpMAC, Key: "mac"}}
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				for {
					for _, r := range p.DoMany(t.Context(), []providers.Batch{{Ops: ops, Stop: true}, {Ops: ops}}) {
						if r[0].Err == nil {
							continue
						}
						if !errors.Is(r[0].Err, providers.Transient) {
							t.Errorf("closed: %v", r)
						}
						return
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond) // let them work
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		callers.Wait()
	}
}
