// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
)

// A folder holds the public keys of enrolled identities: a file IDENTITY.pem for each, escaped as in a URL's path, with a
// SubjectPublicKeyInfo. It is what mslkeep serve reads as public-key-directory.
type folder struct{ root *os.Root }

var errOtherKey = errors.New("another key is enrolled")

func fileOf(identity string) string { return url.PathEscape(identity) + ".pem" }

// check refuses an identity that has another key. It returns whether it has this one.
func (d folder) check(identity string, spki []byte) (there bool, err error) {
	f, err := d.root.Open(fileOf(identity))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBody))
	if err != nil {
		return false, err
	}
	if !bytes.Equal(data, encode(spki)) {
		return false, errOtherKey
	}
	return true, nil
}

func encode(spki []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}

// add enrols an identity. A reader sees the whole file or none, also after a power cut.
func (d folder) add(identity string, spki []byte, replace bool) error {
	path, public := filepath.Join(d.root.Name(), fileOf(identity)), fs.FileMode(0o644)
	if replace {
		return atomicfile.Replace(path, encode(spki), public)
	}
	err := atomicfile.Create(path, encode(spki), public) // never over another
	if errors.Is(err, fs.ErrExist) {
		_, err = d.check(identity, spki)
	}
	return err
}
