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

	"github.com/mslkeep/mslkeep/internal/secret"
)

const maxPIN = 256 // bytes

var (
	errPINSource = errors.New("pin-source must be file:PATH, or credential:NAME")
	errPINFile   = errors.New("the PIN's file must be a regular file of this user or root, that nobody else can read (mode 0600 or less)")
	errPINSize   = errors.New("the PIN's file must hold one line of 1 to 256 bytes")
)

// readPIN reads the PIN from its source. It is read for each log-in and not kept. The caller wipes it.
func readPIN(source string) (*secret.Bytes, error) {
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
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, errPINFile
	}
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
