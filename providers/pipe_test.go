// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
	"github.com/mslkeep/mslkeep/providers/software"
)

// The test binary is also the provider.
func TestMain(m *testing.M) {
	if !plugin.IsChild() {
		os.Exit(m.Run())
	}
	if err := providerMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// settings are the test provider's.
type settings struct {
	Dir    string `json:"dir"`
	Faulty bool   `json:"faulty"` // every use of a key is a failure of the device
	// Remembers is for a provider that looks for the newest version of a key once only.
	Remembers bool `json:"remembers"`
}

func providerMain() error {
	plugin.Harden(false)
	var s settings
	if err := providers.ReadSettings(&s); err != nil {
		return err
	}
	unlock := software.Unlock{KeySource: "file:" + filepath.Join(s.Dir, "unlock")}
	file := filepath.Join(s.Dir, "keys")
	p, err := software.Open(file, unlock, software.Options{})
	if errors.Is(err, os.ErrNotExist) {
		if err := software.NewUnlockKey(filepath.Join(s.Dir, "unlock")); err != nil {
			return err
		}
		p, err = software.Create(file, unlock, software.Options{})
	}
	if err != nil {
		return err
	}
	if s.Remembers {
		return providers.Serve(&remembering{Provider: p})
	}
	return providers.Serve(&odd{p, s})
}

// odd is the software provider, with keys that misbehave.
type odd struct {
	*software.Provider
	settings settings
}

func (o *odd) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	switch k, err := o.Provider.Open(ctx, strings.TrimPrefix(name, "odd/"), version); {
	case err != nil:
		return nil, err
	case name == "odd/panic":
		return panicking{renamed{k, name}}, nil
	case name == "odd/hang":
		return hanging{renamed{k, name}}, nil
	case name == "odd/slow":
		return slow{renamed{k, name}}, nil
	case name == "odd/noting":
		return noting{renamed{k, name}, filepath.Join(o.settings.Dir, "notes")}, nil
	case name == "odd/error":
		return failing{renamed{k, name}, errors.New("an error without a code\nin two lines")}, nil
	case name == "odd/talkative":
		return failing{renamed{k, name}, &providers.Error{Code: providers.VerificationFailed, Op: "x", Err: errors.New("bad padding")}}, nil
	case o.settings.Faulty && !missing(filepath.Join(o.settings.Dir, "away")):
		return failing{k, &providers.Error{Code: providers.Device, Op: "x"}}, nil
	default:
		return k, nil
	}
}

func missing(path string) bool { _, err := os.Stat(path); return err != nil }

type renamed struct {
	providers.Key
	name string
}

func (r renamed) Info() providers.KeyInfo {
	i := r.Key.Info()
	i.Name = r.name
	return i
}

type panicking struct{ providers.Key }

func (panicking) MAC(context.Context, []byte) ([]byte, error) { panic("secret") }

type hanging struct{ providers.Key }

func (hanging) MAC(context.Context, []byte) ([]byte, error) { select {} }

// slow is a key of a device that is asked over a network.
type slow struct{ providers.Key }

func (s slow) MAC(ctx context.Context, message []byte) ([]byte, error) {
	select {
	case <-time.After(5 * time.Millisecond):
		return s.Key.(renamed).Key.(providers.MACer).MAC(ctx, message)
	case <-ctx.Done():
		return nil, &providers.Error{Code: providers.Transient, Err: ctx.Err()}
	}
}

// noting is a key that writes down each message, on a line of its own.
type noting struct {
	providers.Key
	path string
}

func (n noting) MAC(_ context.Context, message []byte) ([]byte, error) {
	f, err := os.OpenFile(n.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, err = f.Write(append(message, '\n'))
	return message, err
}

type failing struct {
	providers.Key
	err error
}

func (f failing) MAC(context.Context, []byte) ([]byte, error) { return nil, f.err }

// connect starts the test provider on a folder.
func connect(t testing.TB, s settings, change func(*providers.Config)) *providers.Connection {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cfg := providers.Config{Path: path, SHA256: sum, Settings: b, Env: []string{"GOCOVERDIR"}, Timeout: 20 * time.Second}
	if change != nil {
		change(&cfg)
	}
	c, err := providers.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestConformance runs the suite for the software provider, through the pipe.
func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providers.Provider { return connect(t, settings{}, nil).Provider() },
		providertest.Options{TooLarge: providers.MaxData + 1, Size: 4 << 20})
}

