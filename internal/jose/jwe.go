// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
)

// Names of algorithms (§2.10): how the content encryption key is protected, and what encrypts the
// content.
const (
	RSAOAEP = "RSA-OAEP" // SHA-1 and MGF1 with SHA-1
	A128KW  = "A128KW"
	A128GCM = "A128GCM"
	A256GCM = "A256GCM"
)

const (
	maxEncryption = 64 << 10 // bytes of one encryption, a bound far above any wrapped key
	ivSize        = 12
	tagSize       = 16
)

// A Wrapper protects a content encryption key: by AES key wrap, or by RSA.
type Wrapper interface {
	Wrap(ctx context.Context, key []byte) ([]byte, error)
}

// An Unwrapper undoes a Wrapper.
type Unwrapper interface {
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// A Context wraps and unwraps by JSON web encryption with fixed algorithms (§2.10). It is safe for
// concurrent use if its Wrapper and Unwrapper are.
type Context struct {
	Alg, Enc  string
	Wrapper   Wrapper   // nil: Wrap is not supported
	Unwrapper Unwrapper // nil: Unwrap is not supported
}

// keySize returns the size in bytes of the content encryption key, or 0.
func (c *Context) keySize() int {
	switch c.Enc {
	case A128GCM:
		return 16
	case A256GCM:
		return 32
	}
	return 0
}

// parts are the five parts of an encryption: decoded, but for the three that are authenticated, which
// are kept as they came.
type parts struct {
	header, key, iv          string
	rawKey, rawIV, text, tag []byte
}

// aad returns what the draft authenticates beside the ciphertext: RFC 7516 takes the header alone.
func (p *parts) aad() []byte { return []byte(p.header + "." + p.key + "." + p.iv) }

// Wrap encrypts plain under a fresh key, in compact or in JSON serialisation. An empty plain is refused,
// because no reader accepts it.
func (c *Context) Wrap(ctx context.Context, plain []byte, compact bool) ([]byte, error) {
	if c.Wrapper == nil || c.keySize() == 0 {
		return nil, fail(EncryptNotSupported, "encrypting")
	}
	if len(plain) == 0 {
		return nil, fail(JWEParseError, "encrypting nothing")
	}
	cek := make([]byte, c.keySize())
	defer secret.Wipe(cek)
	rand.Read(cek)
	wrapped, err := c.Wrapper.Wrap(ctx, cek)
	if err != nil {
		return nil, err
	}
	aead, err := gcm(cek)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, ivSize)
	rand.Read(iv)
	p := parts{
		header: mslenc.EncodeBase64URL([]byte(`{"alg":"` + c.Alg + `","enc":"` + c.Enc + `"}`)),
		key:    mslenc.EncodeBase64URL(wrapped),
		iv:     mslenc.EncodeBase64URL(iv),
	}
	sealed := aead.Seal(nil, iv, plain, p.aad())
	text := mslenc.EncodeBase64URL(sealed[:len(plain)])
	tag := mslenc.EncodeBase64URL(sealed[len(plain):])
	if compact {
		return []byte(p.header + "." + p.key + "." + p.iv + "." + text + "." + tag), nil
	}
	var recipient, b mslenc.Builder
	recipient.String("header", p.header)
	recipient.String("encrypted_key", p.key)
	recipient.String("integrity_value", tag)
	b.Objects("recipients", [][]byte{recipient.Bytes()})
	b.String("initialization_vector", p.iv)
	b.String("ciphertext", text)
	return b.Bytes(), nil
}

