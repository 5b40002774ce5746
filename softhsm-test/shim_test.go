// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"
)

// What PKCS #11 functions return.
const (
	deviceError    = 0x30
	deviceRemoved  = 0x32
	sessionInvalid = 0xb3
)

// A shim is the module shim.c: it stands in front of SoftHSM, counts what it is asked, and does to it what a test
// wants. All processes that load it share one file.
type shim struct {
	page []byte

	logout, close *uint32 // set to 1, each is done once, and 0 then
	fail          *uint32 // what all functions return, or 0
	hang          *uint32 // number of a function that does not return, plus 1, or 0
}

const (
	shimFunctions = 16 // where the functions begin in the file: 32 bytes of name and 8 of count for each
	shimFunction  = 40
	shimCount     = 68
	shimSize      = shimFunctions + shimCount*shimFunction
)

// newShim puts the shim in front of the HSM.
func newShim(t testing.TB, h *hsm) *shim {
	t.Helper()
	path := filepath.Join(h.dir, "shim")
	if err := os.WriteFile(path, make([]byte, shimSize), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := syscall.Mmap(int(f.Fd()), 0, shimSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(page) })
	module := tool(t, "shim.so")
	h.env = append(h.env, "SHIM_MODULE="+h.settings["module"].(string), "SHIM_CONTROL="+path)
	h.settings["module"], h.settings["sha256"] = module, sum(t, module)
	at := func(i int) *uint32 { return (*uint32)(unsafe.Pointer(&page[4*i])) }
	return &shim{page: page, logout: at(0), close: at(1), fail: at(2), hang: at(3)}
}

// function returns the number of a function, or -1 as long as no process has loaded the shim.
func (s *shim) function(name string) int {
	for i := range shimCount {
		at := shimFunctions + i*shimFunction
		if got, _, _ := bytes.Cut(s.page[at:at+32], []byte{0}); string(got) == name {
			return i
		}
	}
	return -1
}

// calls returns how often each function was called so far.
func (s *shim) calls() map[string]uint64 {
	counts := make(map[string]uint64)
	for i := range shimCount {
		at := shimFunctions + i*shimFunction
		name, _, _ := bytes.Cut(s.page[at:at+32], []byte{0})
		counts[string(name)] = atomic.LoadUint64((*uint64)(unsafe.Pointer(&s.page[at+32])))
	}
	return counts
}

// since returns what was called since earlier, without the functions that were not.
func (s *shim) since(earlier map[string]uint64) map[string]uint64 {
	counts := s.calls()
	for name, n := range counts {
		if counts[name] = n - earlier[name]; counts[name] == 0 {
			delete(counts, name)
		}
	}
	return counts
}
