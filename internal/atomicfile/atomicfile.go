// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes files so that at any instant, even if the power fails, either the old file or the new one is
// there whole. If a function succeeds, that is the new one from then on; if it fails, it is either.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Create makes a file. It fails with fs.ErrExist if there is one, even if another process made it just now.
func Create(path string, data []byte, perm fs.FileMode) error {
	return create(realDisk{}, path, data, perm)
}

func create(d disk, path string, data []byte, perm fs.FileMode) error {
	return write(d, temporary(path), path, data, perm, d.link)
}

// Replace makes a file, or replaces one, also if others do at the same time. A process that is killed meanwhile leaves a file
// beside it whose name begins with ".new-".
func Replace(path string, data []byte, perm fs.FileMode) error {
	return replace(realDisk{}, path, data, perm)
}

func replace(d disk, path string, data []byte, perm fs.FileMode) error {
	return write(d, temporary(path), path, data, perm, d.rename)
}

// ReplaceLocked makes a file, or replaces one. The caller keeps all others from doing so at the same time. What a process
// that is killed meanwhile leaves, path with ".new" at its end, goes with the next writing.
func ReplaceLocked(path string, data []byte, perm fs.FileMode) error {
	return replaceLocked(realDisk{}, path, data, perm)
}

func replaceLocked(d disk, path string, data []byte, perm fs.FileMode) error {
	temp := path + ".new"
	if err := d.remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return write(d, temp, path, data, perm, d.rename)
}

// Remove removes a file for good.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return realDisk{}.syncDir(filepath.Dir(path))
}

func temporary(path string) string { return filepath.Join(filepath.Dir(path), ".new-"+rand.Text()) }

// write makes a temporary file durable before place gives it its name.
func write(d disk, temp, path string, data []byte, perm fs.FileMode, place func(from, to string) error) error {
	f, err := d.create(temp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = place(temp, path)
	}
	_ = d.remove(temp) // which is gone if it was renamed
	if err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// A disk is what writing takes of the file system, each method one thing that can fail.
type disk interface {
	create(path string, perm fs.FileMode) (file, error) // a file that must not exist
	rename(from, to string) error
	link(from, to string) error // to must not exist
	remove(path string) error
	syncDir(path string) error // makes what is in it durable
}

type file interface {
	io.WriteCloser
	Sync() error
}

type realDisk struct{}

func (realDisk) create(path string, perm fs.FileMode) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}
func (realDisk) rename(from, to string) error { return os.Rename(from, to) }
func (realDisk) link(from, to string) error   { return os.Link(from, to) }
func (realDisk) remove(path string) error     { return os.Remove(path) }
func (realDisk) syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
