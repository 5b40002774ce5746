// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// The key file, all numbers big-endian:
//
//	magic    "mslkeep keys 1\n"
//	kdf      uint8: 1 argon2id of a passphrase, 2 a key file
//	time     uint32 \
//	memory   uint32  | of argon2id; memory in KiB; all 0 with a key file
//	threads  uint8  /
//	salt     32 bytes
//	check    32 bytes: tells a wrong passphrase from a damaged file
//	nonce    24 bytes
//	sealed   XChaCha20-Poly1305 of the keys; associated data: all of the above
//	digest   32 bytes: SHA-256 of all of the above, so that damage is found without the passphrase
//
// The keys, sealed, each by name and then version:
//
//	name     uint16 length, bytes
//	version  uint32
//	type     uint8 length, bytes
//	created  uint64, Unix seconds
//	key      uint16 length, bytes: raw, or PKCS #8 in DER; empty if this version was destroyed
//
// Both halves of what is derived come from HKDF-SHA-256 over the 32 bytes that argon2id or the key file
// gives, with the salt.
const (
	magic      = "mslkeep keys 1\n"
	magicStem  = "mslkeep keys "
	headerSize = len(magic) + 1 + 4 + 4 + 1 + saltSize + checkSize
	saltSize   = 32
	checkSize  = 32
	keySize    = 32 // of the key file, and of what argon2id gives

	// maxFile bounds what is read: some 50,000 symmetric keys.
	maxFile = 8 << 20

	// Bounds on argon2id's parameters, which come from the file before it is authenticated.
	maxTime    = 16
	maxMemory  = 1 << 20 // KiB: 1 GiB
	maxThreads = 16
)

const (
	kdfPassphrase = 1
	kdfKeyFile    = 2
)

// argon are the parameters for new files: RFC 9106 §4, second recommended option.
var argon = cost{time: 3, memory: 64 << 10, threads: 4}

// A cost is the parameters of argon2id.
type cost struct {
	time, memory uint32 // passes, KiB
	threads      uint8
}

// A header is what the key file says before its keys.
type header struct {
	kdf uint8
	cost
	salt, check []byte
}

// A sealedFile is a key file before decryption. Its slices alias the file's bytes.
type sealedFile struct {
	header
	nonce, sealed, aad []byte
}

// Each says what is wrong with a file.
var (
	errNotKeyFile = errors.New("not a key file of mslkeep, or not any more: restore it from a backup")
	errNewer      = errors.New("a key file of another version of mslkeep")
	errDamaged    = errors.New("damaged: restore it from a backup")
	errForged     = errors.New("changed by somebody without the passphrase or key file: restore it from a backup")
	errContents   = errors.New("its contents make no sense: restore it from a backup")
)

// parseFile splits a key file and checks all that can be checked without its secret.
func parseFile(b []byte) (*sealedFile, error) {
	if !bytes.HasPrefix(b, []byte(magic)) {
		if bytes.HasPrefix(b, []byte(magicStem)) && len(b) >= len(magic) {
			return nil, errNewer
		}
		return nil, errNotKeyFile
	}
	if len(b) < headerSize+chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead+sha256.Size {
		return nil, errDamaged
	}
	rest, digest := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(rest); !bytes.Equal(sum[:], digest) {
		return nil, errDamaged
	}
	f := new(sealedFile)
	s := cryptobyte.String(rest[len(magic):])
	ok := s.ReadUint8(&f.kdf) && s.ReadUint32(&f.time) && s.ReadUint32(&f.memory) && s.ReadUint8(&f.threads) &&
		s.ReadBytes(&f.salt, saltSize) && s.ReadBytes(&f.check, checkSize) && s.ReadBytes(&f.nonce, chacha20poly1305.NonceSizeX)
	f.sealed, f.aad = s, rest[:len(rest)-len(s)]
	if !ok || !f.sane() {
		return nil, errForged // the digest is right, so it is not by accident
	}
	return f, nil
}

// sane bounds the parameters, so that no file can make its reader run for hours or out of memory.
func (h *header) sane() bool {
	switch h.kdf {
	case kdfPassphrase:
		return h.time >= 1 && h.time <= maxTime && h.threads >= 1 && h.threads <= maxThreads &&
			h.memory >= 8*uint32(h.threads) && h.memory <= maxMemory
	case kdfKeyFile:
		return h.cost == cost{}
	}
	return false
}

// newHeader makes the header of a new file, but for its check.
func newHeader(kdf uint8, c cost) *header {
	h := &header{kdf: kdf, salt: make([]byte, saltSize)}
	if kdf == kdfPassphrase {
		h.cost = c
	}
	rand.Read(h.salt)
	return h
}