func macKey(t *testing.T, c *providers.Connection, names ...string) providers.MACer {
	t.Helper()
	for _, name := range names {
		if _, err := c.Provider().(providers.Generator).Generate(t.Context(), strings.TrimPrefix(name, "odd/"), providers.HMACSHA256); err != nil && !errors.Is(err, providers.Exists) {
			t.Fatal(err)
		}
	}
	k, err := c.Provider().Open(t.Context(), names[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	return k.(providers.MACer)
}

// eventually waits until a use of the key succeeds, at most two seconds.
func eventually(t *testing.T, k providers.MACer) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := k.MAC(t.Context(), nil)
		if err == nil {
			return
		}
		if !errors.Is(err, providers.Transient) && !errors.Is(err, providers.Device) {
			t.Fatalf("while the provider was away: %v", err)
		}
		if time.Now().After(end) {
			t.Fatalf("not back after two seconds: %v", err)
		}
	}
}

// sendSignal sends a signal to the provider, once one runs.
func sendSignal(t *testing.T, c *providers.Connection, sig syscall.Signal) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if pid := c.PID(); pid > 0 && syscall.Kill(pid, sig) == nil { // 0 would be this process's group
			waitFor(t, "the process has stopped", func() bool { return sig != syscall.SIGSTOP || stopped(pid) })
			return
		}
		if time.Now().After(end) {
			t.Fatal("no provider runs")
		}
	}
}

// stopped reports whether all threads of a process have stopped, which takes the kernel a moment.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		if stat, err := os.ReadFile(thread); err == nil && !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return true
}

func TestErrorsSurvive(t *testing.T) {
	c := connect(t, settings{}, nil)
	for name, want := range map[string]providers.Code{"odd/error": providers.Device, "odd/panic": providers.Device,
		"odd/talkative": providers.VerificationFailed} {
		k := macKey(t, c, name)
		if providers.Can(k.(providers.Key), providers.OpVerifyMAC) {
			t.Errorf("%s has a capability that it has not advertised", name)
		}
		_, err := k.MAC(t.Context(), nil)
		if !errors.Is(err, want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "padding") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKilled(t *testing.T) {
	c := connect(t, settings{}, nil)
	k := macKey(t, c, "mac")
	want, err := k.MAC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := k.MAC(t.Context(), nil)
				if err != nil && !errors.Is(err, providers.Transient) || err == nil && string(got) != string(want) {
					t.Errorf("while the provider is killed: %x, %v", got, err)
				}
			}
		})
	}
	for range 3 {
		sendSignal(t, c, syscall.SIGKILL)
		eventually(t, k)
	}
	cancel()
	wg.Wait()
}

func TestHung(t *testing.T) {
	c := connect(t, settings{}, func(c *providers.Config) { c.Timeout = 500 * time.Millisecond })
	hanging, k := macKey(t, c, "odd/hang"), macKey(t, c, "mac")
	pid := c.PID()
	if _, err := hanging.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
		t.Errorf("a hung provider: %v", err)
	}
	eventually(t, k)
	if now := c.PID(); now == pid || now == 0 {
		t.Errorf("the hung provider still runs as %d", now)
	}
	sendSignal(t, c, syscall.SIGSTOP)
	if _, err := k.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
		t.Errorf("a stopped provider: %v", err)
	}
	eventually(t, k)
}

func TestCallerGivesUp(t *testing.T) {
	c := connect(t, settings{}, nil)
	k, pid := macKey(t, c, "odd/hang"), c.PID()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := k.MAC(ctx, nil); !errors.Is(err, providers.Transient) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that gave up: %v", err)
	}
	if c.PID() != pid {
		t.Error("the provider was killed for a caller that gave up")
	}
}

