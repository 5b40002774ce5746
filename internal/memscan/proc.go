// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package memscan

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// A mapping is one line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end uint64
	perms      string
	path       string
}

// skipped tells whether there is nothing to find: what is unreadable, the kernel's own pages, and
// devices, whose reading may have effects.
func (m mapping) skipped() bool {
	switch {
	case !strings.HasPrefix(m.perms, "r"):
		return true
	case strings.HasPrefix(m.path, "[v"): // [vdso], [vvar], [vvar_vclock], [vsyscall]
		return true
	case strings.HasPrefix(m.path, "/dev/"):
		return !strings.HasPrefix(m.path, "/dev/shm/") && !strings.HasPrefix(m.path, "/dev/zero")
	}
	return false
}

// name is what a report calls the mapping.
func (m mapping) name() string {
	if m.path == "" {
		return "anonymous"
	}
	return m.path
}

// readMappings parses /proc/PID/maps.
func readMappings(r io.Reader) ([]mapping, error) {
	var ms []mapping
	s := bufio.NewScanner(r)
	for s.Scan() {
		// address perms offset dev inode path
		f := strings.Fields(s.Text())
		if len(f) < 5 {
			return nil, errors.New("memscan: a line of maps has too few fields")
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || start > end {
			return nil, errors.New("memscan: a line of maps has no address")
		}
		ms = append(ms, mapping{start, end, f[1], strings.Join(f[5:], " ")})
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("memscan: reading maps: %w", err)
	}
	return ms, nil
}

// touched returns the parts of a mapping that are in memory or in swap, as far as pagemap tells (see
// pagemap.rst of Linux: 64 bits a page, bit 63 for present and 62 for swapped). Parts do not adjoin.
func touched(m mapping, pagemap io.ReaderAt) []mapping {
	if pagemap == nil {
		return []mapping{m}
	}
	size := uint64(os.Getpagesize())
	var parts []mapping
	entries := make([]byte, 8<<10)
	for at := m.start; at < m.end; {
		want := min(uint64(len(entries)), (m.end-at)/size*8)
		n, _ := pagemap.ReadAt(entries[:want], int64(at/size*8))
		n -= n % 8
		for i := 0; i < n; i += 8 {
			if binary.LittleEndian.Uint64(entries[i:])>>62 != 0 {
				parts = extend(parts, m, at, at+size)
			}
			at += size
		}
		if n == 0 { // it does not tell
			return extend(parts, m, at, m.end)
		}
	}
	return parts
}

// extend adds a range of m to the parts, as a part of its own if it does not adjoin the last one.
func extend(parts []mapping, m mapping, start, end uint64) []mapping {
	if n := len(parts); n > 0 && parts[n-1].end == start {
		parts[n-1].end = end
		return parts
	}
	m.start, m.end = start, end
	return append(parts, m)
}

const (
	maxLine = 64 << 10 // bytes of a line of the key log
	maxKeys = 1 << 20
)

// ReadKeyLog parses a key log: lines of a label, a blank, and the key in hexadecimal. A last line without
// its end is left out, since it may be half written.
func ReadKeyLog(r io.Reader) ([]Key, error) {
	var keys []Key
	in := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, fmt.Errorf("memscan: line %d of the key log: %w", n, err)
		}
		label, text, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		b := make([]byte, hex.DecodedLen(len(text)))
		if _, err := hex.Decode(b, text); err != nil || !ok || len(b) == 0 || len(label) == 0 {
			return nil, fmt.Errorf("memscan: line %d of the key log is not a label and a key", n)
		}
		if len(keys) == maxKeys {
			return nil, errors.New("memscan: too many keys in the key log")
		}
		keys = append(keys, Key{string(label), b})
	}
}
