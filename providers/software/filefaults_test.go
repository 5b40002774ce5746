// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"errors"
	"os"
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

func (d *fragileDisk) create(path string) (diskFile, error) {
	if err := d.call(); err != nil {
		return nil, err
	}
	if d.names[path] != nil {
		return nil, os.ErrExist
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

func (d *fragileDisk) remove(path string) error {
	if err := d.call(); err != nil {
		return err
	}
	if d.names[path] == nil {
		return os.ErrNotExist
	}
	delete(d.names, path)
	return nil
}

func (d *fragileDisk) syncDir(string) error {
	if err := d.call(); err != nil {
		return err
	}
	d.durable = make(map[string]*fragileFile)
	for name, f := range d.names {
		d.durable[name] = f
	}
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

// TestFileFaults fails each call that writing the key file makes of the file system, alone and with all that follow. Whatever is
// lost, the file is then the old one or the new one, the new one if that was said, and saving goes on afterwards.
func TestFileFaults(t *testing.T) {
	const path = "folder/keys"
	states := []string{"the first state", "the second one, which is longer", "and the third"}
	for _, dead := range []bool{false, true} {
		for n := 1; ; n++ {
			d := &fragileDisk{names: make(map[string]*fragileFile), durable: make(map[string]*fragileFile), failAt: n, dead: dead}
			saved := ""
			allowed := map[string]bool{"": true}
			for _, state := range states {
				if err := replaceFile(d, path, []byte(state)); err == nil {
					saved = state
					allowed = make(map[string]bool)
				}
				allowed[state] = true
				lost, ended := d.after(path)
				for _, data := range append(lost, ended) {
					if !allowed[string(data)] {
						t.Errorf("call %d failed (and all after: %v): the file may hold %q, when %q was saved", n, dead, data, saved)
					}
				}
				d.stopped = false // the process starts again
			}
			reached := d.calls >= n
			d.failAt = 0
			if err := replaceFile(d, path, []byte("afterwards")); err != nil || len(d.names) != 1 {
				t.Errorf("call %d failed (and all after: %v): saving afterwards gives %v, and %d files", n, dead, err, len(d.names))
			}
			if !dead && reached && saved == "" {
				t.Errorf("call %d failed: nothing was saved after that", n)
			}
			if !reached {
				if n < 20 {
					t.Errorf("only %d calls were made", n-1)
				}
				break
			}
		}
	}
}
