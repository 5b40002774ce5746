// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestFileStoreKilled kills a process that keeps saving, at many moments. What is left must always be
// a whole state, and none that is older than what the process says it has saved.
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
			fmt.Println(n)
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
		lines := bufio.NewScanner(out)
		said := int64(-1)
		for lines.Scan() {
			if said < 0 {
				moment := time.Duration(rand.Int64N(int64(8 * time.Millisecond)))
				time.AfterFunc(moment, func() { _ = cmd.Process.Kill() })
			}
			if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait()
		if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) > 3 { // the store, its lock, and one that was being written
			t.Fatalf("there are %d files, %v", len(files), err)
		}
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
		if s.NonReplayableID < said || said < 0 {
			t.Fatalf("round %d: state %d is there, when %d was saved", round, s.NonReplayableID, said)
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

// TestFileStoreClosesUp: a file of a process that was killed is in nobody's way, and does not stay.
func TestFileStoreClosesUp(t *testing.T) {
	path := t.TempDir() + "/store"
	if err := os.WriteFile(path+".new", []byte("half a st"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFileStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Save(context.Background(), &State{NonReplayableID: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if s, err := f.Load(context.Background()); err != nil || s.NonReplayableID != 7 {
		t.Errorf("%v, %v", s, err)
	}
}
