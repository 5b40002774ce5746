// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
)

// maxStoreFile bounds the file that OpenFileStore reads, in bytes.
const maxStoreFile = 16 << 20

// ErrStoreInUse means that another process has the store open.
var ErrStoreInUse = errors.New("the store is in use by another process")

// ErrStoreCorrupt means that the store's file is not one that a FileStore wrote.
var ErrStoreCorrupt = errors.New("the store's file is damaged")

// A FileStore keeps its state in one file, which is replaced at once and never written in place: after
// a crash at any instant it holds either the old state or the new. Only public tokens and sealed
// sessions are in it.
type FileStore struct {
	path string
	mu   sync.Mutex
	lock *os.File // nil when closed
}

// OpenFileStore opens the store in a file, which need not exist yet; its folder must. It locks the
// store until Close and fails with ErrStoreInUse if another process has it.
func OpenFileStore(path string) (*FileStore, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("msl: opening store: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrStoreInUse
		}
		return nil, fmt.Errorf("msl: opening store %s: %w", path, err)
	}
	return &FileStore{path: path, lock: lock}, nil
}

// Load reads the file. One that does not exist is an empty State; a damaged one is ErrStoreCorrupt.
func (f *FileStore) Load(context.Context) (*State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.Open(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return new(State), nil
	}
	if err != nil {
		return nil, fmt.Errorf("msl: reading store: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxStoreFile+1))
	if err != nil {
		return nil, fmt.Errorf("msl: reading store: %w", err)
	}
	s := new(State)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if len(data) > maxStoreFile || d.Decode(s) != nil || d.More() {
		return nil, fmt.Errorf("msl: reading store %s: %w", f.path, ErrStoreCorrupt)
	}
	return s, nil
}

// Save writes a new file beside the old one, makes it durable, and puts it in the old one's place. If it fails, the store
// holds either state.
func (f *FileStore) Save(_ context.Context, s *State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("msl: encoding store: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		err = os.ErrClosed
	} else {
		err = atomicfile.ReplaceLocked(f.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("msl: writing store: %w", err)
	}
	return nil
}

// Close unlocks the store.
func (f *FileStore) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}
