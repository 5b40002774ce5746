// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"crypto/sha256"

	"github.com/mslkeep/mslkeep/internal/secret"
)

// CreateCheap is Create with argon2id parameters that take no time.
func CreateCheap(path string, u Unlock, o Options) (*Provider, error) {
	return create(path, u, o, cost{time: 1, memory: 64, threads: 1})
}

// Redigest makes the digest of a changed file right again.
func Redigest(b []byte) []byte {
	body := b[:len(b)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(append([]byte(nil), body...), sum[:]...)
}

// Reencode parses the plaintext of a file and encodes it again.
func Reencode(plain []byte) ([]byte, error) {
	rs, err := decodeRecords(plain)
	if err != nil {
		return nil, err
	}
	return encodeRecords(rs)
}

// PlainOf decrypts the file's contents, for the fuzzer's corpus.
func (p *Provider) PlainOf(b []byte) ([]byte, error) {
	f, err := parseFile(b)
	if err != nil {
		return nil, err
	}
	rs, err := f.open(p.kek)
	if err != nil {
		return nil, err
	}
	return encodeRecords(rs)
}

// ParseAndOpen is what Open does with a file's bytes.
func ParseAndOpen(b []byte, kek *secret.Bytes) error {
	f, err := parseFile(b)
	if err != nil {
		return err
	}
	_, err = f.open(kek)
	return err
}

// RekeyCheap is Rekey with argon2id parameters that take no time.
func (p *Provider) RekeyCheap(ctx context.Context, to Unlock) error {
	return p.rekey(ctx, to, cost{time: 1, memory: 64, threads: 1})
}
