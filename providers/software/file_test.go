// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// childTask, if set, makes this test binary a writer of keys: "rotate" until killed, or "generate" n.
const childTask = "SOFTWARE_TEST_TASK"

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		child(task, os.Getenv("KEYS"), software.Unlock{KeySource: os.Getenv("UNLOCK")})
		return
	}
	os.Exit(m.Run())
}

func child(task, path string, u software.Unlock) {
	p, err := software.Open(path, u, software.Options{})
	for i := 0; err == nil; i++ {
		ctx := context.Background()
		var info providers.KeyInfo
		if task == "rotate" {
			info, err = p.Rotate(ctx, "k")
		} else if i < 40 {
			info, err = p.Generate(ctx, fmt.Sprintf("%s/%d", task, i), providers.AES256)
		} else {
			return
		}
		if err == nil {
			fmt.Println(info.Version)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func startChild(t *testing.T, task, path string, u software.Unlock) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childTask+"="+task, "KEYS="+path, "UNLOCK="+u.KeySource)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

// TestKilledWriter kills a writing process at random moments. What it said it had written must be there,
// and at most one more.
func TestKilledWriter(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	p, path, u := fresh(t)
	generate(t, p, "k", providers.HMACSHA256)
	macs := map[uint32]string{1: mac(t, p, "k", 1)}
	for range rounds {
		cmd, out := startChild(t, "rotate", path, u)
		said := uint32(len(macs))
		for n := rand.IntN(3); n >= 0 && out.Scan(); n-- {
			v, err := strconv.Atoi(out.Text())
			if err != nil {
				t.Fatal(err)
			}
			said = uint32(v)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Millisecond)))) // not for waiting: the moment is to vary
		cmd.Process.Kill()
		for out.Scan() {
			if v, err := strconv.Atoi(out.Text()); err == nil {
				said = uint32(v)
			}
		}
		cmd.Wait()
		q := reopen(t, path, u)
		infos, err := q.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := uint32(len(infos)); n != said && n != said+1 {
			t.Fatalf("%d versions, and the writer had written %d", n, said)
		}
		for i := range infos {
			v := uint32(i + 1)
			if m := mac(t, q, "k", v); macs[v] == "" {
				macs[v] = m
			} else if macs[v] != m {
				t.Fatalf("version %d changed", v)
			}
		}
		q.Close()
	}
	if _, err := p.Rotate(t.Context(), "k"); err != nil {
		t.Errorf("after all the killing: %v", err)
	}
	t.Logf("%d versions", len(macs))
}

func TestTwoWriters(t *testing.T) {
	_, path, u := fresh(t)
	a, outA := startChild(t, "a", path, u)
	b, outB := startChild(t, "b", path, u)
	for outA.Scan() {
	}
	for outB.Scan() {
	}
	if err := errors.Join(a.Wait(), b.Wait()); err != nil {
		t.Fatal(err)
	}
	if infos, err := reopen(t, path, u).Keys(t.Context()); err != nil || len(infos) != 80 {
		t.Errorf("%d keys of 80, %v", len(infos), err)
	}
}

func TestLockedOut(t *testing.T) {
	p, path, _ := fresh(t)
	f, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Generate(ctx, "k", providers.AES128)
	wantCode(t, "another writer", err, providers.Transient)
}

// sample makes a file with a key of each symmetric type and a destroyed one.
func sample(t testing.TB) (path string, u software.Unlock, data []byte) {
	t.Helper()
	p, path, u := fresh(t)
	for _, kt := range []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256} {
		generate(t, p, "key/"+string(kt), kt)
	}
	if err := p.Destroy(t.Context(), "key/aes-128", 1); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, u, data
}

func openBytes(t testing.TB, path string, u software.Unlock, data []byte) error {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := software.Open(path, u, software.Options{})
	if err == nil {
		p.Close()
	}
	return err
}

