// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// advertised: what a provider generates is listed, described as it is, and usable.
func (s *suite) advertised(t *testing.T) {
	ctx := t.Context()
	for _, kt := range s.o.Generates {
		if kt == providers.RSA3072 || kt == providers.RSA4096 {
			continue // slow, and no different
		}
		t.Run(string(kt), func(t *testing.T) {
			k := s.key(t, kt)
			info := k.Info()
			if info.Type != kt || info.Version != 1 || info.Name == "" {
				t.Errorf("described as %+v", info)
			}
			infos, err := s.p.Keys(ctx)
			if err != nil || !slices.Contains(infos, info) {
				t.Errorf("%+v is not listed: %v", info, err)
			}
			if err := used(ctx, k); err != nil {
				t.Error(err)
			}
			for _, r := range s.wrongUses(k) {
				code(t, "what is not advertised", r.Err, providers.NotSupported)
			}
		})
	}
	if h, ok := s.p.(providers.HealthChecker); ok {
		if err := h.Health(ctx); err != nil {
			t.Errorf("health: %v", err)
		}
	}
	if d, ok := s.p.(providers.Describer); ok {
		if what, err := d.Describe(ctx); err != nil || what.Name == "" {
			t.Errorf("description %+v: %v", what, err)
		}
	}
}

// wrongUses asks, through a batch, for all that a key does not advertise.
func (s *suite) wrongUses(k providers.Key) []providers.Result {
	var ops []providers.Operation
	for op := providers.OpEncrypt; op <= providers.OpPublicKey; op++ {
		if !providers.Can(k, op) {
			ops = append(ops, providers.Operation{Key: k.Info().Name, Op: op, Input: make([]byte, 16)})
		}
	}
	return providers.Do(context.Background(), s.p, ops, false)
}

func (s *suite) versions(t *testing.T) {
	ctx := t.Context()
	k := s.key(t, s.anyType(t))
	name := k.Info().Name
	if r, ok := s.p.(providers.Rotator); ok {
		info, err := r.Rotate(ctx, name)
		if err != nil || info.Version != 2 || info.Type != k.Info().Type {
			t.Fatalf("rotated to %+v: %v", info, err)
		}
		if got := s.open(t, name, 0).Info().Version; got != 2 {
			t.Errorf("the newest version is %d", got)
		}
		old := s.open(t, name, 1)
		if old.Info().Version != 1 {
			t.Errorf("version 1 is version %d", old.Info().Version)
		}
		s.differ(t, old, s.open(t, name, 2))
		for _, key := range []providers.Key{k, old} { // opened before and after
			if err := used(ctx, key); err != nil {
				t.Errorf("the old version: %v", err)
			}
		}
		_, err = r.Rotate(ctx, s.o.Prefix+"none")
		code(t, "rotating no key", err, providers.NoSuchKey)
	}
	if d, ok := s.p.(providers.Destroyer); ok {
		if err := d.Destroy(ctx, name, 1); err != nil {
			t.Fatal(err)
		}
		_, err := s.p.Open(ctx, name, 1)
		code(t, "opening a destroyed key", err, providers.NoSuchKey)
		code(t, "using a destroyed key", used(ctx, k), providers.NoSuchKey)
		code(t, "destroying twice", d.Destroy(ctx, name, 1), providers.NoSuchKey)
	}
}

