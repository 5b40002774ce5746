// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// A session authorises commands and encrypts their first parameters (TPM 2.0 part 1 §19, §21). Its key comes
// from a salt that only the holder of the storage root key can decrypt, so that nobody on the bus can
// make it up. It is used again and again, for one command at a time; the library's sessions would need one for
// each authorisation value and direction, and a chip has room for three.
type session struct {
	handle      tpm2.TPMHandle
	key         []byte
	nonceCaller [nonceSize]byte
	nonceTPM    []byte

	// Of the command under way:
	auth    []byte // of the object that is authorised
	in, out bool   // whether its first parameter, and its response's, are encrypted
}

const (
	nonceSize  = 16
	keySize    = 16 // AES-128, which the storage root key has too
	attrKeep   = 1 << 0
	attrDecode = 1 << 5 // the chip decrypts
	attrEncode = 1 << 6
)

var (
	errSession = errors.New("a response was not made by the chip that the session was begun with")
	errTaken   = errors.New("somebody else has the handle of our session")
)

// A direction is which first parameters a session encrypts.
type direction uint8

const (
	encryptIn   direction = 1 << iota // of the command
	encryptOut                        // of the response
	encryptNone direction = 0
	encryptBoth           = encryptIn | encryptOut
)

// with prepares a session for its next command. The chip ignores zero bytes at the end of an authorisation value.
func (s *session) with(auth *secret.Bytes, d direction) *session {
	s.auth, s.in, s.out = bytes.TrimRight(secret.Reveal(auth), "\x00"), d&encryptIn != 0, d&encryptOut != 0
	return s
}

// start begins a session, salted for the storage root key.
func (c *chip) start(kind tpm2.TPMSE) (*session, error) {
	key, err := tpm2.ImportEncapsulationKey(c.root.public)
	if err != nil {
		return nil, err
	}
	salt, encrypted, err := tpm2.CreateEncryptedSalt(rand.Reader, key)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(salt)
	s := new(session)
	rand.Read(s.nonceCaller[:])
	command := tpm2.StartAuthSession{
		TPMKey: c.root.handle, Bind: tpm2.TPMRHNull, SessionType: kind, AuthHash: tpm2.TPMAlgSHA256,
		NonceCaller: tpm2.TPM2BNonce{Buffer: s.nonceCaller[:]}, EncryptedSalt: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
		Symmetric: tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(8*keySize)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
	}
	c.unload(maxLoaded - 1) // a persistent key needs a slot while it is used
	response, err := command.Execute(c)
	if err != nil {
		return nil, err
	}
	s.handle, s.nonceTPM = tpm2.TPMHandle(response.SessionHandle.HandleValue()), response.NonceTPM.Buffer
	c.opened(s.handle)
	s.key = tpm2.KDFa(crypto.SHA256, salt, "ATH", s.nonceTPM, s.nonceCaller[:], 8*sha256.Size) // part 1 §19.6.8
	return s, nil
}

// blame tells a wrong authorisation value from a session whose handle somebody else has now, who has flushed ours, or who was
// faster after a reset. The chip says the same of both.
func (c *chip) blame(s *session, err error) error {
	if _, known := errors.AsType[*providers.Error](err); known || !isAuth(err) || s == nil {
		return err
	}
	if _, serr := (tpm2.GetRandom{BytesRequested: 1}).Execute(c, s.with(nil, encryptOut)); serr == nil {
		return err
	}
	c.flushed(s.handle) // which is not ours to flush
	return lostError{errTaken}
}

// wipe forgets the session's key.
func (s *session) wipe() {
	if s != nil {
		secret.Wipe(s.key)
		s.auth = nil
	}
}

// Init implements tpm2.Session.
func (s *session) Init(transport.TPM) error { return nil }

// CleanupFailure implements tpm2.Session.
func (s *session) CleanupFailure(transport.TPM) error { return nil }

// NonceTPM implements tpm2.Session.
func (s *session) NonceTPM() tpm2.TPM2BNonce { return tpm2.TPM2BNonce{Buffer: s.nonceTPM} }

// NewNonceCaller implements tpm2.Session.
func (s *session) NewNonceCaller() error {
	rand.Read(s.nonceCaller[:])
	return nil
}

