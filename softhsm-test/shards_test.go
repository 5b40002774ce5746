// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

func (h *hsm) openShards(t *testing.T, processes int) *providers.Connection {
	t.Helper()
	settings, err := json.Marshal(h.settings)
	if err != nil {
		t.Fatal(err)
	}
	path := providerPath(t)
	c, err := providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum(t, path), Env: h.env, Settings: settings, Processes: processes,
		Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Three processes that use one token are one provider.
func TestShardsConformance(t *testing.T) {
	c := newHSM(t).openShards(t, 3)
	providertest.Run(t, func(t *testing.T) providers.Provider { return c.Provider() }, providertest.Options{TooLarge: 1<<20 + 1, NoPKCS1Decryption: true,
		Generates: []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.ECP256}})
}

// What one process changes in the token, the others know when the change is done, although all of them remember keys;
// also those that come in place of one that was killed.
func TestShardsNotice(t *testing.T) {
	c := newHSM(t).openShards(t, 3)
	ctx, p := t.Context(), c.Provider()
	use := func(version uint32) (sums [][]byte, errs []error) {
		sums, errs = make([][]byte, 24), make([]error, 24)
		var all sync.WaitGroup
		for i := range sums { // at once, so that each process gets some
			all.Go(func() {
				r := providers.Do(ctx, p, []providers.Operation{{Key: "mac", Version: version, Op: providers.OpMAC, Input: []byte("x")}}, true)
				sums[i], errs[i] = r[0].Output, r[0].Err
			})
		}
		all.Wait()
		return sums, errs
	}
	same := func(what string, version uint32) (sum []byte) {
		t.Helper()
		sums, errs := use(version)
		for i := range sums {
			if errs[i] != nil || !bytes.Equal(sums[i], sums[0]) {
				t.Fatalf("%s: version %d: %x and %x, %v", what, version, sums[0], sums[i], errs[i])
			}
		}
		return sums[0]
	}
	_, errs := use(0)
	for _, err := range errs {
		if !errors.Is(err, providers.NoSuchKey) {
			t.Fatalf("a key that is not there: %v", err)
		}
	}
	if _, err := p.(providers.Generator).Generate(ctx, "mac", providers.HMACSHA256); err != nil {
		t.Fatal(err)
	}
	first := same("generated", 0)
	for v := uint32(2); v < 5; v++ {
		before := same("before", 0)
		if v == 3 {
			if err := syscall.Kill(c.PIDs()[1], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.(providers.Rotator).Rotate(ctx, "mac"); err != nil && v == 3 && errors.Is(err, providers.Transient) {
			_, err = p.(providers.Rotator).Rotate(ctx, "mac") // it went to the one that was killed
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("rotated to %d", v)
		if now := same(what, 0); bytes.Equal(now, before) {
			t.Fatalf("%s: all use the old version", what)
		}
		if !bytes.Equal(same(what, 1), first) {
			t.Errorf("%s: version 1 is another", what)
		}
	}
	if err := p.(providers.Destroyer).Destroy(ctx, "mac", 1); err != nil {
		t.Fatal(err)
	}
	_, errs = use(1)
	for _, err := range errs {
		if !errors.Is(err, providers.NoSuchKey) {
			t.Errorf("a key that was destroyed: %v", err)
		}
	}
}
