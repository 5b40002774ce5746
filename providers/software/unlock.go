// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
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
		const op = "reading the key from its source"
		raw, err := readSource(u.KeySource)
		if err != nil {
			return nil, locked(op, err)
		}
		defer raw.Wipe()
		k, err := parseKey(secret.Reveal(raw))
		if err != nil {
			return nil, locked(op, err)
		}
		return k, nil
	}
	const op = "reading the passphrase from its source"
	var raw *secret.Bytes
	var err error
	if u.PassphraseSource == "tty" {
		raw, err = askPassphrase(isNew)
	} else {
		raw, err = readSource(u.PassphraseSource)
	}
	if err != nil {
		return nil, locked(op, err)
	}
	passphrase := secretfile.TrimLineEnd(secret.Reveal(raw)) // which may have any other bytes, as it always could
	if len(passphrase) == 0 || len(passphrase) > maxSecret {
		raw.Wipe()
		return nil, locked(op, fmt.Errorf("must be of 1 to %d bytes", maxSecret))
	}
	return secret.Take(passphrase), nil
}

// NewUnlockKey makes a file with a random key, in hexadecimal, to be used as KeySource "file:" + path. It
// fails if there is a file.
func NewUnlockKey(path string) error {
	k := secret.Random(keySize)
	defer k.Wipe()
	text := make([]byte, 2*keySize+1)
	defer secret.Wipe(text)
	hex.Encode(text, secret.Reveal(k))
	text[2*keySize] = '\n'
	if err := atomicfile.Create(path, text, 0o600); err != nil {
		return failure(providers.Device, "making a key to unlock with", err)
	}
	return nil
}

// locked gives an error its code. A file that others can access is a fault of another kind than a wrong secret.
func locked(op string, err error) error {
	if errors.Is(err, secretfile.ErrAccess) {
		return failure(providers.Denied, op, err)
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

// readSource resolves a reference to a secret.
func readSource(source string) (*secret.Bytes, error) {
	f, err := openSource(source)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return secretfile.Read(f, maxSecret+2) // room for a line end
}

func openSource(source string) (*os.File, error) {
	kind, value, _ := strings.Cut(source, ":")
	switch kind {
	case "file":
		return secretfile.Open(value) // which may be a relative path
	case "credential":
		return secretfile.OpenReference(source)
	case "fd":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 1 || n == 2 {
			return nil, errors.New("fd: takes the number of an inherited descriptor, not 1 or 2")
		}
		unix.CloseOnExec(int(n))
		return os.NewFile(uintptr(n), "secret"), nil
	}
	return nil, errors.New("a source is file:PATH, credential:NAME, fd:N, or tty for a passphrase")
}

// askPassphrase asks on the process's terminal, whatever its standard input is.
func askPassphrase(isNew bool) (*secret.Bytes, error) {
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
		return secret.Take(first), err
	}
	second, err := ask("The same again: ")
	defer secret.Wipe(second)
	if err != nil || !bytes.Equal(first, second) {
		secret.Wipe(first)
		return nil, errors.New("the two passphrases differ")
	}
	return secret.Take(first), nil
}