// IsEncryption implements tpm2.Session.
func (s *session) IsEncryption() bool { return s.out }

// IsDecryption implements tpm2.Session.
func (s *session) IsDecryption() bool { return s.in }

// Handle implements tpm2.Session.
func (s *session) Handle() tpm2.TPMHandle { return s.handle }

// Encrypt implements tpm2.Session: it encrypts a command's first parameter.
func (s *session) Encrypt(parameter []byte) error {
	block, iv := s.cfb(s.nonceCaller[:], s.nonceTPM)
	//lint:ignore SA1019 the TPM has no other mode; the session's HMAC authenticates
	cipher.NewCFBEncrypter(block, iv).XORKeyStream(parameter, parameter)
	return nil
}

// Decrypt implements tpm2.Session: it decrypts a response's first parameter.
func (s *session) Decrypt(parameter []byte) error {
	block, iv := s.cfb(s.nonceTPM, s.nonceCaller[:])
	//lint:ignore SA1019 the TPM has no other mode; the session's HMAC authenticates
	cipher.NewCFBDecrypter(block, iv).XORKeyStream(parameter, parameter)
	return nil
}

// cfb derives the key of one parameter (TPM 2.0 part 1 §21.3).
func (s *session) cfb(newer, older []byte) (cipher.Block, []byte) {
	key := s.hmacKey()
	defer secret.Wipe(key)
	derived := tpm2.KDFa(crypto.SHA256, key, "CFB", newer, older, 8*(keySize+aes.BlockSize))
	block, err := aes.NewCipher(derived[:keySize])
	if err != nil {
		panic(err) // the size is right
	}
	return block, derived[keySize:]
}

// hmacKey is the session's key with the authorisation value (TPM 2.0 part 1 §19.6.5).
func (s *session) hmacKey() []byte { return append(append(make([]byte, 0, 64), s.key...), s.auth...) }

// mac authenticates one command or response.
func (s *session) mac(hash [sha256.Size]byte, newer, older, others []byte, attributes byte) []byte {
	key := s.hmacKey()
	defer secret.Wipe(key)
	h := hmac.New(sha256.New, key)
	for _, b := range [][]byte{hash[:], newer, older, others, {attributes}} {
		h.Write(b)
	}
	return h.Sum(nil)
}

// Authorize implements tpm2.Session.
func (s *session) Authorize(cc tpm2.TPMCC, parameters, others []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	b := binary.BigEndian.AppendUint32(nil, uint32(cc))
	for _, n := range names {
		b = append(b, n.Buffer...)
	}
	attributes := byte(attrKeep)
	if s.in {
		attributes |= attrDecode
	}
	if s.out {
		attributes |= attrEncode
	}
	return &tpm2.TPMSAuthCommand{
		Handle: s.handle, Nonce: tpm2.TPM2BNonce{Buffer: s.nonceCaller[:]},
		Attributes:    tpm2.TPMASession{ContinueSession: true, Decrypt: s.in, Encrypt: s.out},
		Authorization: tpm2.TPM2BData{Buffer: s.mac(sha256.Sum256(append(b, parameters...)), s.nonceCaller[:], s.nonceTPM, others, attributes)},
	}, nil
}

// Validate implements tpm2.Session.
func (s *session) Validate(rc tpm2.TPMRC, cc tpm2.TPMCC, parameters []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(rc))
	b = append(binary.BigEndian.AppendUint32(b, uint32(cc)), parameters...)
	a := auth.Attributes
	if !a.ContinueSession || a.Decrypt != s.in || a.Encrypt != s.out || a.Audit || a.AuditExclusive || a.AuditReset {
		return lostError{errSession}
	}
	attributes := byte(attrKeep)
	if a.Decrypt {
		attributes |= attrDecode
	}
	if a.Encrypt {
		attributes |= attrEncode
	}
	s.nonceTPM = auth.Nonce.Buffer
	if !hmac.Equal(s.mac(sha256.Sum256(b), s.nonceTPM, s.nonceCaller[:], nil, attributes), auth.Authorization.Buffer) {
		return lostError{errSession}
	}
	return nil
}