// derive computes the file's encryption key, and the check that its header must have.
func (h *header) derive(s *secret.Bytes) (kek *secret.Bytes, check []byte, err error) {
	root := secret.Reveal(s)
	if h.kdf == kdfPassphrase {
		root = argon2.IDKey(root, h.salt, h.time, h.memory, h.threads, keySize)
		defer secret.Wipe(root)
	}
	prk, err := hkdf.Extract(sha256.New, root, h.salt)
	if err != nil {
		return nil, nil, err
	}
	defer secret.Wipe(prk)
	k, err := hkdf.Expand(sha256.New, prk, magic+"encryption", chacha20poly1305.KeySize)
	if err != nil {
		return nil, nil, err
	}
	check, err = hkdf.Expand(sha256.New, prk, magic+"check", checkSize)
	return secret.Take(k), check, err
}

// sameSecret reports whether both headers make the same encryption key of one secret.
func (h *header) sameSecret(o *header) bool {
	return h.kdf == o.kdf && h.cost == o.cost && bytes.Equal(h.salt, o.salt) &&
		subtle.ConstantTimeCompare(h.check, o.check) == 1
}

// sealFile encrypts keys and returns the bytes of a key file.
func sealFile(h *header, kek *secret.Bytes, keys []record) ([]byte, error) {
	plain, err := encodeRecords(keys)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	aead, err := chacha20poly1305.NewX(secret.Reveal(kek))
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)

	b := cryptobyte.NewBuilder(make([]byte, 0, headerSize+len(nonce)+len(plain)+aead.Overhead()+sha256.Size))
	b.AddBytes([]byte(magic))
	b.AddUint8(h.kdf)
	b.AddUint32(h.time)
	b.AddUint32(h.memory)
	b.AddUint8(h.threads)
	b.AddBytes(h.salt)
	b.AddBytes(h.check)
	b.AddBytes(nonce)
	out := aead.Seal(b.BytesOrPanic(), nonce, plain, b.BytesOrPanic())
	if len(out)+sha256.Size > maxFile {
		return nil, errors.New("too many keys for one file")
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// open decrypts the keys.
func (f *sealedFile) open(kek *secret.Bytes) ([]record, error) {
	aead, err := chacha20poly1305.NewX(secret.Reveal(kek))
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, f.nonce, f.sealed, f.aad)
	if err != nil {
		return nil, errForged
	}
	defer secret.Wipe(plain)
	return decodeRecords(plain)
}

// A record is one version of one key, as the file has it.
type record struct {
	info  providers.KeyInfo
	bytes *secret.Bytes // empty: destroyed, and kept so that its version is never used again
}

// wipeRecords wipes the keys of records that nobody took over.
func wipeRecords(rs []record) {
	for _, r := range rs {
		r.bytes.Wipe()
	}
}

// encodeRecords encodes keys that are in order. The caller wipes the result.
func encodeRecords(rs []record) ([]byte, error) {
	size := 0
	for _, r := range rs {
		size += 2 + len(r.info.Name) + 4 + 1 + len(r.info.Type) + 8 + 2 + r.bytes.Len()
	}
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, size)) // never grows: no copy is left behind
	for _, r := range rs {
		b.AddUint16(uint16(len(r.info.Name)))
		b.AddBytes([]byte(r.info.Name))
		b.AddUint32(r.info.Version)
		b.AddUint8(uint8(len(r.info.Type)))
		b.AddBytes([]byte(r.info.Type))
		b.AddUint64(uint64(r.info.Created))
		b.AddUint16(uint16(r.bytes.Len()))
		b.AddBytes(secret.Reveal(r.bytes))
	}
	return b.Bytes()
}

// decodeRecords checks order and names, so that what encodeRecords makes of the result is b again. The
// keys' bytes are copied.
func decodeRecords(b []byte) (rs []record, err error) {
	defer func() {
		if err != nil {
			wipeRecords(rs)
		}
	}()
	for s := cryptobyte.String(b); !s.Empty(); {
		var name, typ, material cryptobyte.String
		var created uint64
		var r record
		if !s.ReadUint16LengthPrefixed(&name) || !s.ReadUint32(&r.info.Version) || !s.ReadUint8LengthPrefixed(&typ) ||
			!s.ReadUint64(&created) || !s.ReadUint16LengthPrefixed(&material) {
			return rs, errContents
		}
		r.info.Name, r.info.Type, r.info.Created = string(name), providers.KeyType(typ), int64(created)
		if !goodName(r.info.Name) || r.info.Version == 0 || r.info.Created < 0 {
			return rs, errContents
		}
		if n := len(rs); n > 0 && !ordered(rs[n-1].info, r.info) {
			return rs, errContents
		}
		if len(material) > 0 {
			r.bytes = secret.Take(bytes.Clone(material))
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// ordered reports whether b comes after a in the file.
func ordered(a, b providers.KeyInfo) bool {
	return a.Name < b.Name || a.Name == b.Name && a.Version < b.Version
}
