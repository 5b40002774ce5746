// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package secretfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/mslkeep/mslkeep/internal/secret"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// TestOpen: by a path, as a file and as a credential, the file opens or is refused for the right reason.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, mode := range map[string]os.FileMode{"0600": 0o600, "0400": 0o400, "0440": 0o440, "0460": 0o460, "0450": 0o450, "0604": 0o604, "0602": 0o602, "0444": 0o444} {
		write(t, filepath.Join(dir, name), name, mode)
	}
	if err := errors.Join(os.Symlink("0600", filepath.Join(dir, "link")), os.Symlink("0604", filepath.Join(dir, "lax")), os.Mkdir(filepath.Join(dir, "dir"), 0o700),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][3]error{ // by a path, as a credential, as a public file
		"0600": {}, "0400": {}, "link": {},
		"0440": {ErrAccess},
		"0460": {ErrAccess, ErrAccess}, "0450": {ErrAccess, ErrAccess}, "0604": {ErrAccess, ErrAccess}, "0602": {ErrAccess, ErrAccess},
		"0444": {ErrAccess, ErrAccess}, "lax": {ErrAccess, ErrAccess},
		"dir": {ErrAccess, ErrAccess, ErrAccess}, "pipe": {ErrAccess, ErrAccess, ErrAccess},
		"none": {os.ErrNotExist, os.ErrNotExist, os.ErrNotExist},
	} {
		path := filepath.Join(dir, name)
		check := func(how string, want error) func(*os.File, error) {
			return func(f *os.File, err error) {
				if (f == nil) != (err != nil) || !errors.Is(err, want) {
					t.Errorf("%s %s: %v, not %v", how, name, err, want)
				}
				f.Close()
			}
		}
		check("path", want[0])(Open(path))
		check("file", want[0])(OpenReference("file:" + path))
		check("credential", want[1])(OpenReference("credential:" + name))
		check("public file", want[2])(OpenPublic("file:" + path))
	}
}

func TestOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "1234", 0o600)
	if os.Chown(path, 12345, -1) != nil {
		t.Skip("only root can give files away")
	}
	if _, err := Open(path); !errors.Is(err, ErrAccess) {
		t.Errorf("another user's file: %v", err)
	}
	f, err := OpenPublic("file:" + path)
	if err != nil {
		t.Errorf("another user's public file: %v", err)
	}
	f.Close()
}

func TestPath(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Path("credential:name"); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("without credentials: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/s")
	for reference, want := range map[string]string{"file:/a": "/a", "file:/a:b": "/a:b", "credential:name": "/run/credentials/s/name",
		"credential:..name": "/run/credentials/s/..name"} {
		if path, err := Path(reference); err != nil || path != want {
			t.Errorf("%s: %s, %v", reference, path, err)
		}
	}
	for _, reference := range []string{"", "1234", "file", "file:", "file:plain", "file:./plain", "credential:", "credential:.", "credential:..", "credential:/",
		"credential:../name", "credential:a/b", "credential:a/", "Credential:name", "|cat", "fd:3", "tty", "env:PIN", " file:/a"} {
		for _, open := range []func(string) (*os.File, error){OpenReference, OpenPublic} {
			if _, err := open(reference); !errors.Is(err, ErrReference) {
				t.Errorf("%q: %v", reference, err)
			}
		}
	}
}

// TestRead reads at and around the limit, which is 8.
func TestRead(t *testing.T) {
	for text, want := range map[string][2]string{ // all, as a line; "": refused
		"": {}, "1": {"1", "1"}, "12345678": {"12345678", "12345678"}, "123456789": {"", ""}, "1234567890a": {},
		"\n": {"\n", ""}, "\r\n": {"\r\n", ""}, "1234\n": {"1234\n", "1234"}, "1234\r\n": {"1234\r\n", "1234"}, "1234\n\n": {"1234\n\n", ""},
		"12345678\r\n": {"", "12345678"}, "123456789\n": {}, "1\n2": {"1\n2", ""}, "1\x002": {"1\x002", ""}, " 1 2 ": {" 1 2 ", " 1 2 "},
	} {
		for i, read := range []func(io.Reader, int) (*secret.Bytes, error){Read, ReadLine} {
			s, err := read(strings.NewReader(text), 8)
			if got := string(secret.Reveal(s)); got != want[i] || (err == nil) != (want[i] != "") || err != nil && !errors.Is(err, ErrContent) {
				t.Errorf("%q, as a line: %v: %q, %v", text, i == 1, got, err)
			}
		}
	}
	broken := errors.New("broken")
	for _, r := range []io.Reader{iotest.ErrReader(broken), io.MultiReader(strings.NewReader("1234"), iotest.ErrReader(broken))} {
		if s, err := Read(r, 8); s != nil || !errors.Is(err, broken) {
			t.Errorf("from a broken disk: %v", err)
		}
	}
}

// FuzzPath: what is taken for a credential is a name in the one folder, and what is taken for a file is an absolute path.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"file:/a", "credential:name", "credential:..", "credential:../name", "file:a", ""} {
		f.Add(s)
	}
	f.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/s")
	f.Fuzz(func(t *testing.T, reference string) {
		path, err := Path(reference)
		if (err == nil) != (path != "") || err != nil && !errors.Is(err, ErrReference) {
			t.Fatalf("%q, %v", path, err)
		}
		if name, ok := strings.CutPrefix(reference, "credential:"); err == nil && ok && (filepath.Dir(path) != "/run/credentials/s" || filepath.Base(path) != name) {
			t.Errorf("a credential is %q", path)
		}
		if err == nil && !filepath.IsAbs(path) {
			t.Errorf("%q is not absolute", path)
		}
	})
}

// FuzzLine: a file may hold anything.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"1234\n", "1234\r\n", "", "\n", "12\n34"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		line, err := ReadLine(bytes.NewReader(b), 32)
		got := secret.Reveal(line)
		if err != nil {
			if line != nil || !errors.Is(err, ErrContent) {
				t.Error(err)
			}
			return
		}
		if len(got) == 0 || len(got) > 32 || bytes.ContainsAny(got, "\n\x00") || !bytes.HasPrefix(b, got) || len(bytes.Trim(b[len(got):], "\r\n")) != 0 {
			t.Errorf("%d bytes of %d", len(got), len(b))
		}
	})
}
