// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// A protector protects the parts of messages (§2.1): it encrypts, then signs; it verifies, then
// decrypts. It is safe for concurrent use.
type protector interface {
	seal(ctx context.Context, plain []byte) (wire.Part, error)
	open(ctx context.Context, part wire.Part) ([]byte, error)
}

// An encryptor is AES-CBC with PKCS #7 padding, under a key here or in a provider.
type encryptor interface {
	// encrypt appends the ciphertext to dst.
	encrypt(ctx context.Context, dst, iv, plain []byte) ([]byte, error)
	// decrypt may overwrite ciphertext, and return a part of it.
	decrypt(ctx context.Context, iv, ciphertext []byte) ([]byte, error)
}

// A signer is a MAC, under a key here or in a provider.
type signer interface {
	// sign appends the signature to dst.
	sign(ctx context.Context, dst, data []byte) ([]byte, error)
	// verify fails with a fault if the signature is not good.
	verify(ctx context.Context, data, signature []byte) error
}

// A wrapper is AES key wrap, under a key here or in a provider.
type wrapper interface {
	Wrap(ctx context.Context, key []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// A suite is the symmetric crypto context of §2.4: up to three keys, each of which may be missing.
type suite struct {
	label []byte    // keyid member of its envelopes
	enc   encryptor // nil: none
	mac   signer    // nil: none
	kw    wrapper   // nil: none

	version uint32 // of a key set; else 0
}

const (
	ivSize  = 16
	macSize = 32
)

// scratch holds ciphertexts on their way into envelopes. What is put back is ciphertext, not plaintext.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

const maxScratch = 1 << 20

// largeParts holds memory of large parts that were sealed or opened, and sent.
var largeParts sync.Pool

// largePart is the size in bytes from which on memory is used again. What is newly allocated is in no cache.
const largePart = 16 << 10

// Reuse takes the memory of large parts, if they are in memory of their own.
func (p *Peer) Reuse(reply wire.Reply) {
	switch r := reply.(type) {
	case *wire.SealReply:
		for _, part := range r.Parts {
			reuse(r.Owned, part.Data)
		}
	case *wire.OpenReply:
		for _, b := range r.Plain {
			reuse(r.Owned, b)
		}
	case *wire.OpenMasterTokenReply:
		for _, b := range r.Plain {
			reuse(r.Owned, b)
		}
	}
}

func reuse(owned bool, b []byte) {
	if n := cap(b); owned && n >= largePart && n <= maxScratch {
		mslenc.Poison(b)
		largeParts.Put(&b)
	}
}

// memory returns an empty slice that n bytes can be appended to. mem may be nil.
func memory(mem *mslenc.Arena, n int) []byte {
	if n >= largePart {
		if b, ok := largeParts.Get().(*[]byte); ok && cap(*b) >= n {
			return (*b)[:0]
		}
	}
	return mem.Take(n)
}

// seal returns an envelope and its signature.
func (s *suite) seal(ctx context.Context, plain []byte) (wire.Part, error) {
	return s.sealIn(ctx, nil, plain)
}

// sealIn is seal with the result, which shares one allocation if it is small, in memory of mem.
func (s *suite) sealIn(ctx context.Context, mem *mslenc.Arena, plain []byte) (wire.Part, error) {
	env, err := s.encryptIn(ctx, mem, plain)
	if err != nil {
		return wire.Part{}, err
	}
	n := len(env)
	if n >= largePart {
		signature, err := s.sign(ctx, nil, env)
		return wire.Part{Data: env, Signature: signature}, err
	}
	all, err := s.sign(ctx, env, env)
	if err != nil {
		return wire.Part{}, err
	}
	return wire.Part{Data: all[:n:n], Signature: all[n:]}, nil
}

// open is for parts of messages. Their signatures may be envelopes of version 2 (§2.3).
func (s *suite) open(ctx context.Context, part wire.Part) ([]byte, error) {
	return s.openIn(ctx, nil, part)
}

// openIn is open with the result in memory of mem.
func (s *suite) openIn(ctx context.Context, mem *mslenc.Arena, part wire.Part) ([]byte, error) {
	if err := s.verify(ctx, part.Data, rawSignature(part.Signature)); err != nil {
		return nil, err
	}
	return s.decryptIn(ctx, mem, part.Data)
}

// encrypt returns an encoded envelope.
func (s *suite) encrypt(ctx context.Context, plain []byte) ([]byte, error) {
	return s.encryptIn(ctx, nil, plain)
}

// encryptIn is encrypt with the envelope, and room behind it for a MAC, in memory of mem.
func (s *suite) encryptIn(ctx context.Context, mem *mslenc.Arena, plain []byte) ([]byte, error) {
	iv := memory(mem, ivSize)[:ivSize]
	rand.Read(iv)
	return s.encryptWith(ctx, mem, iv, plain)
}

func (s *suite) encryptWith(ctx context.Context, mem *mslenc.Arena, iv, plain []byte) ([]byte, error) {
	if s.enc == nil {
		return nil, unsupported(mslEncryptNotSupported, "encrypting without a key")
	}
	if len(plain) == 0 { // no cipher call, no padding block (§2.4)
		return appendEnvelope(nil, s.label, iv, nil), nil
	}
	buf := scratch.Get().(*[]byte)
	ciphertext, err := s.enc.encrypt(ctx, (*buf)[:0], iv, plain)
	if err != nil {
		return nil, err
	}
	env := memory(mem, envelopeSize(s.label, len(ciphertext))+macSize)
	env = appendEnvelope(env, s.label, iv, ciphertext)
	if cap(ciphertext) <= maxScratch {
		*buf = ciphertext
		scratch.Put(buf)
	}
	return env, nil
}

// decrypt opens an envelope of version 1 (§2.4). The caller has verified it.
func (s *suite) decrypt(ctx context.Context, b []byte) ([]byte, error) {
	return s.decryptIn(ctx, nil, b)
}

// decryptIn is decrypt with the plaintext in memory of mem.
func (s *suite) decryptIn(ctx context.Context, mem *mslenc.Arena, b []byte) ([]byte, error) {
	if s.enc == nil {
		return nil, unsupported(mslDecryptNotSupported, "decrypting without a key")
	}
	e, err := parseEnvelope(mem, b, 1)
	if err != nil {
		return nil, unverified(mslEnvelopeParseError, "parsing a ciphertext envelope")
	}
	switch {
	case len(e.ciphertext) == 0:
		return []byte{}, nil
	case e.iv == nil:
		return nil, unverified(mslEnvelopeParseError, "parsing a ciphertext envelope")
	case len(e.iv) != ivSize:
		return nil, unverified(mslInvalidAlgorithmParams, "reading the iv of a ciphertext envelope")
	case len(e.ciphertext)%16 != 0:
		return nil, unverified(mslCiphertextBlockSize, "reading the ciphertext of an envelope")
	}
	return s.enc.decrypt(ctx, e.iv, e.ciphertext)
}

// sign appends the signature to dst.
func (s *suite) sign(ctx context.Context, dst, data []byte) ([]byte, error) {
	if s.mac == nil {
		return nil, unsupported(mslSignNotSupported, "signing without a key")
	}
	return s.mac.sign(ctx, dst, data)
}

// verify is for raw signatures, which all tokens have.
func (s *suite) verify(ctx context.Context, data, signature []byte) error {
	if s.mac == nil {
		return unsupported(mslVerifyNotSupported, "verifying without a key")
	}
	return s.mac.verify(ctx, data, signature)
}

// wrap is AES key wrap without an envelope.
func (s *suite) wrap(ctx context.Context, key []byte) ([]byte, error) {
	switch {
	case s.kw == nil:
		return nil, unsupported(mslWrapNotSupported, "wrapping without a key")
	case len(key)%8 != 0:
		return nil, malformed(mslPlaintextBlockSize, "wrapping a key")
	}
	return s.kw.Wrap(ctx, key)
}

// unwrap undoes wrap. The caller wipes the result.
func (s *suite) unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	switch {
	case s.kw == nil:
		return nil, unsupported(mslUnwrapNotSupported, "unwrapping without a key")
	case len(wrapped) == 0 || len(wrapped)%8 != 0:
		return nil, unverified(mslCiphertextBlockSize, "unwrapping a key")
	}
	key, err := s.kw.Unwrap(ctx, wrapped)
	if err != nil && codeOf(err) == wire.VerificationFailed {
		return nil, &fault{code: wire.VerificationFailed, number: mslUnwrapError, what: "unwrapping a key", err: err}
	}
	return key, err
}

// sealAll seals the parts of one message, stopping when ctx ends.
func sealAll(ctx context.Context, p protector, plain [][]byte) ([]wire.Part, error) {
	parts := make([]wire.Part, 0, len(plain))
	for _, b := range plain {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part, err := p.seal(ctx, b)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// openAll opens the parts of one message. It returns those before the first that is not good, and the
// index of that one, or -1.
func openAll(ctx context.Context, p protector, parts []wire.Part) ([][]byte, int32, error) {
	plain := make([][]byte, 0, len(parts))
	for i, part := range parts {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		b, err := p.open(ctx, part)
		if codeOf(err) == wire.VerificationFailed {
			return plain, int32(i), nil
		}
		if err != nil {
			return nil, 0, err
		}
		plain = append(plain, b)
	}
	return slices.Clip(plain), -1, nil
}

// A placed is a suite whose results are in memory of an arena.
type placed struct {
	suite *suite
	mem   *mslenc.Arena
}

func (p *placed) seal(ctx context.Context, plain []byte) (wire.Part, error) {
	return p.suite.sealIn(ctx, p.mem, plain)
}

func (p *placed) open(ctx context.Context, part wire.Part) ([]byte, error) {
	return p.suite.openIn(ctx, p.mem, part)
}
