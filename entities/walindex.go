// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"os"
	"syscall"
)

// A walIndex is the file beside a SQLite database in WAL mode in which its connections, of all processes, agree on what was
// committed last. Its header is two copies of 48 bytes that every commit changes, the last thing before it is over
// (https://www.sqlite.org/walformat.html §2.1). SQLite looks there, too, to find out whether anything has changed; to do so
// here takes a microsecond, and to ask SQLite takes many, which would be spent on each message.
//
// While a connection is open, nobody removes the file.
type walIndex struct {
	path string
	fd   int
	info os.FileInfo
}

// walState is the header. Two that are the same are of the same moment: it has counters, salts and checksums.
type walState [2 * 48]byte

const walInitialised = 12 // where a byte of the header is not 0 if it is in use

// openWALIndex returns nil if there is none. The descriptor stays open for good, since closing it would take away the locks
// that other connections of this process have on the file; a process opens a database once.
func openWALIndex(path string) *walIndex {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	var here syscall.Stat_t
	there, ok := info.Sys().(*syscall.Stat_t)
	if err := syscall.Fstat(fd, &here); err != nil || !ok || here.Ino != there.Ino || here.Dev != there.Dev {
		return nil
	}
	return &walIndex{path, fd, info}
}

// here reports whether the file is the one that connections of now use.
func (w *walIndex) here() bool {
	info, err := os.Stat(w.path)
	return err == nil && os.SameFile(info, w.info)
}

// state returns the header, unless it is being changed.
func (w *walIndex) state() (s walState, ok bool) {
	n, err := syscall.Pread(w.fd, s[:], 0)
	return s, err == nil && n == len(s) && [48]byte(s[:48]) == [48]byte(s[48:]) && s[walInitialised] != 0
}
