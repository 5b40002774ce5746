// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// symmetricSizes are the sizes of symmetric keys in bytes.
var symmetricSizes = map[providers.KeyType]int{providers.AES128: 16, providers.AES256: 32, providers.HMACSHA256: 32}

// rsaSizes are the sizes of RSA moduli in bits.
var rsaSizes = map[providers.KeyType]int{providers.RSA2048: 2048, providers.RSA3072: 3072, providers.RSA4096: 4096}

// newKey makes the usable form of a record, which takes over the record's bytes. Expensive preparation
// waits for the first use.
func newKey(r record) (providers.Key, error) {
	m := &material{info: r.info, bytes: r.bytes}
	if n, ok := symmetricSizes[r.info.Type]; ok && n != r.bytes.Len() {
		return nil, errContents
	}
	switch r.info.Type {
	case providers.AES128, providers.AES256:
		return &aesKey{material: m}, nil
	case providers.HMACSHA256:
		return &hmacKey{m}, nil
	case providers.RSA2048, providers.RSA3072, providers.RSA4096:
		return &rsaKey{material: m}, nil
	case providers.ECP256:
		return &ecKey{material: m}, nil
	}
	return nil, errContents
}

// A material is the bytes of a key in use. Operations hold mu for reading, so that wiping waits for them.
type material struct {
	info  providers.KeyInfo
	mu    sync.RWMutex
	bytes *secret.Bytes
}

// Info describes the key.
func (m *material) Info() providers.KeyInfo { return m.info }

// use begins an operation, unless the context has ended or the key is gone. The caller calls done.
func (m *material) use(ctx context.Context, op string) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, failure(providers.Transient, op, err)
	}
	m.mu.RLock()
	if m.bytes.Len() == 0 {
		m.mu.RUnlock()
		return nil, failure(providers.NoSuchKey, op, errors.New("destroyed, or the key file was closed"))
	}
	return m.mu.RUnlock, nil
}

func (m *material) wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes.Wipe()
}

// generate makes the bytes of a new key.
func generate(t providers.KeyType) (*secret.Bytes, error) {
	if n, ok := symmetricSizes[t]; ok {
		return secret.Random(n), nil
	}
	var pair any
	var err error
	if bits, ok := rsaSizes[t]; ok {
		pair, err = rsa.GenerateKey(rand.Reader, bits)
	} else if t == providers.ECP256 {
		pair, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		return nil, failure(providers.NotSupported, "generating a key", fmt.Errorf("no such type of key"))
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		return nil, err
	}
	return secret.Take(der), nil
}

// imported checks a key from outside and returns its bytes as the file has them.
func imported(t providers.KeyType, key []byte) (*secret.Bytes, error) {
	if n, ok := symmetricSizes[t]; ok {
		if len(key) != n {
			return nil, fmt.Errorf("a key of type %s has %d bytes, not %d", t, n, len(key))
		}
		return secret.Take(bytes.Clone(key)), nil
	}
	if rsaSizes[t] == 0 && t != providers.ECP256 {
		return nil, failure(providers.NotSupported, "importing a key", errors.New("no such type of key"))
	}
	pair, err := parsePair(t, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair) // as we would have written it, attributes left out
	if err != nil {
		return nil, err
	}
	return secret.Take(der), nil
}

// parsePair parses PKCS #8 and checks that it holds a key of that type.
func parsePair(t providers.KeyType, der []byte) (any, error) {
	var whole cryptobyte.String
	input := cryptobyte.String(der)
	pair, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil || !input.ReadASN1(&whole, asn1.SEQUENCE) || !input.Empty() { // x509 ignores what follows
		return nil, errors.New("not a private key in PKCS #8, DER") // the cause may tell of the key
	}
	switch k := pair.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() != rsaSizes[t] {
			return nil, fmt.Errorf("not a key of type %s", t)
		}
		if err := k.Validate(); err != nil {
			return nil, errors.New("not a valid RSA key")
		}
		return k, nil
	case *ecdsa.PrivateKey:
		if t != providers.ECP256 || k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("not a key of type %s", t)
		}
		return k, nil
	}
	return nil, fmt.Errorf("not a key of type %s", t)
}

// privateNumbers returns the secret numbers that a key pair is made of, big-endian, for the key log.
func privateNumbers(r record) map[string][]byte {
	pair, err := parsePair(r.info.Type, secret.Reveal(r.bytes))
	if err != nil {
		return nil
	}
	switch k := pair.(type) {
	case *rsa.PrivateKey:
		return map[string][]byte{"prime": k.Primes[0].Bytes()}
	case *ecdsa.PrivateKey:
		b, err := k.Bytes()
		if err != nil {
			return nil
		}
		return map[string][]byte{"scalar": b}
	}
	return nil
}

// tryKey uses a key once, to see that it works.
func tryKey(ctx context.Context, r record) error {
	k, err := newKey(r)
	if err != nil {
		return failure(providers.Corrupt, "trying a key", err)
	}
	switch k := k.(type) {
	case *aesKey:
		_, err = k.Encrypt(ctx, providers.AESCBC, make([]byte, 16), nil, nil)
	case *hmacKey:
		_, err = k.MAC(ctx, nil)
	case *rsaKey:
		_, err = k.Sign(ctx, providers.RSAPKCS1, nil)
	case *ecKey:
		_, err = k.Sign(ctx, providers.ECDSAP256, nil)
	}
	return err
}
