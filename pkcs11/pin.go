// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxPIN    = 256 // bytes
	lockDelay = 5 * time.Millisecond
	lockTime  = time.Second
)

var errPINBusy = errors.New("another process is logging in with this PIN, and does not get done")

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
