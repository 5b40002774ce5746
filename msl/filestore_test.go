// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestFileStoreKilled kills a process that keeps saving, at many moments. What is left must always be
// a whole state.
func TestFileStoreKilled(t *testing.T) {
	ctx := context.Background()
	if path := os.Getenv("MSL_TEST_SAVE_FOREVER"); path != "" {
		f, err := OpenFileStore(path)
		if err != nil {
			os.Exit(3)
		}
		for n := int64(0); ; n++ {
			s := &State{NonReplayableID: n, MasterToken: bytes.Repeat([]byte{byte(n)}, int(n%5000)+1)}
			if f.Save(ctx, s) != nil {
				os.Exit(4)
			}
			if n == 0 {
				os.Stdout.WriteString("!")
			}
		}
	}
	path := filepath.Join(t.TempDir(), "store")
	for round := range 40 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFileStoreKilled$")
		cmd.Env = append(os.Environ(), "MSL_TEST_SAVE_FOREVER="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(round)*200*time.Microsecond, func() { cmd.Process.Kill() })
		cmd.Wait()
		f, err := OpenFileStore(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.MasterToken) != int(s.NonReplayableID%5000)+1 || len(bytes.Trim(s.MasterToken, string([]byte{byte(s.NonReplayableID)}))) != 0 {
			t.Fatalf("round %d: a mixture of two states", round)
		}
		f.Close()
	}
}

func TestFileStoreRefuses(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "store")
	f, err := OpenFileStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFileStore(path); !errors.Is(err, ErrStoreInUse) {
		t.Errorf("a second opener got %v", err)
	}
	if s, err := f.Load(ctx); err != nil || s.MasterToken != nil {
		t.Errorf("an absent file: %v, %v", s, err)
	}
	if err := f.Save(ctx, &State{MasterToken: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(good) - 1 {
		if err := os.WriteFile(path, good[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(ctx); !errors.Is(err, ErrStoreCorrupt) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
	f.Close()
	if err := f.Save(ctx, new(State)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("saving after Close: %v", err)
	}
	if g, err := OpenFileStore(path); err != nil {
		t.Errorf("opening after Close: %v", err)
	} else {
		g.Close()
	}
}
