// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Finding is the outcome of one step of [Harden].
type Finding struct {
	Name   string // "dumpable", "core-dumps", "new-privileges", "memory-lock"
	OK     bool
	Detail string // why not, or how
}

// Harden makes this process a poor place to steal secrets from: no core dumps, no ptrace or reading
// of its memory by processes of the same user, no new privileges, no swap. It is called first thing in
// main, before a secret is read. No failure is fatal: each is reported, for the health of the process.
//
// With keepDumpable, which is for the key log of debugging and tests, the process can be traced and its
// memory read by its own user, and a finding says so.
func Harden(keepDumpable bool) []Finding {
	debug.SetTraceback("single") // never "crash", which dumps core
	return []Finding{
		finding("dumpable", notDumpable(keepDumpable)),
		finding("core-dumps", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})),
		finding("new-privileges", noNewPrivileges()),
		finding("memory-lock", lockMemory()),
	}
}

func finding(name string, err error) Finding {
	if err != nil {
		return Finding{Name: name, Detail: err.Error()}
	}
	return Finding{Name: name, OK: true}
}

func notDumpable(keep bool) error {
	if keep {
		return fmt.Errorf("memory can be read by other processes of this user, as the key log demands")
	}
	// Not inherited through exec: each process must do so itself.
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// noNewPrivileges is per thread. Start sets it for its children, whose threads then all have it; for
// other processes it is set here, which works in binaries without cgo.
func noNewPrivileges() error {
	if allThreadsHaveNone() {
		return nil
	}
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) // of this thread at least
	}
	if allThreadsHaveNone() {
		return nil
	}
	return fmt.Errorf("some threads may gain privileges; have the service manager set NoNewPrivileges")
}

func allThreadsHaveNone() bool {
	files, _ := filepath.Glob("/proc/self/task/*/status")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && !bytes.Contains(b, []byte("NoNewPrivs:\t1")) {
			return false
		}
	}
	return len(files) > 0
}

// lockMemory keeps memory from being swapped. Under a finite limit it would make allocations fail later,
// so there it is not tried.
func lockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Cur != unix.RLIM_INFINITY && os.Geteuid() != 0 {
		return fmt.Errorf("not locked: the limit is %d bytes; set RLIMIT_MEMLOCK to unlimited, or use encrypted swap", limit.Cur)
	}
	// On fault, since the Go runtime reserves far more than it uses.
	err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	return os.NewSyscallError("mlockall", err)
}
