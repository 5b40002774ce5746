// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A sealed session is what a device stores of a session:
//
//	format   1 byte: 1, or 2 if the session came from a ladder; 16 more if it is counted
//	version  4 bytes, big-endian: version of the storage key
//	nonce    12 bytes, random
//	then AES-256-GCM under the storage key, of
//	  count            8 bytes, big-endian; if it is counted: what the device's counter said then
//	  sequence number  8 bytes, big-endian
//	  algorithm        1 byte: 1 HmacSHA256, 2 AESCmac
//	  encryption key   1 byte of length, and the key
//	  signature key    likewise
//	  in format 2:
//	    scheme         1 byte: 1 JWE_LADDER, 2 JWK_LADDER
//	    wrapping key   as the other keys
//	    wrapdata       2 bytes of length, and the data
//	  identity         the rest
//
// The associated data is a label, format and version, and the hash of the master token: a sealed session
// opens only together with its token.
//
// Where the device of the storage key counts beside it, only the session that was sealed last opens: an earlier one that
// is put back is refused. If the power goes between counting and storing, the session is lost, and keys are exchanged anew.
const (
	sealedPlain  = 1 // formats
	sealedLadder = 2
	sealedCount  = 16 // in addition
	sealedHeader = 1 + 4 + gcmNonce
	gcmNonce     = 12
	gcmTag       = 16
	maxSealed    = 4 << 10 // bytes
	sealedLabel  = "mslkeep sealed session"
)

// sealedAlgorithms are the signature algorithms by their numbers.
var sealedAlgorithms = [...]string{1: hmacSHA256, 2: aesCMAC}

// sealedSchemes are the schemes of ladders by their numbers.
var sealedSchemes = [...]string{1: schemeJWELadder, 2: schemeJWKLadder}

// A storageKey is one version of the key under which sessions are sealed.
type storageKey struct {
	usedKey
	enc providers.Encrypter
	dec providers.Decrypter
}

func (a *Agent) storageKey(ctx context.Context, version uint32) (*storageKey, error) {
	if a.cfg.StorageKey == "" {
		return nil, unsupported(noNumber, "using a storage key, of which none is configured")
	}
	key, err := a.openKey(ctx, a.cfg.StorageKey, version)
	if err != nil {
		return nil, err
	}
	enc, ok1 := key.Key.(providers.Encrypter)
	dec, ok2 := key.Key.(providers.Decrypter)
	if !ok1 || !ok2 || key.Info().Type != providers.AES256 || !slices.Contains(providers.MechanismsOf(key.Key), providers.AESGCM) {
		return nil, unsupported(noNumber, "sealing with a key that is not of type aes-256, or cannot do AES-GCM")
	}
	return &storageKey{key, enc, dec}, nil
}

// sealedHead returns format and version, and the associated data.
func sealedHead(format byte, version uint32, token [32]byte) (head, aad []byte) {
	head = binary.BigEndian.AppendUint32([]byte{format}, version)
	return head, append(append([]byte(sealedLabel), head...), token[:]...)
}

// sealSession makes a session storable.
func (a *Agent) sealSession(ctx context.Context, s *session) ([]byte, error) {
	var n uint64
	var counted bool
	var countErr error
	var counting sync.WaitGroup // while the key is opened, which spares one of two round trips to a device
	counting.Go(func() { n, counted, countErr = a.sealedCount(ctx, true) })
	key, err := a.storageKey(ctx, 0)
	counting.Wait()
	if err == nil {
		err = countErr
	}
	if err != nil {
		return nil, err
	}
	format := byte(sealedPlain)
	if s.keys.rung != nil {
		format = sealedLadder
	}
	var count []byte
	if counted {
		format |= sealedCount
		count = binary.BigEndian.AppendUint64(nil, n)
	}
	plain, err := encodeSealed(count, s)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	head, aad := sealedHead(format, key.Info().Version, s.token)
	nonce := make([]byte, gcmNonce)
	rand.Read(nonce)
	key.used()
	sealed, err := key.enc.Encrypt(ctx, providers.AESGCM, nonce, plain, aad)
	if err != nil {
		return nil, err
	}
	return append(append(head, nonce...), sealed...), nil
}

// sealedCount returns what the device has counted, if it counts beside the storage key.
func (a *Agent) sealedCount(ctx context.Context, up bool) (n uint64, counted bool, err error) {
	if a.cfg.StorageKey == "" {
		return 0, false, nil
	}
	n, err = providers.Count(ctx, a.provider, a.cfg.StorageKey, up)
	if errors.Is(err, providers.NotSupported) {
		return 0, false, nil
	}
	return n, true, err
}

