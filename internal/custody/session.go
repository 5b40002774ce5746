// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// Sizes of the session keys that key exchange makes, in bytes (§2.11).
const (
	encKeySize = 16
	macKeySize = 32
)

// sessionKeys are the keys of a session.
type sessionKeys struct {
	enc, mac  *secret.Bytes
	algorithm string // of mac: hmacSHA256 or aesCMAC
	rung      *rung  // if a ladder gave them, and the other side issues; else nil
}

// newSessionKeys makes keys at random.
func newSessionKeys() *sessionKeys {
	return &sessionKeys{enc: secret.Random(encKeySize), mac: secret.Random(macKeySize), algorithm: hmacSHA256}
}

func (k *sessionKeys) known() bool { return k.algorithm == hmacSHA256 || k.algorithm == aesCMAC }

// wellSized reports whether the keys are of the sizes that key exchange makes.
func (k *sessionKeys) wellSized() bool { return k.enc.Len() == encKeySize && k.mac.Len() == macKeySize }

func (k *sessionKeys) wipe() {
	k.enc.Wipe()
	k.mac.Wipe()
	k.rung.wipe()
}

// A session is a session crypto context (§2.5) with what is known of its master token. Its table sees to
// it that it is not wiped during an operation.
type session struct {
	suite
	keys           *sessionKeys
	identity       string
	sequenceNumber int64
	token          [sha256.Size]byte // tokenHash of the master token

	// Of tokens that were issued here, which can be renewed:
	issued       bool
	serialNumber int64
	issuerData   []byte // an encoded object, or nil
}

// newSession expands the keys, which the session owns from then on if there is no error.
func newSession(keys *sessionKeys, identity string, sequenceNumber int64) (*session, error) {
	s := &session{keys: keys, identity: identity, sequenceNumber: sequenceNumber}
	s.label = keyLabel(identity + "_" + strconv.FormatInt(sequenceNumber, 10))
	enc, err := newAESCBC(keys.enc)
	if err != nil {
		return nil, err
	}
	s.enc = enc
	if keys.algorithm == aesCMAC {
		s.mac, err = newCMACKey(keys.mac)
	} else {
		s.mac, err = newHMACKey(keys.mac)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// wipe zeroes the keys and drops what was derived from them.
func (s *session) wipe() {
	if m, ok := s.mac.(interface{ wipe() }); ok {
		m.wipe()
	}
	s.enc, s.mac = nil, nil
	s.keys.wipe()
}

// logSession tells the key log, if there is one.
func (a *Agent) logSession(s *session) {
	a.cfg.KeyLog.Add("session-enc "+s.identity, s.keys.enc)
	a.cfg.KeyLog.Add("session-mac "+s.identity, s.keys.mac)
	if s.keys.rung != nil {
		a.cfg.KeyLog.Add("wrap "+s.identity, s.keys.rung.key)
	}
}

// tokenHash identifies the exact bytes of a token. The length keeps data and signature apart.
func tokenHash(t wire.Token) (sum [sha256.Size]byte) {
	h := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(t.Data)))
	h.Write(length[:])
	h.Write(t.Data)
	h.Write(t.Signature)
	h.Sum(sum[:0])
	return sum
}
