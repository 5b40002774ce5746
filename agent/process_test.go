// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/plugin"
)

func leakCheck(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(3 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(end) {
				b := make([]byte, 1<<16)
				t.Fatalf("goroutines left over:\n%s", b[:runtime.Stack(b, true)])
			}
		}
	})
}

func config(t *testing.T) Config {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Path: path, SHA256: sum, Log: os.Stderr}
}

func TestKilledAgent(t *testing.T) {
	leakCheck(t)
	c, err := Start(t.Context(), config(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, _, err := c.OpenMasterToken(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		seals(t, s)
		const n = 8
		errs := make(chan error, n)
		for range n {
			go func() {
				_, err := c.Keys(t.Context(), "wait")
				errs <- err
			}()
		}
		for h := (&Health{}); h.Entities < n; { // until all wait in the agent
			if h, err = c.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pid := c.PID()
		if pid == os.Getpid() || pid == 0 {
			t.Fatalf("the agent's pid is %d", pid)
		}
		killed := time.Now()
		syscall.Kill(pid, syscall.SIGKILL)
		recovers(t, s)
		t.Logf("the agent was back after %v", time.Since(killed))
		for range n {
			select {
			case err := <-errs:
				failure(t, err, msl.Unavailable)
			case <-time.After(5 * time.Second):
				t.Fatal("a call outlived the agent")
			}
		}
	}
}

// recovers seals until it succeeds. Where the machine is busy, an agent takes its time to start.
func recovers(t *testing.T, cc msl.CryptoContext) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		_, err := cc.Seal(t.Context(), [][]byte{nil})
		if err == nil {
			return
		}
		failure(t, err, msl.Unavailable)
	}
	t.Fatal("the agent has not come back")
}

func TestStartFails(t *testing.T) {
	leakCheck(t)
	cfg := config(t)
	cfg.SHA256 = strings.Repeat("0", 64)
	_, err := Start(t.Context(), cfg)
	if e, ok := errors.AsType[*plugin.StartError](err); !ok || !errors.Is(err, plugin.ErrHashMismatch) || e.Step != plugin.StepHash {
		t.Errorf("a wrong hash gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, config(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended gives %v", err)
	}
}

func TestClose(t *testing.T) {
	leakCheck(t)
	c, err := Start(t.Context(), config(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	_, err = c.Health(t.Context())
	failure(t, err, msl.Unavailable)
	c.Close()
}

// daemon serves a new fake to each connection until it is stopped.
func daemon(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { wire.Serve(ctx, conn, newFake(), wire.Options{}) })
		}
	})
	return func() {
		l.Close()
		cancel()
		wg.Wait()
	}
}

func TestDial(t *testing.T) {
	leakCheck(t)
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := Dial(t.Context(), "unix:"+path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without an agent: %v", err)
	}
	if _, err := Dial(t.Context(), "tcp:127.0.0.1:1"); err == nil {
		t.Error("dialed something that is not a unix socket")
	}
	stop := daemon(t, path)
	c, err := Dial(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, _, err := c.OpenMasterToken(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	seals(t, s)
	stop()

	// While it is down, calls wait as long as their context says, or two seconds.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Health(ctx); err != context.DeadlineExceeded {
		failure(t, err, msl.Unavailable) // the connection was not yet known to be lost
	}
	began := time.Now()
	_, err = c.Health(t.Context())
	failure(t, err, msl.Unavailable)
	if took := time.Since(began); took < patience {
		t.Errorf("waited %v for an agent that is down", took)
	}

	defer daemon(t, path)()
	recovers(t, s)
	c.Close()
}
