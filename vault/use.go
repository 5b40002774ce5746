// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

var (
	errMechanism = errors.New("not a mechanism of this type of key")
	errIV        = errors.New("this mechanism takes no initialisation vector")
)

// A transitKey is one version of a key in Vault.
type transitKey struct {
	p    *Provider
	info providers.KeyInfo
}

// Info describes the key.
func (k *transitKey) Info() providers.KeyInfo { return k.info }

// begin checks what all uses need. It asks Vault nothing if it was asked a moment ago.
func (k *transitKey) begin(ctx context.Context, op string, size int) (*info, error) {
	if size > maxData {
		return nil, failure(providers.Malformed, op, errSize)
	}
	i, err := k.p.info(ctx, k.info.Name, k.info.Version)
	if err != nil {
		return nil, err
	}
	if i.kind != k.info.Type {
		return nil, failure(providers.NoSuchKey, op, nil) // another key has taken its name
	}
	return i, nil
}

// do uses the key at an endpoint, once. opens is for what undoes what a peer has sealed: whatever Vault has against
// it is then the peer's fault.
func (k *transitKey) do(ctx context.Context, op string, opens bool, elements []string, parameters string, body []byte) (outcome, error) {
	i := k.queue(op, elements, parameters).do(ctx, [][]byte{body})[0]
	return i.outcome, k.judge(op, opens, i)
}

func (k *transitKey) queue(op string, elements []string, parameters string) *queue {
	transit, _ := transitName(k.info.Name)
	return k.p.queue(op, k.p.path(append([]string{elements[0], transit}, elements[1:]...)...), parameters)
}

// judge returns the error of an item, or nil.
func (k *transitKey) judge(op string, opens bool, i *item) error {
	if i.err != nil {
		if errors.Is(i.err, providers.NoSuchKey) {
			k.p.forget(k.info.Name)
		}
		return i.err
	}
	if i.outcome.Error == "" {
		return nil
	}
	what := recognised([]string{i.outcome.Error})
	switch refused := (&refusal{400, what, false}); {
	case refused.code() == providers.NoSuchKey:
		k.p.forget(k.info.Name)
		return failure(providers.NoSuchKey, op, nil)
	case opens:
		return failure(providers.VerificationFailed, op, nil) // no cause: all look the same
	default:
		return failure(refused.code(), op, refused)
	}
}

// member begins an object with a member that is bytes in base64.
func member(name string, b []byte) []byte {
	out := make([]byte, 0, len(name)+base64.StdEncoding.EncodedLen(len(b))+64)
	out = append(append(append(out, `{"`...), name...), `":"`...)
	return append(base64.StdEncoding.AppendEncode(out, b), '"')
}

func withAAD(body, aad []byte) []byte {
	if len(aad) == 0 {
		return body
	}
	body = append(body, `,"associated_data":"`...)
	return append(base64.StdEncoding.AppendEncode(body, aad), '"')
}

// An aeadKey encrypts in Vault.
type aeadKey struct{ *transitKey }

// Mechanisms lists AEAD.
func (k *aeadKey) Mechanisms() []providers.Mechanism { return []providers.Mechanism{providers.AEAD} }

func (k *aeadKey) begin(ctx context.Context, op string, m providers.Mechanism, iv []byte, size int) (*info, error) {
	switch {
	case m != providers.AEAD:
		return nil, failure(providers.NotSupported, op, errMechanism)
	case len(iv) != 0:
		return nil, failure(providers.Malformed, op, errIV)
	}
	return k.transitKey.begin(ctx, op, size)
}

// Encrypt encrypts, and binds aad. What it returns is transit's form, which names the version.
func (k *aeadKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	const op = "encrypting"
	i, err := k.begin(ctx, op, m, iv, len(plaintext)+len(aad))
	if err != nil {
		return nil, err
	}
	return k.encrypt(ctx, op, i, k.info.Version, plaintext, aad)
}

func (k *aeadKey) encrypt(ctx context.Context, op string, i *info, version uint32, plaintext, aad []byte) ([]byte, error) {
	body, err := encryption(op, i, version, plaintext, aad)
	if err != nil {
		return nil, err
	}
	out, err := k.do(ctx, op, false, []string{"encrypt"}, partialIsGood, body)
	if err != nil {
		return nil, err
	}
	return encrypted(op, version, &out)
}

