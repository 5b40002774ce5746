// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// TestBinaryReplaced: while another binary is in the place of the provider's, the process that runs goes on; once
// it has ended none is started until the right one is back, and then soon.
func TestBinaryReplaced(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "provider"), filepath.Join(dir, "other")
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	install := func(change byte) {
		t.Helper()
		b, err := os.ReadFile(own)
		if err == nil {
			// The last byte changes nothing that is run, so the other binary would start and work.
			b[len(b)-1] ^= change
			err = errors.Join(os.WriteFile(other, b, 0o700), os.Rename(other, path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install(0)
	var log lockedLog
	c := connect(t, settings{}, func(c *providers.Config) { c.Path, c.Log = path, &log })
	k, pid := macKey(t, c, "mac"), c.PID()
	want, err := k.MAC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, replace := range []func(){
		func() { install(1) },
		func() { install(0); overwrite(t, path) }, // in place, in the file that was started
		func() { os.Remove(path) },
	} {
		replace()
		if got, err := k.MAC(t.Context(), nil); err != nil || !bytes.Equal(got, want) || c.PID() != pid {
			t.Errorf("the process that ran did not go on: %v", err)
		}
		sendSignal(t, c, syscall.SIGKILL)
		for began := time.Now(); time.Since(began) < time.Second; { // several attempts to start it
			_, err := k.MAC(t.Context(), nil)
			if !errors.Is(err, providers.Transient) {
				t.Fatalf("without the right binary: %v", err)
			}
		}
		if c.PID() != 0 {
			t.Error("another binary was started")
		}
		install(0)
		began := time.Now()
		eventually(t, k)
		t.Logf("back after %v", time.Since(began))
		pid = c.PID()
	}
	if !log.has("changed since its SHA-256 was pinned") {
		t.Error("the log does not say that the binary has changed")
	}
}

// overwrite changes a binary without moving it.
func overwrite(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.Seek(-1, io.SeekEnd)
	}
	if err == nil {
		_, err = f.Write([]byte("x"))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A lockedLog is a log that can be read while it is written to.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(text))
}
