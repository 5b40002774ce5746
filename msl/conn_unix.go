// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package msl

import (
	"errors"
	"net"
	"syscall"
)

// nothingToRead reports whether reading from a connection would have to wait. One that cannot be asked is taken
// for good. If there is something to read, a byte of it is lost.
func nothingToRead(conn net.Conn) bool {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	nothing := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		nothing = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && nothing
}
