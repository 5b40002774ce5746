// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/aeskw"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// An aesCBC encrypts under a session key. The expanded key lives as long as the session; crypto/aes
// has no way to wipe it, so wiping a session drops it for the collector.
type aesCBC struct {
	block    cipher.Block
	encrypts idleList[cbc]
	decrypts idleList[cbc]
}

// A cbc is AES-CBC in one direction. It holds a copy of the expanded key: the fewer the better.
type cbc interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

// crypt encrypts or decrypts b in place.
func (c *aesCBC) crypt(l *idleList[cbc], create func(cipher.Block, []byte) cipher.BlockMode, iv, b []byte) {
	m, ok := l.take()
	if ok {
		m.SetIV(iv)
	} else {
		m = create(c.block, iv).(cbc) // all of crypto/aes are
	}
	m.CryptBlocks(b, b)
	l.give(m)
}

func newAESCBC(key *secret.Bytes) (*aesCBC, error) {
	block, err := aes.NewCipher(secret.Reveal(key))
	if err != nil {
		return nil, unverified(mslInvalidEncryptionKey, "using an encryption key")
	}
	return &aesCBC{block: block}, nil
}

func (c *aesCBC) encrypt(_ context.Context, dst, iv, plain []byte) ([]byte, error) {
	start, pad := len(dst), 16-len(plain)%16
	dst = slices.Grow(dst, len(plain)+pad)
	dst = append(dst, plain...)
	for range pad {
		dst = append(dst, byte(pad))
	}
	c.crypt(&c.encrypts, cipher.NewCBCEncrypter, iv, dst[start:])
	return dst, nil
}

func (c *aesCBC) decrypt(_ context.Context, iv, b []byte) ([]byte, error) {
	if len(b) == 0 || len(b)%16 != 0 || len(iv) != ivSize {
		return nil, unverified(mslCiphertextBlockSize, "decrypting")
	}
	c.crypt(&c.decrypts, cipher.NewCBCDecrypter, iv, b)
	pad := int(b[len(b)-1])
	good := subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, 16)
	for i := 1; i <= 16; i++ {
		outside := 1 - subtle.ConstantTimeLessOrEq(i, pad)
		good &= outside | subtle.ConstantTimeByteEq(b[len(b)-i], byte(pad))
	}
	if good != 1 {
		clear(b)
		return nil, unverified(mslCiphertextBadPadding, "decrypting")
	}
	return b[:len(b)-pad], nil
}

// An idleList keeps a few states of computations under one key for reuse. It is safe for concurrent use.
type idleList[T any] struct {
	mu     sync.Mutex
	idle   []T
	closed bool
}

// maxIdle is how many states a session keeps: more than that many computations at once are rare.
const maxIdle = 4

func (l *idleList[T]) take() (state T, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.idle); n > 0 {
		state, ok = l.idle[n-1], true
		l.idle = l.idle[:n-1]
	}
	return state, ok
}

func (l *idleList[T]) give(state T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.idle) < maxIdle && !l.closed {
		l.idle = append(l.idle, state)
	}
}

// close drops the states, and those that come back.
func (l *idleList[T]) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.idle)
	l.idle, l.closed = nil, true
}

// An hmacKey is HMAC-SHA-256 under a session key.
type hmacKey struct {
	key    *secret.Bytes
	states idleList[*macState]
}

// A macState is one running computation, with room for its result.
type macState struct {
	hash.Hash
	sum [macSize]byte
}

func newHMACKey(key *secret.Bytes) (*hmacKey, error) {
	if key.Len() == 0 {
		return nil, unverified(mslInvalidHMACKey, "using a signature key")
	}
	return &hmacKey{key: key}, nil
}

func (k *hmacKey) take() (*macState, error) {
	if m, ok := k.states.take(); ok {
		return m, nil
	}
	if k.key.Len() == 0 { // wiped
		return nil, wire.StaleHandle
	}
	return &macState{Hash: hmac.New(sha256.New, secret.Reveal(k.key))}, nil
}

