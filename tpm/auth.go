// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
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
	errAuthShort = errors.New("an authorisation value that is random has at least 24 characters")
	errNoAuth    = errors.New("the key has an authorisation value, and the configuration names no auth-source")
	errRefused   = errors.New("the chip has refused this authorisation value; it is not tried again until its file changes")
	errLastTry   = errors.New("one more wrong authorisation value would lock the chip")
)

// readAuth reads an authorisation value, and what tells whether its file is the same the next time. It is read for
// each use and not kept. The caller wipes it.
func readAuth(source string) (*secret.Bytes, string, error) {
	f, err := secretfile.OpenReference(source)
	if err != nil {
		return nil, "", fmt.Errorf("auth-source: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	auth, err := secretfile.ReadLine(f, maxAuth)
	if err != nil {
		return nil, "", fmt.Errorf("auth-source: %w", err)
	}
	now := stampOf(info)
	id := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%d", f.Name(), now.inode, now.size, now.time))
	return auth, hex.EncodeToString(id[:]), nil
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
		case isLost(err) && !c.proven[id] && (k.file.hasAuth || !k.area.ObjectAttributes.NoDA):
			// Whether the value is wrong is not known, so this operation does not try it again. (Where there is none, none is wrong.)
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
	if werr := atomicfile.Replace(filepath.Join(c.config.Folder, refusedFile), []byte(text), 0o600); err == nil {
		err = werr
	}
	return failure(providers.Locked, "authorising the use of a key", errors.Join(cause, err))
}
