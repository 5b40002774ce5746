// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// A fragileDisk is a folder that forgets, when the power fails, what was not made durable, or does not: a file that was not
// synced may have any part of its data, and a name that was not synced may be missing, or still mean the old file.
type fragileDisk struct {
	names   map[string]*fragileFile // as they are
	durable map[string]*fragileFile // as they surely are
	calls   int
	failAt  int  // the call that fails; 0 for none
	dead    bool // and that all after it fail, as if the process had ended
	stopped bool
}

var errDisk = errors.New("disk failure")

func (d *fragileDisk) call() error {
	d.calls++
	if d.calls == d.failAt || d.stopped {
		d.stopped = d.dead
		return errDisk
	}
	return nil
}

type fragileFile struct {
	disk         *fragileDisk
	data, synced []byte
}

func (f *fragileFile) Write(p []byte) (int, error) {
	if err := f.disk.call(); err != nil {
		f.data = append(f.data, p[:len(p)/2]...)
		return len(p) / 2, err
	}
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *fragileFile) Sync() error {
	if err := f.disk.call(); err != nil {
		return err
	}
	f.synced = f.data
	return nil
}

func (f *fragileFile) Close() error { return f.disk.call() }

func (d *fragileDisk) create(path string, _ fs.FileMode) (file, error) {
	if err := d.call(); err != nil {
		return nil, err
	}
	if d.names[path] != nil {
		return nil, fs.ErrExist
	}
	f := &fragileFile{disk: d}
	d.names[path] = f
	return f, nil
}

func (d *fragileDisk) rename(from, to string) error {
	if err := d.call(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *fragileDisk) link(from, to string) error {
	if err := d.call(); err != nil {
		return err
	}
	if d.names[to] != nil {
		return fs.ErrExist
	}
	d.names[to] = d.names[from]
	return nil
}

func (d *fragileDisk) remove(path string) error {
	if err := d.call(); err != nil {
		return err
	}
	if d.names[path] == nil {
		return fs.ErrNotExist
	}
	delete(d.names, path)
	return nil
}

func (d *fragileDisk) syncDir(string) error {
	if err := d.call(); err != nil {
		return err
	}
	d.durable = maps.Clone(d.names)
	return nil
}

// after returns all that the file may hold after a loss of power, and after the mere end of the process.
func (d *fragileDisk) after(path string) (lost [][]byte, ended []byte) {
	for _, f := range []*fragileFile{d.names[path], d.durable[path]} {
		if f == nil {
			lost = append(lost, nil)
			continue
		}
		lost = append(lost, f.synced)
		for n := len(f.synced); n <= len(f.data); n++ {
			lost = append(lost, f.data[:n])
		}
	}
	if f := d.names[path]; f != nil {
		ended = f.data
	}
	return lost, ended
}

// TestFaults fails each call that writing a file three times makes of the file system, alone and with all that follow. Whatever is
// lost, the file is then the old one or the new one, the new one if that was said, and writing goes on afterwards.
func TestFaults(t *testing.T) {
	const path = "folder/file"
	states := []string{"the first state", "the second one, which is longer", "and the third"}
	for name, write := range map[string]func(disk, string, []byte, fs.FileMode) error{"replace": replace, "replaceLocked": replaceLocked, "create": create} {
		for _, dead := range []bool{false, true} {
			for n := 1; ; n++ {
				d := &fragileDisk{names: make(map[string]*fragileFile), durable: make(map[string]*fragileFile), failAt: n, dead: dead}
				saved := ""
				allowed := map[string]bool{"": true}
				for _, state := range states {
					err := write(d, path, []byte(state), 0o600)
					if err == nil {
						saved = state
						allowed = make(map[string]bool)
					}
					if !errors.Is(err, fs.ErrExist) {
						allowed[state] = true
					}
					lost, ended := d.after(path)
					for _, data := range append(lost, ended) {
						if !allowed[string(data)] {
							t.Errorf("%s: call %d failed (and all after: %v): the file may hold %q, when %q was saved", name, n, dead, data, saved)
						}
					}
					d.stopped = false // the process starts again
				}
				reached := d.calls >= n
				d.failAt = 0
				err := write(d, path, []byte("afterwards"), 0o600)
				if name == "create" && !errors.Is(err, fs.ErrExist) || name != "create" && err != nil || name == "replaceLocked" && len(d.names) != 1 {
					t.Errorf("%s: call %d failed (and all after: %v): writing afterwards gives %v, and %d files", name, n, dead, err, len(d.names))
				}
				if !dead && reached && saved == "" && name != "create" {
					t.Errorf("%s: call %d failed: nothing was saved after that", name, n)
				}
				if !reached {
					if n < 18 {
						t.Errorf("%s: only %d calls were made", name, n-1)
					}
					break
				}
			}
		}
	}
}

// TestRealDisk: each function leaves the right file of the right mode, and no other.
func TestRealDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path+".new", []byte("of a process that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error, want string) {
		t.Helper()
		data, rerr := os.ReadFile(path)
		if err != nil || rerr != nil || string(data) != want {
			t.Errorf("%s: %v; the file holds %q (%v)", what, err, data, rerr)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", what, info, err)
		}
	}
	check("Create", Create(path, []byte("1"), 0o600), "1")
	if err := Create(path, []byte("2"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create, where there is a file: %v", err)
	}
	check("Replace", Replace(path, []byte("3"), 0o600), "3")
	check("ReplaceLocked", ReplaceLocked(path, []byte("4"), 0o600), "4")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("there are left: %v, %v", left, err)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	if err := Remove(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove, where there is no file: %v", err)
	}
	none := filepath.Join(dir, "none", "file")
	for _, write := range []func(string, []byte, fs.FileMode) error{Create, Replace, ReplaceLocked} {
		if err := write(none, nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("where there is no folder: %v", err)
		}
	}
}