func (k *hmacKey) give(m *macState) {
	m.Reset()
	k.states.give(m)
}

func (k *hmacKey) sign(_ context.Context, dst, data []byte) ([]byte, error) {
	m, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(m)
	m.Write(data)
	return m.Sum(dst), nil
}

func (k *hmacKey) verify(_ context.Context, data, signature []byte) error {
	m, err := k.take()
	if err != nil {
		return err
	}
	defer k.give(m)
	m.Write(data)
	if !hmac.Equal(m.Sum(m.sum[:0]), signature) {
		return unverified(noNumber, "verifying a signature")
	}
	return nil
}

func (k *hmacKey) wipe() {
	k.states.close()
	k.key.Wipe()
}

// A cmacKey is AES-CMAC (RFC 4493).
type cmacKey struct {
	block  cipher.Block
	k1, k2 [16]byte
}

func newCMACKey(key *secret.Bytes) (*cmacKey, error) {
	block, err := aes.NewCipher(secret.Reveal(key))
	if err != nil {
		return nil, unverified(mslInvalidHMACKey, "using a signature key")
	}
	c := &cmacKey{block: block}
	block.Encrypt(c.k1[:], c.k1[:])
	double(&c.k1)
	c.k2 = c.k1
	double(&c.k2)
	return c, nil
}

// double multiplies by x in GF(2^128) (RFC 4493 §2.3).
func double(b *[16]byte) {
	carry := b[0] >> 7
	for i := range 15 {
		b[i] = b[i]<<1 | b[i+1]>>7
	}
	b[15] = b[15]<<1 ^ 0x87&-carry
}

func (c *cmacKey) sum(data []byte) (mac [16]byte) {
	for len(data) > 16 {
		subtle.XORBytes(mac[:], mac[:], data[:16])
		c.block.Encrypt(mac[:], mac[:])
		data = data[16:]
	}
	subtle.XORBytes(mac[:], mac[:], data)
	last := &c.k1
	if len(data) < 16 {
		mac[len(data)] ^= 0x80
		last = &c.k2
	}
	subtle.XORBytes(mac[:], mac[:], last[:])
	c.block.Encrypt(mac[:], mac[:])
	return mac
}

func (c *cmacKey) sign(_ context.Context, dst, data []byte) ([]byte, error) {
	mac := c.sum(data)
	return append(dst, mac[:]...), nil
}

func (c *cmacKey) verify(_ context.Context, data, signature []byte) error {
	mac := c.sum(data)
	if subtle.ConstantTimeCompare(mac[:], signature) != 1 {
		return unverified(noNumber, "verifying a signature")
	}
	return nil
}

func (c *cmacKey) wipe() { c.k1, c.k2 = [16]byte{}, [16]byte{} }

// An aesKW is AES key wrap (RFC 3394) under a key that is here.
type aesKW struct{ block cipher.Block }

func newAESKW(key *secret.Bytes) (*aesKW, error) {
	block, err := aes.NewCipher(secret.Reveal(key))
	if err != nil {
		return nil, unverified(mslInvalidWrappingKey, "using a wrapping key")
	}
	return &aesKW{block}, nil
}

// Wrap returns 8 bytes more than it takes.
func (w *aesKW) Wrap(_ context.Context, key []byte) ([]byte, error) {
	out, err := aeskw.Wrap(w.block, key)
	if err != nil {
		return nil, &fault{code: wire.Malformed, number: mslPlaintextBlockSize, what: "wrapping a key", err: err}
	}
	return out, nil
}

// Unwrap undoes Wrap.
func (w *aesKW) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	key, err := aeskw.Unwrap(w.block, wrapped)
	if err != nil {
		return nil, &fault{code: wire.VerificationFailed, number: mslUnwrapError, what: "unwrapping a key", err: err}
	}
	return key, nil
}