// Unwrap decrypts either serialisation; the first byte tells them apart. The caller wipes the result.
func (c *Context) Unwrap(ctx context.Context, b []byte) ([]byte, error) {
	if len(b) == 0 || len(b) > maxEncryption {
		return nil, fail(JWEParseError, "parsing an encryption")
	}
	parse := parseCompact
	if b[0] == '{' {
		parse = parseJSON
	}
	p, err := parse(b)
	if err != nil {
		return nil, err
	}
	if err := c.checkHeader(p.header); err != nil {
		return nil, err
	}
	if c.Unwrapper == nil {
		return nil, fail(DecryptNotSupported, "decrypting")
	}
	cek, err := c.Unwrapper.Unwrap(ctx, p.rawKey)
	if err != nil {
		return nil, c.keyError(err)
	}
	defer secret.Wipe(cek)
	if len(cek) != c.keySize() {
		return nil, fail(InvalidSymmetricKey, "unwrapping the content key")
	}
	if len(p.tag) != tagSize || len(p.rawIV) != ivSize {
		return nil, fail(InvalidAlgorithmParams, "reading initialization vector and tag")
	}
	aead, err := gcm(cek)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, p.rawIV, append(p.text, p.tag...), p.aad())
	if err != nil {
		return nil, fail(UnwrapError, "decrypting")
	}
	return plain, nil
}

// keyError gives an unwrapper's failure the number that belongs to the algorithm, unless the failure is
// not one of the data.
func (c *Context) keyError(err error) error {
	if _, ok := errors.AsType[*Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	number := int32(InvalidSymmetricKey)
	if c.Alg == RSAOAEP {
		number = CiphertextBadPadding
	}
	return &Error{MSL: number, Op: "unwrapping the content key", Err: err}
}

func (c *Context) checkHeader(encoded string) error {
	raw, err := mslenc.DecodeBase64URL(encoded)
	if err != nil {
		return fail(JWEParseError, "parsing the header")
	}
	o, err := mslenc.Parse(raw)
	if err != nil {
		return fail(JWEParseError, "parsing the header")
	}
	alg, err1 := o.String("alg")
	enc, err2 := o.String("enc")
	if err1 != nil || err2 != nil || alg != RSAOAEP && alg != A128KW || enc != A128GCM && enc != A256GCM {
		return fail(JWEParseError, "parsing the header")
	}
	if alg != c.Alg || enc != c.Enc {
		return fail(AlgorithmMismatch, "comparing the algorithms")
	}
	return nil
}

func parseCompact(b []byte) (parts, error) {
	s := bytes.Split(b, []byte("."))
	if len(s) != 5 {
		return parts{}, fail(JWEParseError, "parsing a compact encryption")
	}
	return decodeParts(string(s[0]), string(s[1]), string(s[2]), string(s[3]), string(s[4]))
}

// parseJSON reads the first recipient, and requires the others only to be objects.
func parseJSON(b []byte) (parts, error) {
	refused := fail(JWEParseError, "parsing a JSON encryption")
	o, err := mslenc.Parse(b)
	if err != nil {
		return parts{}, refused
	}
	recipients, err := o.Objects("recipients")
	if err != nil || len(recipients) == 0 {
		return parts{}, refused
	}
	header, err1 := recipients[0].String("header")
	key, err2 := recipients[0].String("encrypted_key")
	tag, err3 := recipients[0].String("integrity_value")
	iv, err4 := o.String("initialization_vector")
	text, err5 := o.String("ciphertext")
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return parts{}, refused
	}
	return decodeParts(header, key, iv, text, tag)
}

// decodeParts decodes the parts, of which none may be empty.
func decodeParts(header, key, iv, text, tag string) (parts, error) {
	p := parts{header: header, key: key, iv: iv}
	for _, m := range []struct {
		from string
		to   *[]byte
	}{{key, &p.rawKey}, {iv, &p.rawIV}, {text, &p.text}, {tag, &p.tag}} {
		raw, err := mslenc.DecodeBase64URL(m.from)
		if err != nil || len(raw) == 0 {
			return parts{}, fail(JWEParseError, "decoding a part of an encryption")
		}
		*m.to = raw
	}
	return p, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fail(InvalidSymmetricKey, "using the content key")
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fail(InvalidSymmetricKey, "using the content key")
	}
	return aead, nil
}
