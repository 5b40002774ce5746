// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	maxAuth = sha256.Size // bytes: a chip takes no more than its hash has
	// minRandomAuth is how many bytes a value must have to be believed random: 16 in hexadecimal, or 24 of base64.
	minRandomAuth = 24
	// refusedFile, in the folder of keys, says of which authorisation values the chip has said that they are wrong, and of the
	// last ones only.
	refusedFile = "auth.refused"
	maxRefused  = 500
)

var (
	errAuthSource = errors.New("auth-source must be file:PATH, or credential:NAME")
	errAuthFile   = errors.New("the authorisation value's file must be a regular file of this user or root, that nobody else can read (mode 0600 or less)")
	errAuthSize   = errors.New("the authorisation value's file must hold one line of 1 to 32 bytes, without zero bytes")
	errAuthShort  = errors.New("an authorisation value that is random has at least 24 characters")
	errNoAuth     = errors.New("the key has an authorisation value, and the configuration names no auth-source")
	errRefused    = errors.New("the chip has refused this authorisation value; it is not tried again until its file changes")
	errLastTry    = errors.New("one more wrong authorisation value would lock the chip")
)

// authPath resolves a reference to an authorisation value.
func authPath(source string) (string, error) {
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
	return "", errAuthSource
}

// readAuth reads an authorisation value, and what tells whether its file is the same the next time. It is read for
// each use and not kept. The caller wipes it.
func readAuth(source string) (*secret.Bytes, string, error) {
	path, err := authPath(source)
	if err != nil {
		return nil, "", err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, "", errAuthFile
	}
	buffer := make([]byte, maxAuth+3) // room for a line end, and for noticing what is too long
	n, err := io.ReadFull(f, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(buffer)
		return nil, "", err
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(buffer[:n], []byte("\n")), []byte("\r"))
	if len(line) == 0 || len(line) > maxAuth || bytes.ContainsAny(line, "\n\x00") {
		secret.Wipe(buffer)
		return nil, "", errAuthSize
	}
	now := stampOf(info)
	id := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%d", path, now.inode, now.size, now.time))
	return secret.Take(line), hex.EncodeToString(id[:]), nil
}

// authOf returns a key's authorisation value, nil if it has none. The caller calls done with what the chip said.
func (c *chip) authOf(k *stored) (auth *secret.Bytes, done func(error) error, err error) {
	const op = "reading a key's authorisation value"
	id := "none" // which is wrong, too, if a file says so that others have made
	if k.file.hasAuth {
		if c.config.AuthSource == "" {
			return nil, nil, failure(providers.Locked, op, errNoAuth)
		}
		if auth, id, err = readAuth(c.config.AuthSource); err != nil {
			return nil, nil, failure(providers.Locked, op, err)
		}
	}
	id += hex.EncodeToString(k.name.Buffer[2:10]) // another key may have another value
	if err := c.mayTry(id, k); err != nil {
		auth.Wipe()
		return nil, nil, err
	}
	return auth, func(err error) error {
		auth.Wipe()
		switch {
		case isAuth(err):
			return c.refuse(id, err)
		case err == nil:
			c.prove(id, true)
		case isLost(err) && !c.proven[id]:
			// Whether the value is wrong is not known, so this operation does not try it again.
			c.drop()
			return failure(providers.Transient, op, err)
		}
		return err
	}, nil
}

// mayTry tells whether an authorisation value may be tried. One that is not proven is not when it was refused before,
// or when the chip allows one more wrong one only.
func (c *chip) mayTry(id string, k *stored) error {
	const op = "authorising the use of a key"
	right, known := c.proven[id]
	if right {
		return nil
	}
	refused, err := c.refusedBefore()
	if err != nil {
		return failure(providers.Locked, op, err)
	}
	if known || slices.Contains(refused, id) {
		return failure(providers.Locked, op, errRefused)
	}
	if k.area.ObjectAttributes.NoDA {
		return nil
	}
	p, err := c.properties(tpm2.TPMPTLockoutCounter, 2)
	if err != nil {
		return err
	}
	if limit := p[tpm2.TPMPTMaxAuthFail]; limit > 0 && p[tpm2.TPMPTLockoutCounter]+1 >= limit {
		return failure(providers.Locked, op, errLastTry)
	}
	return nil
}

// prove remembers whether an authorisation value is right.
func (c *chip) prove(id string, right bool) {
	if c.proven == nil || len(c.proven) >= maxKeys { // what was refused is in a file, too
		c.proven = make(map[string]bool)
	}
	c.proven[id] = right
}

// refusedBefore reads what refuse has written.
func (c *chip) refusedBefore() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(c.config.Folder, refusedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}

// refuse remembers that an authorisation value is wrong, so that not even another process tries it again.
func (c *chip) refuse(id string, cause error) error {
	c.prove(id, false)
	refused, err := c.refusedBefore()
	refused = append(refused, id)
	text := strings.Join(refused[max(0, len(refused)-maxRefused):], "\n") + "\n"
	if werr := replaceFile(c.config.Folder, refusedFile, []byte(text)); err == nil {
		err = werr
	}
	return failure(providers.Locked, "authorising the use of a key", errors.Join(cause, err))
}
