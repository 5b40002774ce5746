// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/secret"
)

const (
	maxPIN    = 256 // bytes
	lockDelay = 5 * time.Millisecond
	lockTime  = time.Second
)

var (
	errPINSource = errors.New("pin-source must be file:PATH, or credential:NAME")
	errPINFile   = errors.New("the PIN's file must be a regular file of this user or root, that nobody else can read (mode 0600 or less)")
	errPINBusy   = errors.New("another process is logging in with this PIN, and does not get done")
	errPINSize   = errors.New("the PIN's file must hold one line of 1 to 256 bytes")
)

// openPIN opens the file that is the PIN's source.
func openPIN(source string) (*os.File, error) {
	kind, value, _ := strings.Cut(source, ":")
	switch {
	case kind == "file" && filepath.IsAbs(value):
	case kind == "credential" && value != "" && value == filepath.Base(value) && value != "." && value != "..":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, errors.New("$CREDENTIALS_DIRECTORY is not set: the service manager passes no credentials")
		}
		value = filepath.Join(dir, value)
	default:
		return nil, errPINSource
	}
	f, err := os.OpenFile(value, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			err = errPINFile
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockPIN waits until no other process is logging in with the PIN of that file, so that a wrong one is tried by one of
// them, and the others see in the token's flags that it was wrong. Closing the file ends it.
func lockPIN(f *os.File) error {
	for began := time.Now(); ; time.Sleep(lockDelay) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
		if time.Since(began) > lockTime {
			return errPINBusy
		}
	}
}

// readPIN reads the PIN. It is read for each log-in and not kept. The caller wipes it.
func readPIN(f *os.File) (*secret.Bytes, error) {
	buffer := make([]byte, maxPIN+3) // room for a line end, and for noticing what is too long
	n, err := io.ReadFull(f, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(buffer)
		return nil, err
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(buffer[:n], []byte("\n")), []byte("\r"))
	if len(line) == 0 || len(line) > maxPIN || bytes.ContainsAny(line, "\n\x00") {
		secret.Wipe(buffer)
		return nil, errPINSize
	}
	return secret.Take(line), nil
}