// TestDamage: whatever happens to the file by accident, it is refused as damaged, and the file is named.
func TestDamage(t *testing.T) {
	path, u, data := sample(t)
	check := func(what string, bad []byte) {
		t.Helper()
		err := openBytes(t, path, u, bad)
		wantCode(t, what, err, providers.Corrupt)
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the file is not named: %v", what, err)
		}
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= byte(1 << rand.IntN(8))
		check(fmt.Sprintf("byte %d", i), bad)
	}
	for n := range data {
		check(fmt.Sprintf("%d bytes", n), data[:n])
	}
	check("longer", append(bytes.Clone(data), 0))
	check("zeros", make([]byte, len(data)))
	check("huge", make([]byte, 9<<20))
	if err := openBytes(t, path, u, data); err != nil {
		t.Error(err)
	}
}

// TestForgery: whoever changes the file and makes the digest right is found out too. A changed salt or
// check cannot be told from a wrong key.
func TestForgery(t *testing.T) {
	path, u, data := sample(t)
	for i := range len(data) - 32 {
		bad := bytes.Clone(data)
		bad[i] ^= byte(1 << rand.IntN(8))
		err := openBytes(t, path, u, software.Redigest(bad))
		if c := providers.CodeOf(err); c != providers.Corrupt && c != providers.Locked {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

// TestHostileCost: no file makes its reader spend hours or gigabytes.
func TestHostileCost(t *testing.T) {
	path, u := filepath.Join(t.TempDir(), "keys"), passUnlock(t, "pass")
	p, err := software.CreateCheap(path, u, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const at = len("mslkeep keys 1\n") + 1
	for _, c := range []struct {
		time, memory uint32
		threads      uint8
	}{{0, 64, 1}, {17, 64, 1}, {1 << 31, 64, 1}, {1, 7, 1}, {1, 1<<20 + 1, 1}, {1, 1<<32 - 1, 1}, {1, 64, 0}, {1, 64, 9}, {1, 1 << 20, 17}} {
		bad := bytes.Clone(data)
		binary.BigEndian.PutUint32(bad[at:], c.time)
		binary.BigEndian.PutUint32(bad[at+4:], c.memory)
		bad[at+8] = c.threads
		wantCode(t, fmt.Sprint(c), openBytes(t, path, u, software.Redigest(bad)), providers.Corrupt)
	}
	newer := append([]byte("mslkeep keys 2\n"), data...)
	wantCode(t, "newer version", openBytes(t, path, u, newer), providers.Corrupt)
}

// TestDefaultCost opens a file as it is made in earnest, once.
func TestDefaultCost(t *testing.T) {
	path, u := filepath.Join(t.TempDir(), "keys"), passUnlock(t, "pass")
	p, err := software.Create(path, u, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	reopen(t, path, u)
}

func TestFileAccess(t *testing.T) {
	path, u, data := sample(t)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := software.Open(path, u, software.Options{})
		wantCode(t, mode.String(), err, providers.Denied)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := software.Open(filepath.Dir(path), u, software.Options{})
	wantCode(t, "a directory", err, providers.Denied)
	_, err = software.Open(path+".none", u, software.Options{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}

	// Through a link, what it points to is replaced, and not the link.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	generate(t, reopen(t, link, u), "more", providers.AES128)
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if now, _ := os.ReadFile(path); bytes.Equal(now, data) {
		t.Error("nothing was written")
	}
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(names) != 2 {
		t.Errorf("leftovers: %v", names)
	}
}

func FuzzFile(f *testing.F) {
	p, path, _ := fresh(f)
	generate(f, p, "k", providers.AES128)
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:100])
	f.Add([]byte("mslkeep keys 1\n"))
	kek := secret.New(32)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = software.ParseAndOpen(b, kek)
		if len(b) > 32 {
			if software.ParseAndOpen(software.Redigest(b), kek) == nil {
				t.Fatal("opened without its key")
			}
		}
	})
}

func FuzzContents(f *testing.F) {
	p, path, _ := fresh(f)
	for _, kt := range []providers.KeyType{providers.AES128, providers.HMACSHA256, providers.ECP256} {
		generate(f, p, string(kt), kt)
	}
	if err := p.Destroy(f.Context(), "aes-128", 1); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	plain, err := p.PlainOf(data)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := software.Reencode(b); err == nil && !bytes.Equal(again, b) {
			t.Fatal("what parses does not encode to the same")
		}
	})
}
