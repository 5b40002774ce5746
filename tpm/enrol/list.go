// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxList is how many bytes a list may have: about a million keys.
const maxList = 128 << 20

// A Fingerprint tells endorsement keys apart: the SHA-256 of the public area (TPMT_PUBLIC). For the usual ones, that is
// the TPM's name of the key without its first two bytes.
type Fingerprint [sha256.Size]byte

// String returns it as lists have it.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// FingerprintOf returns the fingerprint of a TPM2B_PUBLIC.
func FingerprintOf(area []byte) (Fingerprint, error) {
	p, err := parsePublic(area)
	if err != nil {
		return Fingerprint{}, err
	}
	return p.fingerprint(), nil
}

func (p *public) fingerprint() Fingerprint { return sha256.Sum256(p.encoding) }

// A list says which endorsement keys are known, and which identities each may have: none for any. It is a file with lines
//
//	SHA256 [IDENTITY]  # comment
//
// which is read again when it has changed.
type list struct {
	path string

	mu    sync.Mutex
	read  os.FileInfo
	known map[Fingerprint][]string
}

// openList reads a list for the first time.
func openList(path string) (*list, error) {
	l := &list{path: path}
	_, err := l.current()
	return l, err
}

// current returns the list as the file has it now, which callers must not change.
func (l *list) current() (map[Fingerprint][]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path)
	if err != nil {
		return nil, err
	}
	if l.read != nil && os.SameFile(l.read, info) && l.read.Size() == info.Size() && l.read.ModTime().Equal(info.ModTime()) {
		return l.known, nil
	}
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	known, err := parseList(io.LimitReader(f, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	l.known, l.read = known, info
	if time.Since(info.ModTime()) < time.Second {
		l.read = nil // it may change again without looking newer
	}
	return known, nil
}

// parseList parses a list. It refuses one of which it does not understand every line.
func parseList(r io.Reader) (map[Fingerprint][]string, error) {
	known := make(map[Fingerprint][]string)
	size, number := 0, 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		number++
		if size += len(lines.Bytes()) + 1; size > maxList {
			return nil, fmt.Errorf("longer than %d bytes", maxList)
		}
		text, _, _ := strings.Cut(" "+lines.Text(), " #")
		key, identity, _ := strings.Cut(strings.TrimSpace(text), " ")
		if key == "" {
			continue
		}
		var f Fingerprint
		if n, err := hex.Decode(f[:], []byte(key[:min(len(key), 2*len(f))])); err != nil || n != len(f) || len(key) != 2*len(f) {
			return nil, fmt.Errorf("line %d does not begin with a SHA-256 in hexadecimal", number)
		}
		identity = strings.TrimSpace(identity)
		identities, listed := known[f]
		switch {
		case listed && (identity == "" || len(identities) == 0):
			return nil, fmt.Errorf("line %d: this key is listed before, and not both times for one identity", number)
		case identity == "":
			known[f] = nil
		case checkIdentity(identity) != nil:
			return nil, fmt.Errorf("line %d: not an identity that can be enrolled", number)
		default:
			known[f] = append(identities, identity)
		}
	}
	return known, lines.Err()
}

// ListLine returns the line of a list for a TPM2B_PUBLIC, and an identity unless it is empty. Not every identity can be on a list.
func ListLine(area []byte, identity, comment string) (string, error) {
	f, err := FingerprintOf(area)
	if err != nil {
		return "", err
	}
	line := f.String()
	if identity != "" {
		line += " " + identity
	}
	line += " # " + comment
	known, err := parseList(strings.NewReader(line))
	if err != nil {
		return "", err
	}
	if identities := known[f]; len(known) != 1 || identity != "" && !slices.Equal(identities, []string{identity}) {
		return "", errors.New("an identity with such spaces cannot be on a list")
	}
	return line, nil
}

// check refuses keys that are not on the list, or not for that identity.
func (l *list) check(f Fingerprint, identity string) error {
	known, err := l.current()
	if err != nil {
		return refuse(Unavailable, "the list of endorsement keys cannot be read", err)
	}
	identities, ok := known[f]
	if !ok {
		return refuse(EndorsementUnknown, "the endorsement key is not on the list", nil)
	}
	if len(identities) > 0 && !slices.Contains(identities, identity) {
		return refuse(IdentityDenied, "the endorsement key is listed for another identity", nil)
	}
	return nil
}
