// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
