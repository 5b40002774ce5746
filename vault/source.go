// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mslkeep/mslkeep/internal/secret"
)

const maxSecret = 64 << 10 // bytes of a file with a secret: tokens of JWT are long

var (
	errSource     = errors.New("must be file:PATH, or credential:NAME")
	errSecretFile = errors.New("must be a regular file of this user or root, that nobody else can read (mode 0600 or less)")
	errSecretSize = errors.New("must hold 1 byte to 64 KiB, in one line")
)

// sourcePath resolves a reference to a secret.
func sourcePath(source string) (string, error) {
	kind, value, _ := strings.Cut(source, ":")
	switch {
	case kind == "file" && filepath.IsAbs(value):
		return value, nil
	case kind == "credential" && value != "" && value == filepath.Base(value) && value != "." && value != "..":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", errors.New("$CREDENTIALS_DIRECTORY is not set: the service manager passes no credentials")
		}
		return filepath.Join(dir, value), nil
	}
	return "", errSource
}

// readSecret reads what a reference names. The caller wipes it. Kubernetes lets everybody read its tokens,
// in a file system of the pod's own, so public takes such files.
func readSecret(source string, public bool) (*secret.Bytes, error) {
	path, err := sourcePath(source)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || !public && (info.Mode().Perm()&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
		return nil, errSecretFile
	}
	buffer := make([]byte, min(info.Size(), maxSecret)+1) // one more, to notice what is too long
	n, err := io.ReadFull(f, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(buffer)
		return nil, err
	}
	if n == 0 || n == len(buffer) {
		secret.Wipe(buffer)
		return nil, errSecretSize
	}
	return secret.Take(buffer[:n]), nil
}

// readLine reads a secret of one line, without its end.
func readLine(what, source string, public bool) (*secret.Bytes, error) {
	s, err := readSecret(source, public)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	line := bytes.TrimRight(secret.Reveal(s), "\r\n")
	if len(line) == 0 || bytes.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		s.Wipe()
		return nil, fmt.Errorf("%s: %w", what, errSecretSize)
	}
	return secret.Take(line), nil
}

// readPair makes the key pair of a TLS client.
func readPair(certificate []byte, source string) (tls.Certificate, error) {
	key, err := readSecret(source, false)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading auth.key: %w", err)
	}
	defer key.Wipe()
	pair, err := tls.X509KeyPair(certificate, secret.Reveal(key))
	if err != nil {
		return tls.Certificate{}, errors.New("auth.certificate and auth.key are no pair in PEM")
	}
	return pair, nil
}
