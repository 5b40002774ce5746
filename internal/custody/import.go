// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/mslkeep/mslkeep/internal/jose"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// maxImport bounds what is read to import a key, in bytes.
const maxImport = 64 << 10

// symmetricSizes are the sizes of symmetric keys, in bytes.
var symmetricSizes = map[providers.KeyType]int{providers.AES128: 16, providers.AES256: 32, providers.HMACSHA256: 32}

// importKey reads a key from a file and gives it to the provider.
func (a *Agent) importKey(ctx context.Context, r *wire.ImportKeyRequest) (*wire.ChangedKeysReply, error) {
	if err := checkKeyName(r.Name); err != nil {
		return nil, err
	}
	importer, ok := a.provider.(providers.Importer)
	if !ok {
		return nil, unsupported(noNumber, "importing in this provider")
	}
	file, err := a.readKeyFile(r.Path)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(file)
	defer a.ring.forget()
	out := new(wire.ChangedKeysReply)
	if isKeySet(r.Type) {
		return out, a.importKeySet(ctx, importer, r, file, out)
	}
	keyType := providers.KeyType(strings.Clone(r.Type))
	var key []byte
	if size, ok := symmetricSizes[keyType]; ok {
		key, err = decodeSymmetric(file, r.Format, size)
	} else {
		key, err = decodePrivate(file, r.Format, keyType)
	}
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(key)
	if err := a.changed(out)(importer.Import(ctx, strings.Clone(r.Name), keyType, key)); err != nil {
		return nil, err
	}
	return out, nil
}

// importKeySet imports Kenc || Khmac, from which Kwrap is derived, or Kenc || Khmac || Kwrap.
func (a *Agent) importKeySet(ctx context.Context, importer providers.Importer, r *wire.ImportKeyRequest, file []byte, out *wire.ChangedKeysReply) error {
	keys, err := decodePreShared(file, r.Format)
	if err != nil {
		return err
	}
	defer secret.Wipe(keys)
	rest := keys
	for _, m := range keySetMembers {
		if err := a.changed(out)(importer.Import(ctx, r.Name+m.suffix, m.keyType, rest[:m.size])); err != nil {
			a.undo(ctx, out)
			out.Keys = nil
			return err
		}
		rest = rest[m.size:]
	}
	return nil
}

// deriveWrappingKey derives the wrapping key that belongs to pre-shared keys, Kenc || Khmac (§2.11).
func deriveWrappingKey(keys []byte) []byte {
	salt := []byte{0x02, 0x76, 0x17, 0x98, 0x4f, 0x62, 0x27, 0x53, 0x9a, 0x63, 0x0b, 0x89, 0x7c, 0x01, 0x7d, 0x69}
	info := []byte{0x80, 0x9f, 0x82, 0xa7, 0xad, 0xdf, 0x54, 0x8d, 0x3e, 0xa9, 0xdd, 0x06, 0x7f, 0xf9, 0xbb, 0x91}
	extract := hmac.New(sha256.New, salt)
	extract.Write(keys)
	prk := extract.Sum(nil)
	defer secret.Wipe(prk)
	expand := hmac.New(sha256.New, prk)
	expand.Write(info)
	return expand.Sum(nil)[:16]
}

// readKeyFile reads a regular file, or the standard input for "-". The caller wipes the result.
func (a *Agent) readKeyFile(path string) ([]byte, error) {
	if path == "-" {
		if a.cfg.Stdin == nil {
			return nil, unsupported(noNumber, "reading the standard input, which this agent does not have")
		}
		return readBounded(a.cfg.Stdin)
	}
	f, err := openKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

// openKeyFile opens a regular file.
func openKeyFile(path string) (*os.File, error) {
	// Not blocking, in case that it is a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		what := "opening the file"
		for _, known := range []error{os.ErrNotExist, os.ErrPermission} {
			if errors.Is(err, known) {
				what += ": " + known.Error()
			}
		}
		return nil, &fault{code: wire.Malformed, number: noNumber, what: what, err: err}
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, malformed(noNumber, "reading what is not a regular file")
	}
	return f, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	b := make([]byte, maxImport+1) // not grown: no copy is left behind
	n, err := io.ReadFull(r, b)
	if err == nil {
		secret.Wipe(b)
		return nil, malformed(noNumber, "reading a file that is too long for a key")
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(b)
		return nil, &fault{code: wire.Malformed, number: noNumber, what: "reading the file", err: err}
	}
	return b[:n], nil
}

// decodeSymmetric decodes a key of that size from hex, base64 or a JSON web key. For the sizes that keys
// have, no text is one in hex and also one in base64.
func decodeSymmetric(file []byte, format string, size int) ([]byte, error) {
	text := bytes.TrimSpace(file)
	refused := malformed(noNumber, "decoding a key of that type and format")
	if format == "jwk" || format == "" && len(text) > 0 && text[0] == '{' {
		k, err := jose.ParseKey(text)
		if err != nil || k.Secret.Len() != size {
			if err == nil {
				k.Wipe()
			}
			return nil, refused
		}
		return secret.Reveal(k.Secret), nil // the caller's, and wiped by it
	}
	key := make([]byte, len(text))
	if format == "hex" || format == "" {
		if n, err := hex.Decode(key, text); err == nil && n == size {
			return key[:n], nil
		}
	}
	if format == "base64" || format == "" {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			if n, err := encoding.Strict().Decode(key, text); err == nil && n == size {
				return key[:n], nil
			}
		}
	}
	secret.Wipe(key)
	return nil, refused
}

// decodePrivate decodes PKCS #8, in PEM or DER, and checks that the key is of that type.
func decodePrivate(file []byte, format string, keyType providers.KeyType) ([]byte, error) {
	if format != "" && format != "pkcs8" {
		return nil, malformed(noNumber, "decoding a private key of that format")
	}
	der := bytes.Clone(file)
	if block, _ := pem.Decode(file); block != nil {
		secret.Wipe(der)
		der = block.Bytes
		if block.Type != "PRIVATE KEY" {
			secret.Wipe(der)
			return nil, malformed(noNumber, "decoding PEM that is not an unencrypted PRIVATE KEY (PKCS #8)")
		}
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil && typeOf(key) == keyType {
		return der, nil
	}
	secret.Wipe(der)
	return nil, malformed(noNumber, "decoding a private key of that type")
}

// typeOf returns the type of a private key, or "".
func typeOf(key any) providers.KeyType {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		for _, t := range []struct {
			keyType providers.KeyType
			bits    int
		}{{providers.RSA2048, 2048}, {providers.RSA3072, 3072}, {providers.RSA4096, 4096}} {
			if key.N.BitLen() == t.bits {
				return t.keyType
			}
		}
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return providers.ECP256
		}
	}
	return ""
}
