// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
)

const (
	maxLine = 64 << 10 // bytes: tokens of JWT are long
	maxKey  = 64 << 10 // bytes of a private key's file
)

var errSecretLine = errors.New("must hold one line of printable ASCII, without blanks, quotes and backslashes")

// readLine reads a secret of one line, which can stand in a header and in JSON. The caller wipes it. Public
// takes a file that everybody can read.
func readLine(what, reference string, public bool) (*secret.Bytes, error) {
	open := secretfile.OpenReference
	if public {
		open = secretfile.OpenPublic
	}
	f, err := open(reference)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	line, err := secretfile.ReadLine(f, maxLine)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if bytes.ContainsFunc(secret.Reveal(line), func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		line.Wipe()
		return nil, fmt.Errorf("%s: %w", what, errSecretLine)
	}
	return line, nil
}

// readPair makes the key pair of a TLS client.
func readPair(certificate []byte, reference string) (tls.Certificate, error) {
	f, err := secretfile.OpenReference(reference)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading auth.key: %w", err)
	}
	defer f.Close()
	key, err := secretfile.Read(f, maxKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading auth.key: %w", err)
	}
	defer key.Wipe()
	pair, err := tls.X509KeyPair(certificate, secret.Reveal(key))
	if err != nil {
		return tls.Certificate{}, errors.New("auth.certificate and auth.key are no pair in PEM")
	}
	return pair, nil
}
