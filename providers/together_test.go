// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
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
