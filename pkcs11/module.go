// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/providers"
)

const maxModule = 256 << 20 // bytes

// A module is a PKCS #11 library that was loaded.
type module struct {
	ctx *p11.Ctx

	mu    sync.Mutex
	calls map[string]uint64
	fault func(call string) error // of tests: what a call fails with, in place of being made
}

// loadModule loads the library if its SHA-256 is sum, in hexadecimal. What is loaded is a sealed copy of
// the bytes that were hashed, so nobody can change it in between.
func loadModule(path, sum string) (*module, error) {
	const op = "loading the PKCS #11 module"
	want, err := hex.DecodeString(sum)
	if err != nil || len(want) != sha256.Size {
		return nil, unset(op, errors.New("its SHA-256 must be set, to 64 hexadecimal digits"))
	}
	if !filepath.IsAbs(path) {
		return nil, unset(op, errors.New("its path must be absolute"))
	}
	source, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure(providers.Device, op, providers.Because(providers.CauseDriver, err))
	}
	defer source.Close()
	memory, err := sealedCopy(source, want)
	if err != nil {
		return nil, failure(providers.Denied, op, err)
	}
	defer memory.Close()
	// The loader takes a name that it knows for the library that it has loaded by it, so the number of
	// this descriptor must not be used again: it stays open, as the library stays loaded.
	fd, err := unix.FcntlInt(memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	ctx := p11.New(fmt.Sprintf("/proc/self/fd/%d", fd))
	if ctx == nil {
		unix.Close(fd)
		return nil, failure(providers.Device, op, providers.Because(providers.CauseDriver, errors.New("the file is no PKCS #11 library, or a library that it needs is missing: see ldd")))
	}
	return &module{ctx: ctx, calls: make(map[string]uint64)}, nil
}

func sealedCopy(source *os.File, want []byte) (*os.File, error) {
	if info, err := source.Stat(); err != nil {
		return nil, err
	} else if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o002 != 0 ||
		st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, providers.Because(providers.CauseDriver, errors.New("it must be a regular file of this user or root that others cannot change"))
	}
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("module", flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("module", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	memory := os.NewFile(uintptr(fd), "module")
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(memory, h), io.LimitReader(source, maxModule+1))
	switch {
	case err != nil:
	case n > maxModule:
		err = errors.New("it is too large")
	case subtle.ConstantTimeCompare(h.Sum(nil), want) != 1:
		err = providers.Because(providers.CauseDriverChanged, fmt.Errorf("its SHA-256 is %x, which is not the one that was configured", h.Sum(nil)))
	default:
		const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		memory.Close()
		return nil, err
	}
	return memory, nil
}

// call counts a call, and makes it.
func (m *module) call(name string, f func(*p11.Ctx) error) error {
	m.mu.Lock()
	m.calls[name]++
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		if err := fault(name); err != nil {
			return err
		}
	}
	return f(m.ctx)
}

// counts returns how often each function was called.
func (m *module) counts() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.calls)
}
