// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// wrap has Vault encrypt a key, bound to what its blob says.
func (s *store) wrap(ctx context.Context, b *blob, key *secret.Bytes) (string, error) {
	wrapper, err := s.wrapper(ctx)
	if err != nil {
		return "", err
	}
	wrapped, err := wrapper.Encrypt(ctx, providers.AEAD, nil, secret.Reveal(key), b.aad())
	return string(wrapped), err
}

// wrapper opens the key that wraps the others.
func (s *store) wrapper(ctx context.Context) (*aeadKey, error) {
	i, err := s.p.info(ctx, s.Key, 0)
	if err != nil {
		return nil, err
	}
	return &aeadKey{&transitKey{s.p, i.describe(i.newest)}}, nil
}

// A heldKey is one version of a wrapped key. Its bytes are there while it is held.
type heldKey struct {
	store *store
	blob  blob // without Wrapped

	turn chan struct{} // who has Vault decrypt it

	mu      sync.RWMutex // for reading while the bytes are in use
	wrapped string
	bytes   *secret.Bytes
	until   time.Time
	renewal time.Time // when it is decrypted again in the background
	timer   *time.Timer
	gone    bool
}

func newHeld(s *store, b blob) *heldKey {
	k := &heldKey{store: s, blob: b, turn: make(chan struct{}, 1), wrapped: b.Wrapped}
	k.blob.Wrapped = ""
	return k
}

// wrappedAs takes another encryption of the same key.
func (k *heldKey) wrappedAs(wrapped string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wrapped = wrapped
}

// Info describes the key.
func (k *heldKey) Info() providers.KeyInfo { return k.blob.info() }

// use calls f with the key's bytes, which it must not keep.
func (k *heldKey) use(ctx context.Context, op string, f func(key []byte) error) error {
	if err := ctx.Err(); err != nil {
		return failure(providers.Transient, op, err)
	}
	for range 2 { // it may be wiped in between
		k.mu.RLock()
		if k.gone {
			k.mu.RUnlock()
			if err := k.store.p.run.Err(); err != nil { // closed
				return failure(providers.Transient, op, err)
			}
			return failure(providers.NoSuchKey, op, nil)
		}
		if now := time.Now(); k.bytes.Len() > 0 && now.Before(k.until) {
			if now.After(k.renewal) {
				k.refresh()
			}
			defer k.mu.RUnlock()
			return f(secret.Reveal(k.bytes))
		}
		k.mu.RUnlock()
		if err := k.reveal(ctx); err != nil {
			return err
		}
	}
	return failure(providers.Transient, op, errors.New("the key was wiped while it was to be used"))
}

// refresh has the key decrypted in the background, if nobody does yet.
func (k *heldKey) refresh() {
	select {
	case k.turn <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-k.turn }()
		ctx, cancel := context.WithTimeout(k.store.p.run, k.store.p.timeout)
		defer cancel()
		if k.decrypt(ctx) != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.renewal = time.Now().Add(time.Duration(k.store.Hold) / 20) // it is good for a while yet
		}
	}()
}

// reveal has Vault decrypt the key, unless it is held already.
func (k *heldKey) reveal(ctx context.Context) error {
	const op = "unwrapping a key"
	ctx, cancel := k.store.p.early(ctx)
	defer cancel()
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return failure(providers.Transient, op, ctx.Err())
	}
	k.mu.RLock()
	there := k.bytes.Len() > 0 && time.Now().Before(k.until)
	k.mu.RUnlock()
	if there {
		return nil
	}
	return k.decrypt(ctx)
}

// decrypt has Vault decrypt the key, and, if its wrapping key has a newer version, encrypt it with that; turn is
// held. A blob that does not decrypt is a damaged one: it is our own, and no peer's.
func (k *heldKey) decrypt(ctx context.Context) error {
	const op = "unwrapping a key"
	wrapper, err := k.store.wrapper(ctx)
	if err != nil {
		return err
	}
	k.mu.RLock()
	wrapped := k.wrapped
	k.mu.RUnlock()
	raw, err := wrapper.Decrypt(ctx, providers.AEAD, nil, []byte(wrapped), k.blob.aad())
	if errors.Is(err, providers.VerificationFailed) || errors.Is(err, providers.NoSuchKey) || err == nil && len(raw) != sizes[k.blob.Type] {
		secret.Wipe(raw)
		return failure(providers.Corrupt, op, errors.New("Vault does not decrypt "+k.blob.file()))
	}
	if err != nil {
		return err
	}
	key := secret.Take(raw)
	if v, _, ok := parse(wrapped); ok && v < wrapper.info.Version {
		k.rewrap(ctx, key) // and next time if it fails
	}
	k.hold(key)
	return nil
}

// rewrap replaces the file by one that the newest version of the wrapping key has encrypted.
func (k *heldKey) rewrap(ctx context.Context, key *secret.Bytes) {
	b := k.blob
	var err error
	if b.Wrapped, err = k.store.wrap(ctx, &b, key); err != nil {
		return
	}
	unlock, err := k.store.lock()
	if err != nil {
		return
	}
	defer unlock()
	raw, err := readSmall(filepath.Join(k.store.Folder, b.file()), maxBlob)
	if err != nil || !stillThere(raw) {
		return // destroyed in the meantime
	}
	if k.store.write(&b, true) == nil {
		k.wrappedAs(b.Wrapped)
	}
}

// hold keeps the bytes until their time is over.
func (k *heldKey) hold(key *secret.Bytes) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || k.store.p.run.Err() != nil {
		key.Wipe()
		return
	}
	k.bytes.Wipe() // nobody uses them: that takes mu
	k.bytes = key
	k.until = time.Now().Add(time.Duration(k.store.Hold))
	k.renewal = time.Now().Add(time.Duration(k.store.Hold) / 2)
	if k.timer != nil {
		k.timer.Stop()
	}
	k.timer = time.AfterFunc(time.Duration(k.store.Hold), k.lapse)
}

// lapse wipes the bytes when their time is over.
func (k *heldKey) lapse() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !time.Now().Before(k.until) {
		k.bytes.Wipe()
	}
}

// wipe ends the key: it was destroyed, or the provider is closed.
func (k *heldKey) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	k.bytes.Wipe()
	if k.timer != nil {
		k.timer.Stop()
	}
}
