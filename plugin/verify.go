// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Why a binary is not run. [StartError] wraps them.
var (
	ErrNotAbsolute  = errors.New("path is not absolute")
	ErrNotRegular   = errors.New("not a regular file")
	ErrOwner        = errors.New("owned by another user, who could replace the binary; it must be owned by root or by this user")
	ErrWritable     = errors.New("writable by others, who could replace the binary; use chmod go-w")
	ErrTooLarge     = errors.New("file too large")
	ErrHashMissing  = errors.New("no SHA-256 given; it is 64 hexadecimal digits")
	ErrHashMismatch = errors.New("file has changed since its SHA-256 was pinned")
)

// A HashError says that a binary is not the one that was pinned. It is an ErrHashMismatch.
type HashError struct {
	Want, Got string // SHA-256 in hexadecimal
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%v: expected %s, is %s", ErrHashMismatch, e.Want, e.Got)
}

// Unwrap returns ErrHashMismatch.
func (e *HashError) Unwrap() error { return ErrHashMismatch }

const maxBinary = 512 << 20 // bytes

// HashFile returns the SHA-256 of a file as [Spec] takes it.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// verified returns the bytes of the binary at path, which have that SHA-256, as a file that nobody can
// change any more. On failure step says at what.
func verified(path, sum string) (binary *os.File, step Step, err error) {
	want, err := hex.DecodeString(sum)
	if err != nil || len(want) != sha256.Size {
		return nil, StepHash, ErrHashMissing
	}
	if !filepath.IsAbs(path) {
		return nil, StepResolve, ErrNotAbsolute
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return nil, StepResolve, err
	}
	if err := checkParents(path); err != nil {
		return nil, StepPermissions, err
	}
	// Not blocking, or a FIFO would make this wait.
	source, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, StepResolve, err
	}
	defer source.Close()
	info, err := source.Stat()
	switch {
	case err != nil:
		return nil, StepResolve, err
	case !info.Mode().IsRegular():
		return nil, StepPermissions, ErrNotRegular
	case info.Size() > maxBinary:
		return nil, StepRead, ErrTooLarge
	}
	if err := checkInfo(path, info); err != nil {
		return nil, StepPermissions, err
	}
	return sealed(source, want)
}

// sealed copies source to memory, hashes what it copies, and seals it. From then on, what happens to
// the file matters no more.
func sealed(source *os.File, want []byte) (_ *os.File, step Step, err error) {
	memory, err := newMemory()
	if err != nil {
		return nil, StepSeal, err
	}
	defer func() {
		if err != nil {
			memory.Close()
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(memory, h), io.LimitReader(source, maxBinary+1))
	if err != nil {
		return nil, StepRead, err
	}
	if n > maxBinary {
		return nil, StepRead, ErrTooLarge
	}
	if got := h.Sum(nil); subtle.ConstantTimeCompare(got, want) != 1 {
		return nil, StepHash, &HashError{Want: hex.EncodeToString(want), Got: hex.EncodeToString(got)}
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, StepSeal, err
	}
	return memory, 0, nil
}

func newMemory() (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("binary", flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("binary", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "binary"), nil
}

// checkParents demands of all folders above path what checkInfo demands.
func checkParents(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if err := checkInfo(dir, info); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// checkInfo demands that nobody but root and this user can write to a file or folder. A folder that is
// writable by others may be sticky, as /tmp is: what root or this user own there, nobody else can move.
// A group that has the number of the owner is the owner's alone, by the custom of systems whose umask is 002.
func checkInfo(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return &fs.PathError{Op: "check", Path: path, Err: ErrOwner}
	}
	others := fs.FileMode(0o022)
	if st.Gid == st.Uid {
		others = 0o002
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode().Perm()&others != 0 && !sticky {
		return &fs.PathError{Op: "check", Path: path, Err: ErrWritable}
	}
	return nil
}
