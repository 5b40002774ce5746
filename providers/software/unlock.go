// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// Unlock says where the secret that opens the key file comes from. Exactly one field is set. Both are
// references, which this process resolves itself:
//
//	file:PATH        a file that only this user, or root, can read
//	credential:NAME  a file in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=)
//	fd:N             an inherited descriptor, read to its end and closed
//	tty              asked for on the terminal; passphrases only
//
// One line end after a passphrase is cut off. A key is 32 bytes, raw or in hexadecimal.
type Unlock struct {
	PassphraseSource string
	KeySource        string
}

const maxSecret = 4096 // bytes of a passphrase

// kdf tells how the secret becomes a key.
func (u Unlock) kdf() (uint8, error) {
	switch {
	case u.PassphraseSource != "" && u.KeySource == "":
		return kdfPassphrase, nil
	case u.KeySource != "" && u.PassphraseSource == "":
		return kdfKeyFile, nil
	}
	return 0, failure(providers.Malformed, "unlocking the key file", errors.New("set a passphrase source or a key source"))
}

// read gets the secret. On a terminal it asks twice if the secret is a new one.
func (u Unlock) read(isNew bool) (*secret.Bytes, error) {
	if u.KeySource != "" {
		raw, err := readSource(u.KeySource)
		if err != nil {
			return nil, locked("reading the key from its source", err)
		}
		defer secret.Wipe(raw)
		k, err := parseKey(raw)
		if err != nil {
			return nil, locked("reading the key from its source", err)
		}
		return k, nil
	}
	raw, err := []byte(nil), error(nil)
	if u.PassphraseSource == "tty" {
		raw, err = askPassphrase(isNew)
	} else {
		raw, err = readSource(u.PassphraseSource)
	}
	if err != nil {
		return nil, locked("reading the passphrase from its source", err)
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(line) == 0 || len(line) > maxSecret {
		secret.Wipe(raw)
		return nil, locked("reading the passphrase from its source", fmt.Errorf("must be of 1 to %d bytes", maxSecret))
	}
	return secret.Take(line), nil
}

// NewUnlockKey makes a file with a random key, in hexadecimal, to be used as KeySource "file:" + path. It
// fails if there is a file.
func NewUnlockKey(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failure(providers.Device, "making a key to unlock with", err)
	}
	k := secret.Random(keySize)
	defer k.Wipe()
	text := make([]byte, 2*keySize+1)
	defer secret.Wipe(text)
	hex.Encode(text, secret.Reveal(k))
	text[2*keySize] = '\n'
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return failure(providers.Device, "making a key to unlock with", err)
	}
	return nil
}

// locked keeps the code of an error that has one.
func locked(op string, err error) error {
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return err
	}
	return failure(providers.Locked, op, err)
}

// parseKey takes 32 raw bytes, or their hexadecimal form with or without a line end.
func parseKey(raw []byte) (*secret.Bytes, error) {
	if len(raw) == keySize {
		return secret.Take(bytes.Clone(raw)), nil
	}
	text := bytes.TrimSpace(raw)
	k := make([]byte, keySize)
	if hex.DecodedLen(len(text)) == keySize {
		if n, err := hex.Decode(k, text); err == nil && n == keySize {
			return secret.Take(k), nil
		}
	}
	secret.Wipe(k)
	return nil, errors.New("must be 32 bytes, raw or in hexadecimal")
}

// readSource resolves a reference to a secret. The caller wipes the result.
func readSource(source string) ([]byte, error) {
	kind, value, _ := strings.Cut(source, ":")
	switch kind {
	case "file":
		f, err := openPrivate(value)
		if err != nil {
			return nil, err
		}
		return readAll(f)
	case "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, errors.New("$CREDENTIALS_DIRECTORY is not set: the service manager passes no credentials")
		}
		if value == "" || value != filepath.Base(value) || value == "." || value == ".." {
			return nil, errors.New("a credential is named by one plain file name")
		}
		f, err := os.Open(filepath.Join(dir, value)) // the service manager sees to who may read it
		if err != nil {
			return nil, err
		}
		return readAll(f)
	case "fd":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 1 || n == 2 {
			return nil, errors.New("fd: takes the number of an inherited descriptor, not 1 or 2")
		}
		unix.CloseOnExec(int(n))
		return readAll(os.NewFile(uintptr(n), "secret"))
	}
	return nil, errors.New("a source is file:PATH, credential:NAME, fd:N, or tty for a passphrase")
}

// readAll reads and closes f. It reads into one buffer, so that no copy is left behind.
func readAll(f *os.File) ([]byte, error) {
	defer f.Close()
	b := make([]byte, maxSecret+3) // room for a line end, and for noticing what is too long
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(b)
		return nil, err
	}
	return b[:n], nil
}

// askPassphrase asks on the process's terminal, whatever its standard input is.
func askPassphrase(isNew bool) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("there is no terminal to ask on")
	}
	defer tty.Close()
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(tty, prompt)
		defer fmt.Fprintln(tty)
		return term.ReadPassword(int(tty.Fd()))
	}
	first, err := ask("Passphrase of the key file: ")
	if err != nil || !isNew {
		return first, err
	}
	second, err := ask("The same again: ")
	defer secret.Wipe(second)
	if err != nil || !bytes.Equal(first, second) {
		secret.Wipe(first)
		return nil, errors.New("the two passphrases differ")
	}
	return first, nil
}
