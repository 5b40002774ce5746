// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
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
	temporary := ".new-" + rand.Text() // ends otherwise than all keys
	if err := d.write(temporary, encode(spki)); err != nil {
		return err
	}
	err := d.place(temporary, identity, spki, replace)
	_ = d.root.Remove(temporary) // gone if it was renamed
	if err != nil {
		return err
	}
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// place gives a complete file its name.
func (d folder) place(temporary, identity string, spki []byte, replace bool) error {
	if replace {
		return d.root.Rename(temporary, fileOf(identity))
	}
	err := d.root.Link(temporary, fileOf(identity)) // never over another
	if errors.Is(err, fs.ErrExist) {
		_, err = d.check(identity, spki)
	}
	return err
}

func (d folder) write(name string, data []byte) (err error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) // public keys
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		_ = d.root.Remove(name)
	}
	return err
}
