// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package secretfile opens and reads the files that hold a secret. Configurations do not hold secrets, but refer to them:
//
//	file:PATH        a file of this user or root that nobody else can access; the path is absolute
//	credential:NAME  a file in $CREDENTIALS_DIRECTORY, which the service manager makes (systemd's LoadCredential=)
//
// Links are followed, since that is how Kubernetes replaces secrets: what is checked is the file that was opened, and not
// a name that could mean another one a moment later.
package secretfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mslkeep/mslkeep/internal/secret"
)

var (
	// ErrReference means that a reference is none.
	ErrReference = errors.New("must be file:PATH with an absolute path, or credential:NAME")
	// ErrNoCredentials means that a reference names a credential, and that there are none.
	ErrNoCredentials = errors.New("$CREDENTIALS_DIRECTORY is not set: the service manager passes no credentials")
	// ErrAccess means that a file is none that only this user or root can read and write.
	ErrAccess = errors.New("not private")
	// ErrContent means that a file does not hold what it should.
	ErrContent = errors.New("the secret's file does not hold a secret")
)

// Path returns the path of the file that a reference names. It does not look whether there is one.
func Path(reference string) (string, error) {
	kind, value, _ := strings.Cut(reference, ":")
	switch {
	case kind == "file" && filepath.IsAbs(value):
		return value, nil
	case kind == "credential" && value != "" && value != "." && value != ".." && !strings.Contains(value, "/"):
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", ErrNoCredentials
		}
		return filepath.Join(dir, value), nil
	}
	return "", ErrReference
}

// OpenReference opens the file that a reference names.
func OpenReference(reference string) (*os.File, error) {
	path, err := Path(reference)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(reference, "credential:") {
		// If the service has a user, systemd gives the file to root and lets the user read it by an access control list,
		// whose mask the mode then shows as what the group may do: 0440.
		return open(path, 0o037)
	}
	return Open(path)
}

// Open opens a file, which only this user or root may be able to read or write.
func Open(path string) (*os.File, error) { return open(path, 0o077) }

// OpenPublic opens the file that a reference names, whoever can read it and whose it is: Kubernetes lets everybody read
// its tokens, in a file system of the pod's own.
func OpenPublic(reference string) (*os.File, error) {
	path, err := Path(reference)
	if err != nil {
		return nil, err
	}
	f, _, err := openRegular(path)
	return f, err
}

// open opens a file of this user or root whose mode has none of the forbidden bits.
func open(path string, forbidden os.FileMode) (*os.File, error) {
	f, info, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		err = fmt.Errorf("%w: %s belongs to another user", ErrAccess, path)
	case info.Mode().Perm()&forbidden != 0:
		err = fmt.Errorf("%w: others can access it; run: chmod 600 %s", ErrAccess, path)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

func openRegular(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", ErrAccess, path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Read reads all of a secret of 1 to limit bytes. The caller wipes it.
func Read(r io.Reader, limit int) (*secret.Bytes, error) {
	buffer := make([]byte, limit+1) // one buffer, so that no copy is left behind; one more, to notice what is too long
	n, err := io.ReadFull(r, buffer)
	if err == nil {
		err = fmt.Errorf("%w: it has more than %d bytes", ErrContent, limit)
	} else if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: it is empty", ErrContent)
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		return secret.Take(buffer[:n]), nil
	}
	secret.Wipe(buffer)
	return nil, err
}

// ReadLine reads a secret that is one line of 1 to limit bytes without zero bytes. The line's end, which may be missing, is
// not part of it. The caller wipes it.
func ReadLine(r io.Reader, limit int) (*secret.Bytes, error) {
	s, err := Read(r, limit+len("\r\n"))
	if err != nil {
		return nil, err
	}
	line := TrimLineEnd(secret.Reveal(s))
	if len(line) == 0 || len(line) > limit || bytes.ContainsAny(line, "\n\x00") {
		s.Wipe()
		return nil, fmt.Errorf("%w: it must be one line of 1 to %d bytes", ErrContent, limit)
	}
	return secret.Take(line), nil
}

// TrimLineEnd returns b without one line end.
func TrimLineEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}