// differ fails the test if two versions of a key are the same key.
func (s *suite) differ(t *testing.T, a, b providers.Key) {
	t.Helper()
	var out [2][]byte
	for i, k := range []providers.Key{a, b} {
		var err error
		switch k := k.(type) {
		case providers.MACer:
			out[i], err = k.MAC(t.Context(), nil)
		case providers.Encrypter:
			out[i], err = k.Encrypt(t.Context(), providers.AESGCM, make([]byte, 12), nil, nil)
		case providers.PublicKeyer:
			out[i], err = k.PublicKey(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out[0]) > 0 && bytes.Equal(out[0], out[1]) {
		t.Error("two versions are the same key")
	}
}

func (s *suite) anyType(t *testing.T) providers.KeyType {
	for _, kt := range []providers.KeyType{providers.HMACSHA256, providers.AES128, providers.ECP256, providers.RSA2048} {
		if slices.Contains(s.o.Generates, kt) {
			return kt
		}
	}
	t.Skip("the provider generates no keys")
	return ""
}

func (s *suite) errors(t *testing.T) {
	ctx := t.Context()
	_, err := s.p.Open(ctx, s.o.Prefix+"none", 0)
	code(t, "opening no key", err, providers.NoSuchKey)
	k := s.key(t, s.anyType(t))
	_, err = s.p.Open(ctx, k.Info().Name, 99)
	code(t, "opening no version", err, providers.NoSuchKey)
	g := s.p.(providers.Generator)
	_, err = g.Generate(ctx, k.Info().Name, k.Info().Type)
	code(t, "generating twice", err, providers.Exists)
	_, err = g.Generate(ctx, s.name(), "des")
	code(t, "generating an unknown type", err, providers.NotSupported)
	if d, ok := s.p.(providers.Destroyer); ok {
		code(t, "destroying no key", d.Destroy(ctx, s.o.Prefix+"none", 1), providers.NoSuchKey)
	}
}

func (s *suite) imports(t *testing.T) {
	im, ok := s.p.(providers.Importer)
	if !ok {
		t.Skip("the provider imports no keys")
	}
	ctx := t.Context()
	for _, kt := range s.o.Imports {
		for _, n := range []int{0, 15, 33} {
			_, err := im.Import(ctx, s.name(), kt, make([]byte, n))
			code(t, fmt.Sprintf("importing %d bytes as %s", n, kt), err, providers.Malformed)
		}
	}
	if !slices.Contains(s.o.Imports, providers.HMACSHA256) {
		return
	}
	k := s.imported(t, providers.HMACSHA256, make([]byte, 32))
	_, err := im.Import(ctx, k.Info().Name, providers.HMACSHA256, make([]byte, 32))
	code(t, "importing twice", err, providers.Exists)
}

// batch: verify, then decrypt, stopping at the first failure.
func (s *suite) batch(t *testing.T) {
	ctx := t.Context()
	enc, mac := s.key(t, providers.AES128), s.key(t, providers.HMACSHA256)
	e, ok1 := enc.(providers.Encrypter)
	m, ok2 := mac.(providers.MACer)
	if !ok1 || !ok2 || !providers.Can(mac, providers.OpVerifyMAC) || !supports(enc, providers.AESCBC) {
		t.Skip("not advertised")
	}
	iv := make([]byte, 16)
	c, err := e.Encrypt(ctx, providers.AESCBC, iv, []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := m.MAC(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ops := []providers.Operation{
		{Key: mac.Info().Name, Op: providers.OpVerifyMAC, Input: c, MAC: sum},
		{Key: enc.Info().Name, Version: 1, Op: providers.OpDecrypt, Mechanism: providers.AESCBC, IV: iv, Input: c},
	}
	results := providers.Do(ctx, s.p, ops, true)
	if len(results) != 2 || results[0].Err != nil {
		t.Fatalf("results %v", results)
	}
	same(t, "decrypting in a batch", results[1].Output, results[1].Err, []byte("plain"))
	ops[0].MAC = make([]byte, 32)
	results = providers.Do(ctx, s.p, ops, true)
	if len(results) != 1 {
		t.Fatalf("a batch did not stop: %d results", len(results))
	}
	code(t, "verifying in a batch", results[0].Err, providers.VerificationFailed)
	if results = providers.Do(ctx, s.p, ops, false); len(results) != 2 || results[1].Err != nil {
		t.Errorf("a batch stopped: %v", results)
	}
	if results = providers.Do(ctx, s.p, nil, true); len(results) != 0 {
		t.Errorf("an empty batch has results: %v", results)
	}
	s.batches(t, ops, sum)
}

// batches: of many batches at once, each has its own results.
func (s *suite) batches(t *testing.T, ops []providers.Operation, sum []byte) {
	good, bad := slices.Clone(ops), slices.Clone(ops)
	good[0].MAC, bad[0].MAC = sum, make([]byte, len(sum))
	check := func(i int, r []providers.Result) {
		refused := len(r) > 0 && errors.Is(r[0].Err, providers.VerificationFailed)
		switch opened := len(r) == 2 && r[1].Err == nil && string(r[1].Output) == "plain"; {
		case i%3 == 0 && !(opened && r[0].Err == nil), i%3 == 1 && !(refused && len(r) == 1), i%3 == 2 && !(refused && opened):
			t.Errorf("batch %d of many: %v", i, r)
		}
	}
	var many []providers.Batch
	for i := range 24 {
		many = append(many, []providers.Batch{{Ops: good, Stop: true}, {Ops: bad, Stop: true}, {Ops: bad}}[i%3])
	}
	var wg sync.WaitGroup
	for i, b := range many {
		wg.Go(func() { check(i, providers.Do(t.Context(), s.p, b.Ops, b.Stop)) })
	}
	wg.Wait()
	m, ok := s.p.(providers.ManyBatcher)
	if !ok {
		return
	}
	results := m.DoMany(t.Context(), many)
	if len(results) != len(many) {
		t.Fatalf("%d results of %d batches", len(results), len(many))
	}
	for i, r := range results {
		check(i, r)
	}
}

// random: a device's generator gives what is asked for, and not the same twice.
func (s *suite) random(t *testing.T) {
	ctx := t.Context()
	_, can := s.p.(providers.Randomer)
	if d, ok := s.p.(providers.Describer); ok && !can {
		what, err := d.Describe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		can = what.Random
	}
	if !can {
		_, err := providers.Random(ctx, s.p, 16)
		code(t, "what is not advertised", err, providers.NotSupported)
		return
	}
	seen := make(map[string]bool)
	for _, n := range []int{16, 16, 16, 17, 255, providers.MaxRandom} {
		b, err := providers.Random(ctx, s.p, n)
		if err != nil || len(b) != n {
			t.Fatalf("%d random bytes are %d: %v", n, len(b), err)
		}
		if b = b[:16]; seen[string(b)] {
			t.Error("the same random bytes again")
		}
		seen[string(b)] = true
	}
	for _, n := range []int{-1, 0, providers.MaxRandom + 1, 1 << 30} {
		_, err := providers.Random(ctx, s.p, n)
		code(t, fmt.Sprintf("%d random bytes", n), err, providers.Malformed)
	}
}

func (s *suite) cancelled(t *testing.T) {
	k := s.key(t, s.anyType(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := used(ctx, k); err == nil {
		t.Error("an operation succeeded whose context had ended")
	} else {
		code(t, "cancelled", err, providers.Transient)
	}
	for i := range 20 { // in the middle, or just before or after it
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*i)*10*time.Microsecond)
		if err := used(ctx, k); err != nil {
			code(t, "cancelled in the middle", err, providers.Transient)
		}
		cancel()
	}
	if err := used(t.Context(), k); err != nil {
		t.Errorf("after a cancelled operation: %v", err)
	}
}

func (s *suite) concurrent(t *testing.T) {
	ctx, mac := t.Context(), s.key(t, s.anyType(t))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				k, err := s.p.Open(ctx, mac.Info().Name, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if err := used(ctx, k); err != nil {
					t.Error(err)
				}
				v, ok := k.(providers.MACVerifier)
				if !ok {
					continue
				}
				message := make([]byte, 100)
				rand.Read(message)
				sum, err := k.(providers.MACer).MAC(ctx, message)
				if err == nil {
					err = v.VerifyMAC(ctx, message, sum)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