// unsealSession opens a sealed session. t must be its master token.
func (a *Agent) unsealSession(ctx context.Context, sealed []byte, t wire.Token) (*session, error) {
	if len(sealed) < sealedHeader+gcmTag || len(sealed) > maxSealed {
		return nil, unverified(noNumber, "reading a sealed session")
	}
	format := sealed[0] &^ sealedCount
	if format != sealedPlain && format != sealedLadder {
		return nil, unverified(noNumber, "reading a sealed session")
	}
	version := binary.BigEndian.Uint32(sealed[1:])
	if version == 0 {
		return nil, unverified(noNumber, "reading a sealed session")
	}
	key, err := a.storageKey(ctx, version)
	if err != nil {
		if codeOf(err) == wire.NoSuchKey { // of another device, or destroyed
			return nil, unverified(noNumber, "finding the storage key of a sealed session")
		}
		return nil, err
	}
	n, counted, err := a.sealedCount(ctx, false)
	if err != nil {
		return nil, err
	}
	if counted != (sealed[0] != format) {
		return nil, unverified(noNumber, "comparing the count of a sealed session")
	}
	token := tokenHash(t)
	_, aad := sealedHead(sealed[0], version, token)
	key.used()
	plain, err := key.dec.Decrypt(ctx, providers.AESGCM, sealed[5:sealedHeader], sealed[sealedHeader:], aad)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	rest := plain
	if counted {
		if len(rest) < 8 || binary.BigEndian.Uint64(rest) != n {
			return nil, unverified(noNumber, "comparing the count of a sealed session")
		}
		rest = rest[8:]
	}
	s, err := parseSealed(format, rest)
	if err != nil {
		return nil, err
	}
	s.token = token
	a.logSession(s)
	return s, nil
}

// encodeSealed appends a session to count, in memory of its own.
func encodeSealed(count []byte, s *session) ([]byte, error) {
	enc, mac := secret.Reveal(s.keys.enc), secret.Reveal(s.keys.mac)
	if len(enc) > 255 || len(mac) > 255 || len(s.identity) > maxSealed/2 {
		return nil, unsupported(noNumber, "sealing a session with keys or an identity of that size")
	}
	// No reallocation may leave a copy of the keys behind.
	b := make([]byte, 0, len(count)+8+1+1+len(enc)+1+len(mac)+s.keys.rung.sealedSize()+len(s.identity))
	b = binary.BigEndian.AppendUint64(append(b, count...), uint64(s.sequenceNumber))
	number := byte(1)
	if s.keys.algorithm == aesCMAC {
		number = 2
	}
	b = append(b, number)
	b = append(append(b, byte(len(enc))), enc...)
	b = append(append(b, byte(len(mac))), mac...)
	if s.keys.rung != nil {
		b = s.keys.rung.appendSealed(b)
	}
	return append(b, s.identity...), nil
}

func (r *rung) sealedSize() int {
	if r == nil {
		return 0
	}
	return 1 + 1 + r.key.Len() + 2 + len(r.wrapdata)
}

func (r *rung) appendSealed(b []byte) []byte {
	b = append(b, byte(slices.Index(sealedSchemes[:], r.scheme)), byte(r.key.Len()))
	b = append(b, secret.Reveal(r.key)...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.wrapdata))) // at most maxWrapdata
	return append(b, r.wrapdata...)
}

// cutRung reads what appendSealed wrote.
func cutRung(b []byte) (r *rung, rest []byte, ok bool) {
	if len(b) == 0 || b[0] == 0 || int(b[0]) >= len(sealedSchemes) {
		return nil, nil, false
	}
	scheme := sealedSchemes[b[0]]
	key, b, ok := cutKey(b[1:])
	if !ok || len(key) != wrapKeySize || len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n > len(b) || n > maxWrapdata {
		return nil, nil, false
	}
	return &rung{scheme, bytes.Clone(b[:n]), secret.Take(bytes.Clone(key))}, b[n:], true
}

// parseSealed reads what encodeSealed wrote. It keeps nothing of b, which the caller wipes.
func parseSealed(format byte, b []byte) (*session, error) {
	refused := unverified(noNumber, "reading a sealed session")
	if len(b) < 9 {
		return nil, refused
	}
	sequence := int64(binary.BigEndian.Uint64(b))
	number := b[8]
	if !inRange(sequence) || number == 0 || int(number) >= len(sealedAlgorithms) {
		return nil, refused
	}
	enc, b, ok1 := cutKey(b[9:])
	mac, b, ok2 := cutKey(b)
	if !ok1 || !ok2 {
		return nil, refused
	}
	var below *rung
	if format == sealedLadder {
		var ok bool
		if below, b, ok = cutRung(b); !ok {
			return nil, refused
		}
	}
	keys := &sessionKeys{rung: below, enc: secret.Take(bytes.Clone(enc)), mac: secret.Take(bytes.Clone(mac)),
		algorithm: sealedAlgorithms[number]}
	s, err := newSession(keys, string(b), sequence)
	if err != nil {
		keys.wipe()
		return nil, refused
	}
	return s, nil
}

func cutKey(b []byte) (key, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}
