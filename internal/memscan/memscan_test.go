// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package memscan_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/memscan"
)

// childForm, if set, makes this test binary a process that holds the key of its standard input.
const childForm = "MEMSCAN_TEST_FORM"

func TestMain(m *testing.M) {
	if form := os.Getenv(childForm); form != "" {
		hold(form)
		return
	}
	os.Exit(m.Run())
}

// holders make of a key what a process may hold. They must not keep the key's own bytes.
var holders = map[string]func(key []byte) any{
	"raw":       func(k []byte) any { return bytes.Clone(k) },
	"hex":       func(k []byte) any { return []byte(hex.EncodeToString(k)) },
	"HEX":       func(k []byte) any { return fmt.Appendf(nil, "%X", k) },
	"base64":    func(k []byte) any { return []byte(base64.StdEncoding.EncodeToString(k)) },
	"base64url": func(k []byte) any { return []byte(base64.RawURLEncoding.EncodeToString(k)) },
	"aes": func(k []byte) any {
		b, err := aes.NewCipher(k)
		if err != nil {
			panic(err)
		}
		return b
	},
	"hmac":  func(k []byte) any { return hmac.New(sha256.New, k) },
	"wiped": func(k []byte) any { return nil },
	"none":  func(k []byte) any { return nil },
}

// mask hides the key on its way, so that no pipe buffer holds it.
const mask = 0xa7

var held any

func hold(form string) {
	line, err := bufio.NewReaderSize(os.Stdin, 256).ReadString('\n')
	if err != nil {
		os.Exit(1)
	}
	masked := []byte(strings.TrimSpace(line))
	if form != "none" {
		key := make([]byte, len(masked)/2)
		if _, err := hex.Decode(key, masked); err != nil {
			os.Exit(1)
		}
		for i := range key {
			key[i] ^= mask
		}
		held = holders[form](key)
		clear(key)
		scrubStack()
		debug.FreeOSMemory()
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(held)
}

// scrubStack overwrites what calls before left on the stack.
//
//go:noinline
func scrubStack() byte {
	var b [16 << 10]byte
	for i := range b {
		b[i] = byte(i)
	}
	return b[len(os.Args)]
}

// start runs a child that holds key in a form, until the test ends, and returns its pid.
func start(t *testing.T, form string, key []byte) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childForm+"="+form)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	masked := bytes.Clone(key)
	for i := range masked {
		masked[i] ^= mask
	}
	fmt.Fprintf(in, "%x\n", masked)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return cmd.Process.Pid
}

func scan(t *testing.T, s *memscan.Scanner, pid int) *memscan.Report {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	r, err := s.Scan(maps, mem, pagemap)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestProcesses(t *testing.T) {
	want := map[string]string{"raw": "raw", "hex": "hex", "HEX": "hex", "base64": "base64", "base64url": "base64url",
		"aes": "aes schedule", "hmac": "hmac", "wiped": "", "none": ""}
	for form, wantForm := range want {
		for _, size := range []int{16, 32} {
			t.Run(fmt.Sprintf("%s-%d", form, size), func(t *testing.T) {
				t.Parallel()
				key := random(size)
				key[0] = 0xff // so that base64 and base64url differ
				s, err := memscan.New([]memscan.Key{{Label: "other", Bytes: random(16)}, {Label: "key", Bytes: key}})
				if err != nil {
					t.Fatal(err)
				}
				r := scan(t, s, start(t, form, key))
				if r.Bytes < 1<<20 {
					t.Errorf("only %d bytes were searched", r.Bytes)
				}
				if wantForm == "" {
					if r.Found != 0 {
						t.Errorf("found %+v", r.Hits)
					}
					return
				}
				ok := false
				for _, h := range r.Hits {
					ok = ok || h.Label == "key" && h.Form == wantForm
				}
				if !ok || r.Found != 1 {
					t.Errorf("found %d: %+v", r.Found, r.Hits)
				}
			})
		}
	}
}

// fakeMemory is memory with holes.
type fakeMemory struct {
	start uint64
	b     []byte
	holes map[uint64]bool // pages
}

func (f *fakeMemory) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if at < f.start || at >= f.start+uint64(len(f.b)) || f.holes[at/4096] {
			return n, io.ErrUnexpectedEOF
		}
		p[n] = f.b[at-f.start]
		n++
	}
	return n, nil
}

