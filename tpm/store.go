// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/providers"
)

// Each version of a key is a file in one folder: NAME.VERSION.pem, with what is no letter or digit of the name
// escaped as in a URL. A version that was destroyed as the newest one leaves NAME.VERSION.gone, so that its number
// is not used again.

const (
	keySuffix  = ".pem"
	goneSuffix = ".gone"
	maxKeys    = 4096 // files in the folder
)

var (
	errName   = errors.New("a key's name is UTF-8 without control characters, and has at most 200 bytes as a file's name")
	errFolder = errors.New("the folder of keys must be a folder of this user or root, that nobody else can write to")
	errMany   = errors.New("too many files in the folder of keys")
)

// A store is the folder.
type store struct {
	folder string
	mu     sync.Mutex
	parsed map[string]*stored // by the file's name

	changing sync.Mutex // one makes or destroys keys
}

// A stored is one version of a key in the folder.
type stored struct {
	info   providers.KeyInfo
	file   *keyFile
	path   string
	stamp  stamp
	area   *tpm2.TPMTPublic
	name   tpm2.TPM2BName
	broken error // why it cannot be used; nil: it can
}

// A stamp tells whether a file is still the same.
type stamp struct {
	inode      uint64
	size, time int64
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), time: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

func openStore(folder string) (*store, error) {
	info, err := os.Stat(folder)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || info.Mode().Perm()&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, errFolder
	}
	return &store{folder: folder, parsed: make(map[string]*stored)}, nil
}

// fileName returns the name of a version's file, or false if the name is none for a key.
func fileName(name string, version uint32, suffix string) (string, bool) {
	escaped := url.PathEscape(name)
	good := len(name) > 0 && len(escaped) <= 200 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
	return escaped + "." + strconv.FormatUint(uint64(version), 10) + suffix, good
}

// splitName undoes fileName.
func splitName(file, suffix string) (name string, version uint32, ok bool) {
	stem, ok := strings.CutSuffix(file, suffix)
	dot := strings.LastIndexByte(stem, '.')
	if !ok || dot < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(stem[dot+1:], 10, 32)
	if name, uerr := url.PathUnescape(stem[:dot]); err == nil && uerr == nil && n > 0 {
		again, good := fileName(name, uint32(n), suffix)
		return name, uint32(n), good && again == file
	}
	return "", 0, false
}

// list returns the keys of a name, or all if it is empty, in ascending order of versions; and the highest version
// of that name that ever was.
func (s *store) list(name string) (keys []*stored, last uint32, err error) {
	d, err := os.Open(s.folder)
	if err != nil {
		return nil, 0, err
	}
	defer d.Close()
	files, err := d.Readdirnames(maxKeys)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if len(files) == maxKeys {
		return nil, 0, errMany
	}
	for _, f := range files {
		n, version, ok := splitName(f, keySuffix)
		if !ok {
			if n, version, ok = splitName(f, goneSuffix); ok && n == name {
				last = max(last, version)
			}
			continue
		}
		if name != "" && n != name {
			continue
		}
		last = max(last, version)
		k, err := s.read(f, n, version)
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed just now
		}
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b *stored) int { return int(int64(a.info.Version) - int64(b.info.Version)) })
	return keys, last, nil
}

// find returns a version of a key, or nil. Version 0 is the newest.
func (s *store) find(name string, version uint32) (*stored, error) {
	f, ok := fileName(name, version, keySuffix)
	if !ok {
		return nil, nil
	}
	if version != 0 {
		k, err := s.read(f, name, version)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return k, err
	}
	keys, _, err := s.list(name)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return keys[len(keys)-1], nil
}

// read reads a key file, unless it is known already.
func (s *store) read(file, name string, version uint32) (*stored, error) {
	path := filepath.Join(s.folder, file)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	now := stampOf(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.parsed[file]; k != nil && k.stamp == now {
		return k, nil
	}
	k := &stored{path: path, stamp: now, info: providers.KeyInfo{Name: name, Version: version, Created: info.ModTime().Unix()}}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		k.broken = errKeyFile
	} else {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		k.broken = k.parse(b)
	}
	s.parsed[file] = k
	return k, nil
}

// parse fills in what is in the file.
func (k *stored) parse(text []byte) (err error) {
	defer func() {
		if recover() != nil { // the library's decoder of public areas
			err = errKeyPublic
		}
	}()
	if k.file, err = parseKeyFile(text); err != nil {
		return err
	}
	if k.area, err = tpm2.Unmarshal[tpm2.TPMTPublic](k.file.public); err != nil || k.area.NameAlg != tpm2.TPMAlgSHA256 ||
		!bytes.Equal(tpm2.Marshal(*k.area), k.file.public) {
		return errKeyPublic
	}
	k.name = nameOf(k.file.public)
	k.info.Type, err = typeOf(k.file, k.area)
	return err
}

// exists reports whether the key is still there, and the same.
func (k *stored) exists() bool {
	info, err := os.Lstat(k.path)
	return err == nil && stampOf(info) == k.stamp
}

// add writes a new key file.
func (s *store) add(name string, version uint32, k *keyFile) (*stored, error) {
	b, err := k.encode()
	if err != nil {
		return nil, err
	}
	file, _ := fileName(name, version, keySuffix)
	if err := atomicfile.Create(filepath.Join(s.folder, file), b, 0o600); err != nil {
		return nil, err
	}
	return s.read(file, name, version)
}

// remove removes a key file for good. It remembers the version if it was the newest.
func (s *store) remove(k *stored, newest bool) error {
	if newest {
		file, _ := fileName(k.info.Name, k.info.Version, goneSuffix)
		if err := atomicfile.Create(filepath.Join(s.folder, file), nil, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	err := atomicfile.Remove(k.path)
	s.mu.Lock()
	delete(s.parsed, filepath.Base(k.path))
	s.mu.Unlock()
	return err
}