// encryption is what a request has for one plaintext.
func encryption(op string, i *info, version uint32, plaintext, aad []byte) ([]byte, error) {
	if version < i.writes {
		return nil, failure(providers.Denied, op, errors.New("this version may only decrypt (min_encryption_version)"))
	}
	body := withAAD(member("plaintext", plaintext), aad)
	return append(strconv.AppendUint(append(body, `,"key_version":`...), uint64(version), 10), '}'), nil
}

func encrypted(op string, version uint32, out *outcome) ([]byte, error) {
	if v, _, ok := parse(out.Ciphertext); !ok || v != version {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return []byte(out.Ciphertext), nil
}

// partialIsGood makes Vault answer a batch with 200 although some of its items have failed.
const partialIsGood = `,"partial_failure_response_code":200`

const overhead = 12 + 16 // bytes of nonce and tag

// Decrypt undoes Encrypt. The ciphertext names its version, which may be an older one than the key's, as long as
// Vault still decrypts it: one that [Rewrap] has made while the key was rotated is good, too.
func (k *aeadKey) Decrypt(ctx context.Context, m providers.Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	const op = "decrypting"
	i, err := k.begin(ctx, op, m, iv, len(ciphertext)+len(aad))
	if err != nil {
		return nil, err
	}
	return k.decrypt(ctx, op, i, ciphertext, aad)
}

func (k *aeadKey) decrypt(ctx context.Context, op string, i *info, ciphertext, aad []byte) ([]byte, error) {
	body, size, err := k.decryption(ctx, op, i, ciphertext, aad)
	if err != nil {
		return nil, err
	}
	out, err := k.do(ctx, op, true, []string{"decrypt"}, partialIsGood, body)
	if err != nil {
		return nil, err
	}
	return decrypted(op, size, &out)
}

// decryption is what a request has for one ciphertext, and the size of its plaintext.
func (k *aeadKey) decryption(ctx context.Context, op string, i *info, ciphertext, aad []byte) (body []byte, size int, err error) {
	v, raw, ok := parse(string(ciphertext))
	if !ok || len(raw) < overhead {
		return nil, 0, failure(providers.VerificationFailed, op, nil)
	}
	if v > i.newest {
		_, err := k.p.info(ctx, k.info.Name, v) // Vault may know it by now
		if errors.Is(err, providers.NoSuchKey) {
			err = failure(providers.VerificationFailed, op, nil)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if v < i.oldest {
		return nil, 0, failure(providers.NoSuchKey, op, nil)
	}
	body = make([]byte, 0, len(ciphertext)+2*len(aad)+64)
	body = append(append(append(body, `{"ciphertext":"`...), ciphertext...), '"') // of characters that are good in JSON
	return append(withAAD(body, aad), '}'), len(raw) - overhead, nil
}

func decrypted(op string, size int, out *outcome) ([]byte, error) {
	if len(out.Plaintext) != size {
		secret.Wipe(out.Plaintext)
		return nil, failure(providers.Device, op, errAnswer)
	}
	return out.Plaintext, nil
}

// Rewrap encrypts with the newest version what an older one has encrypted. Transit's own rewrap does not know
// associated data, so if there is any, the plaintext passes through this process, and is wiped.
func (k *aeadKey) Rewrap(ctx context.Context, ciphertext, aad []byte) ([]byte, error) {
	const op = "rewrapping"
	i, err := k.begin(ctx, op, providers.AEAD, nil, len(ciphertext)+len(aad))
	if err != nil {
		return nil, err
	}
	if len(aad) == 0 {
		return k.rewrap(ctx, op, ciphertext)
	}
	if next, err := k.p.info(ctx, k.info.Name, i.newest+1); err == nil { // there may be a newer one by now
		i = next
	} else if !errors.Is(err, providers.NoSuchKey) {
		return nil, err
	}
	plaintext, err := k.decrypt(ctx, op, i, ciphertext, aad)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plaintext)
	return k.encrypt(ctx, op, i, i.newest, plaintext, aad)
}

func (k *aeadKey) rewrap(ctx context.Context, op string, ciphertext []byte) ([]byte, error) {
	if _, raw, ok := parse(string(ciphertext)); !ok || len(raw) < overhead {
		return nil, failure(providers.VerificationFailed, op, nil)
	}
	body := append(append([]byte(`{"ciphertext":"`), ciphertext...), `"}`...)
	out, err := k.do(ctx, op, true, []string{"rewrap"}, partialIsGood, body)
	if err != nil {
		return nil, err
	}
	if _, _, ok := parse(out.Ciphertext); !ok {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return []byte(out.Ciphertext), nil
}

// parse takes transit's form vault:vN:BASE64 apart.
func parse(s string) (version uint32, raw []byte, ok bool) {
	rest, ok := strings.CutPrefix(s, "vault:v")
	number, text, colon := strings.Cut(rest, ":")
	v, err := strconv.ParseUint(number, 10, 32)
	if !ok || !colon || err != nil || v == 0 || number[0] == '0' || strings.ContainsAny(text, "\r\n") {
		return 0, nil, false
	}
	raw, err = base64.StdEncoding.Strict().DecodeString(text)
	return uint32(v), raw, err == nil
}

// A macKey authenticates in Vault.
type macKey struct{ *transitKey }

// MAC computes HMAC-SHA-256.
func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	const op = "computing a MAC"
	if _, err := k.begin(ctx, op, len(message)); err != nil {
		return nil, err
	}
	out, err := k.do(ctx, op, false, []string{"hmac", "sha2-256"}, fmt.Sprintf(`,"key_version":%d`, k.info.Version), append(member("input", message), '}'))
	if err != nil {
		return nil, err
	}
	v, mac, ok := parse(out.HMAC)
	if !ok || v != k.info.Version || len(mac) != 32 {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return mac, nil
}

// VerifyMAC has Vault compare.
func (k *macKey) VerifyMAC(ctx context.Context, message, mac []byte) error {
	const op = "verifying a MAC"
	if _, err := k.begin(ctx, op, len(message)); err != nil {
		return err
	}
	if len(mac) != 32 {
		return failure(providers.VerificationFailed, op, nil)
	}
	body := fmt.Appendf(member("input", message), `,"hmac":"vault:v%d:%s"}`, k.info.Version, base64.StdEncoding.EncodeToString(mac))
	out, err := k.do(ctx, op, true, []string{"verify", "sha2-256"}, "", body)
	if err == nil && !out.Valid {
		err = failure(providers.VerificationFailed, op, nil)
	}
	return err
}

// A signer signs in Vault.
type signer struct {
	*transitKey
	mechanism providers.Mechanism
}

// Mechanisms lists the one way to sign.
func (k *signer) Mechanisms() []providers.Mechanism { return []providers.Mechanism{k.mechanism} }

// Sign signs with SHA-256.
func (k *signer) Sign(ctx context.Context, m providers.Mechanism, message []byte) ([]byte, error) {
	const op = "signing"
	if m != k.mechanism {
		return nil, failure(providers.NotSupported, op, errMechanism)
	}
	if _, err := k.begin(ctx, op, len(message)); err != nil {
		return nil, err
	}
	parameters := fmt.Sprintf(`,"key_version":%d,"marshaling_algorithm":"asn1"`, k.info.Version)
	if m == providers.RSAPKCS1 {
		parameters += `,"signature_algorithm":"pkcs1v15"`
	}
	out, err := k.do(ctx, op, false, []string{"sign", "sha2-256"}, parameters, append(member("input", message), '}'))
	if err != nil {
		return nil, err
	}
	v, signature, ok := parse(out.Signature)
	if !ok || v != k.info.Version || len(signature) == 0 {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return signature, nil
}

// PublicKey returns the public half, which Vault has told with the rest.
func (k *signer) PublicKey(ctx context.Context) ([]byte, error) {
	const op = "reading a public key"
	i, err := k.begin(ctx, op, 0)
	if err != nil {
		return nil, err
	}
	spki := i.public[k.info.Version]
	if len(spki) == 0 {
		return nil, failure(providers.Device, op, errAnswer)
	}
	return bytes.Clone(spki), nil
}
