// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Log is a key log: a file that gets every key in the clear, for tests and for debugging, as TLS
// stacks have one. It exists only if it is asked for when the process starts. A nil *Log is off.
//
// Each line is a label, a blank, and the key in lower-case hex.
type Log struct {
	mu  sync.Mutex
	f   *os.File
	err error
}

// OpenLog opens a key log for appending. A file that is not there is made, for its owner only. One that
// is there, say from before a restart, must be a regular file of this user that nobody else can read.
func OpenLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		// Not blocking, in case that somebody put a pipe there.
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the key log: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the key log: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		f.Close()
		return nil, fmt.Errorf("opening the key log %s: must be a regular file of mode 0600 and of this user", path)
	}
	return &Log{f: f}, nil
}

// Add writes the key. It is the other door to its bytes, beside [Reveal]; the log keeps no copy in memory.
// Empty keys are left out. Blanks in the label become underscores.
func (l *Log) Add(label string, s *Bytes) {
	if l == nil || s.Len() == 0 {
		return
	}
	label = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, label)
	line := make([]byte, 0, len(label)+2*s.Len()+2) // never grows: no copy is left behind
	line = append(append(line, label...), ' ')
	line = hex.AppendEncode(line, Reveal(s))
	line = append(line, '\n')
	defer Wipe(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		_, l.err = l.f.Write(line)
	}
}

// Close closes the file and returns the first error of writing it. Add does nothing afterwards.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	if cerr := l.f.Close(); err == nil {
		err = cerr
	}
	l.err = os.ErrClosed
	return err
}