func TestBreaker(t *testing.T) {
	dir := t.TempDir()
	c := connect(t, settings{Dir: dir, Faulty: true}, nil)
	k := macKey(t, c, "mac")
	away := filepath.Join(dir, "away")
	if err := os.WriteFile(away, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := false
	for range 20 {
		_, err := k.MAC(t.Context(), nil)
		if !errors.Is(err, providers.Device) && !errors.Is(err, providers.Transient) {
			t.Fatalf("a device that is away: %v", err)
		}
		open = open || errors.Is(err, providers.Transient)
	}
	if !open {
		t.Error("the breaker never opened")
	}
	os.Remove(away)
	eventually(t, k)

	bad := macKey(t, c, "odd/talkative")
	for range 20 { // data from a peer
		if _, err := bad.MAC(t.Context(), nil); !errors.Is(err, providers.VerificationFailed) {
			t.Fatalf("data that does not verify: %v", err)
		}
	}
	if _, err := k.MAC(t.Context(), nil); err != nil {
		t.Errorf("data from a peer counted as a fault: %v", err)
	}
}

func BenchmarkPipe(b *testing.B) {
	p := benchmarked(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			results := providers.Do(b.Context(), p, []providers.Operation{{Key: "mac", Op: providers.OpMAC, Input: make([]byte, 300)},
				{Key: "mac", Op: providers.OpMAC, Input: make([]byte, 300)}}, true)
			if len(results) != 2 || results[1].Err != nil {
				b.Fatal(results)
			}
		}
	})
}

func benchmarked(b *testing.B) providers.Provider {
	c := connect(b, settings{}, nil)
	if _, err := c.Provider().(providers.Generator).Generate(b.Context(), "mac", providers.HMACSHA256); err != nil {
		b.Fatal(err)
	}
	return c.Provider()
}

func TestStartFails(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]providers.Config{
		"no settings":      {Path: path, SHA256: sum, Settings: []byte("[")},
		"unknown settings": {Path: path, SHA256: sum, Settings: []byte(`{"pin":"1"}`)},
		"another hash":     {Path: path, SHA256: strings.Repeat("0", 64)},
		"no hash":          {Path: path},
		"no binary":        {Path: path + "-none", SHA256: sum},
	} {
		c, err := providers.Connect(t.Context(), cfg)
		if _, ok := errors.AsType[*plugin.StartError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// TestLimits: what is too much is refused before it travels, and harms nobody.
func TestLimits(t *testing.T) {
	c := connect(t, settings{}, nil)
	k := macKey(t, c, "mac")
	op := providers.Operation{Key: "mac", Op: providers.OpMAC}
	many := slices.Repeat([]providers.Operation{op}, providers.MaxBatch)
	if r := providers.Do(t.Context(), c.Provider(), many, false); len(r) != providers.MaxBatch || r[0].Err != nil {
		t.Errorf("a full batch: %v", r)
	}
	r := providers.Do(t.Context(), c.Provider(), append(many, op), false)
	if len(r) != providers.MaxBatch+1 || !errors.Is(r[0].Err, providers.Malformed) {
		t.Errorf("a batch of too many: %v", r)
	}
	half := providers.Operation{Key: "mac", Op: providers.OpMAC, Input: make([]byte, providers.MaxData/2+1)}
	if r := providers.Do(t.Context(), c.Provider(), []providers.Operation{half, half}, true); len(r) != 1 || !errors.Is(r[0].Err, providers.Malformed) {
		t.Errorf("a batch of too many bytes: %v", r)
	}
	if _, err := k.MAC(t.Context(), make([]byte, providers.MaxData)); err != nil {
		t.Errorf("the most that goes: %v", err)
	}
	long := strings.Repeat("x", 5000)
	if _, err := c.Provider().Open(t.Context(), long, 0); !errors.Is(err, providers.NoSuchKey) {
		t.Errorf("a long name: %v", err)
	}
	if _, err := c.Provider().(providers.Generator).Generate(t.Context(), long, providers.AES128); !errors.Is(err, providers.Malformed) {
		t.Errorf("generating a long name: %v", err)
	}
}

// TestNoOrphan: a provider ends with its connection.
func TestNoOrphan(t *testing.T) {
	c := connect(t, settings{}, nil)
	pid := c.PID()
	c.Close()
	if err := syscall.Kill(pid, 0); pid == 0 || !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

func TestClosed(t *testing.T) {
	c := connect(t, settings{}, nil)
	k := macKey(t, c, "mac")
	c.Close()
	if _, err := k.MAC(t.Context(), nil); !errors.Is(err, providers.Transient) {
		t.Errorf("after Close: %v", err)
	}
	if err := providers.Serve(c.Provider()); !errors.Is(err, plugin.ErrNoParent) {
		t.Errorf("serving without a parent: %v", err)
	}
}