// TestEdges puts a key at every kind of place: ends of mappings, borders of chunks, beside holes.
func TestEdges(t *testing.T) {
	const size = 3<<20 + 4096
	key := random(40)
	s, err := memscan.New([]memscan.Key{{Label: "k", Bytes: key}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeMemory{start: 0x10000, holes: map[uint64]bool{(0x10000 + 8192) / 4096: true}}
	for _, at := range []int{0, 1, 4096, 8192 - 40, 3 * 4096, 1<<20 - 1, 1<<20 - 20, 1 << 20, 2<<20 - 39, size - 40} {
		f.b = make([]byte, size)
		copy(f.b[at:], key)
		r, err := s.Scan(strings.NewReader(fmt.Sprintf("%x-%x rw-p 00000000 00:00 0 \n", 0x10000, 0x10000+size)), f, nil)
		if err != nil || r.Found != 1 || r.Hits[0].Mapping != "anonymous" {
			t.Errorf("at %d: %+v, %v", at, r, err)
		} else if r.Unreadable != 4096 || r.Bytes != size-4096 {
			t.Errorf("at %d: %d bytes read, %d not", at, r.Bytes, r.Unreadable)
		}
	}
}

// TestTouched: only pages that pagemap calls present or swapped are searched, and a key across two of them
// is found. What pagemap does not tell of is searched.
func TestTouched(t *testing.T) {
	page := os.Getpagesize()
	key := random(40)
	s, err := memscan.New([]memscan.Key{{Label: "k", Bytes: key}})
	if err != nil {
		t.Fatal(err)
	}
	const pages = 3000 // more than are asked for at once
	for _, c := range []struct {
		at, told int // where the key is; pages that pagemap tells of
		touched  []int
		found    int
	}{
		{5 * page, pages, []int{5}, 1},
		{5 * page, pages, []int{4, 6}, 0},
		{6*page - 20, pages, []int{5, 6}, 1},
		{6*page - 20, pages, []int{5}, 0},
		{1024*page - 20, pages, []int{1023, 1024}, 1},
		{(pages - 1) * page, pages, []int{pages - 1}, 1},
		{2000 * page, 1000, []int{1}, 1},
		{1000*page - 20, 1000, []int{999}, 1},
	} {
		f := &fakeMemory{b: make([]byte, pages*page)}
		copy(f.b[c.at:], key)
		told := make([]byte, 8*c.told)
		for i, p := range c.touched {
			told[8*p+7] = []byte{0x80, 0x40}[i%2]
		}
		maps := fmt.Sprintf("0-%x rw-p 0 00:00 0\n", len(f.b))
		r, err := s.Scan(strings.NewReader(maps), f, bytes.NewReader(told))
		if err != nil || r.Found != c.found {
			t.Errorf("%+v: %+v, %v", c, r, err)
		} else if want := page * (len(c.touched) + pages - c.told); r.Bytes != int64(want) {
			t.Errorf("%+v: %d bytes searched, want %d", c, r.Bytes, want)
		}
	}
}

func TestMappings(t *testing.T) {
	key := random(16)
	s, err := memscan.New([]memscan.Key{{Label: "k", Bytes: key}})
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{
		"0-1000 rw-p 0 00:00 0":                        true,
		"0-1000 r--p 0 fe:00 12  /some/file (deleted)": true,
		"0-1000 rw-s 0 00:01 9  /dev/shm/x":            true,
		"0-1000 rw-p 0 00:00 0  [anon: Go: heap]":      true,
		"0-1000 rw-p 0 00:00 0  [stack]":               true,
		"0-1000 ---p 0 00:00 0":                        false,
		"0-1000 r--p 0 00:00 0  [vvar]":                false,
		"0-1000 --xp 0 00:00 0  [vsyscall]":            false,
		"0-1000 rw-s 0 00:06 5  /dev/dri/card0":        false,
	} {
		f := &fakeMemory{b: append(bytes.Clone(key), make([]byte, 4096-16)...)}
		r, err := s.Scan(strings.NewReader(line+"\n"), f, nil)
		if want && (err != nil || r.Found != 1) || !want && err == nil {
			t.Errorf("%s: %+v, %v", line, r, err)
		}
	}
	for _, bad := range []string{"", "x", "0-1000 rw-p\n", "zz-1000 rw-p 0 0 0\n", "1000-0 rw-p 0 0 0\n", "0 rw-p 0 0 0\n"} {
		if _, err := s.Scan(strings.NewReader(bad), &fakeMemory{b: key}, nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestKeys(t *testing.T) {
	key := random(16)
	s, err := memscan.New([]memscan.Key{{Label: "a", Bytes: key}, {Label: "b", Bytes: key}})
	if err != nil || s.Keys() != 1 {
		t.Errorf("%v", err)
	}
	for what, keys := range map[string][]memscan.Key{"none": nil, "short": {{Label: "a", Bytes: key[:7]}}, "zeros": {{Label: "a", Bytes: make([]byte, 32)}}} {
		if _, err := memscan.New(keys); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	got, err := memscan.ReadKeyLog(strings.NewReader("a 00ff\nsession:1 0102\nhalf 01"))
	if err != nil || len(got) != 2 || got[1].Label != "session:1" || !bytes.Equal(got[0].Bytes, []byte{0, 255}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"\n", "a\n", "a \n", " 00\n", "a 0\n", "a zz\n", "a 00 00\n", "a " + strings.Repeat("00", 40000) + "\n"} {
		if _, err := memscan.ReadKeyLog(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	var keys []memscan.Key
	for i := range 5000 {
		keys = append(keys, memscan.Key{Label: fmt.Sprint(i), Bytes: random(32)})
	}
	s, err := memscan.New(keys)
	if err != nil {
		b.Fatal(err)
	}
	mem := random(64 << 20)
	maps := fmt.Sprintf("0-%x rw-p 0 00:00 0\n", len(mem))
	b.SetBytes(int64(len(mem)))
	for b.Loop() {
		if r, err := s.Scan(strings.NewReader(maps), bytes.NewReader(mem), nil); err != nil || r.Found != 0 {
			b.Fatal(r, err)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("0-1000 rw-p 0 00:00 0  [heap]\n", "a 0011223344556677\n")
	f.Add("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n", "a b c\n")
	f.Add("0-ffffffffffffffff rw-p 0 0 0\n", "half 00")
	f.Add("fffffffffffff000-ffffffffffffffff rw-p 0 0 0\n", "half 00")
	f.Fuzz(func(t *testing.T, maps, log string) {
		keys, err := memscan.ReadKeyLog(strings.NewReader(log))
		if err != nil {
			return
		}
		s, err := memscan.New(keys)
		if err != nil {
			return
		}
		s.Scan(strings.NewReader(maps), strings.NewReader(log), bytes.NewReader(nil))
	})
}
