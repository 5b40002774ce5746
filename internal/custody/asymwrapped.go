// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/jose"
	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// ASYMMETRIC_WRAPPED (§7.2): random session keys, encrypted to an RSA key that the request brings.

// A mechanism is how the keys are encrypted.
type mechanism struct {
	rsa     providers.Mechanism // what RSA encrypts: the key itself, or a JWE's content key
	jwk     bool                // the keys are JSON web keys, and not raw
	jwe     bool                // these are encrypted by JSON web encryption
	compact bool                // in its compact form
}

var mechanisms = map[string]mechanism{
	"JWK_RSA":   {rsa: providers.RSAOAEP, jwk: true},
	"JWE_RSA":   {rsa: providers.RSAOAEP, jwk: true, jwe: true, compact: true},
	"JWEJS_RSA": {rsa: providers.RSAOAEP, jwk: true, jwe: true},
	"RSA":       {rsa: providers.RSAOAEP},
	"JWK_RSAES": {rsa: providers.RSAPKCS1, jwk: true},
}

// legacyMechanisms are off unless Config.Allow names them: raw keys say nothing of their use, and RSAES
// PKCS #1 v1.5 decryption invites oracles.
var legacyMechanisms = []string{"RSA", "JWK_RSAES"}

const mechanismECC = "ECC" // known to the reference, and never implemented

// Bounds of a request's RSA key: a large modulus or exponent costs the server's time.
const (
	minModulus  = 2048 // bits
	maxModulus  = 8192
	maxSPKI     = 4 << 10 // bytes
	minExponent = 3
)

func (a *Agent) mechanismNamed(name string) (mechanism, error) {
	m, ok := mechanisms[name]
	switch {
	case name == mechanismECC:
		return m, unsupported(mslUnsupportedMechanism, "reading mechanism")
	case !ok:
		return m, malformed(mslUnidentifiedMechanism, "reading mechanism")
	case slices.Contains(legacyMechanisms, name) && !slices.Contains(a.cfg.Allow, name):
		return m, &fault{code: wire.Denied, number: mslUnsupportedMechanism, what: "reading mechanism: it is not allowed here"}
	}
	return m, nil
}

func respondAsymmetric(ctx context.Context, a *Agent, _ *requester, o mslenc.Object) (*sessionKeys, []byte, error) {
	pairID, err := o.String("keypairid")
	if err != nil {
		return nil, nil, malformed(mslParseError, "reading keypairid")
	}
	name, err := o.String("mechanism")
	if err != nil {
		return nil, nil, malformed(mslParseError, "reading mechanism")
	}
	spki, err := o.Binary("publickey")
	if err != nil {
		return nil, nil, malformed(mslParseError, "reading publickey")
	}
	m, err := a.mechanismNamed(name)
	if err != nil {
		return nil, nil, err
	}
	public, err := parseRSAPublicKey(spki)
	if err != nil {
		return nil, nil, err
	}
	keys := newSessionKeys()
	enc, err := m.wrap(ctx, public, keys.enc, encryptionJWK)
	if err != nil {
		keys.wipe()
		return nil, nil, err
	}
	mac, err := m.wrap(ctx, public, keys.mac, signatureJWK)
	if err != nil {
		keys.wipe()
		return nil, nil, err
	}
	var b mslenc.Builder
	b.String("keypairid", pairID)
	b.Binary("encryptionkey", enc)
	b.Binary("hmackey", mac)
	return keys, b.Bytes(), nil
}

// parseRSAPublicKey reads the key of a request.
func parseRSAPublicKey(spki []byte) (*rsa.PublicKey, error) {
	refused := malformed(mslInvalidPublicKey, "reading publickey")
	if len(spki) > maxSPKI {
		return nil, refused
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	public, ok := key.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, refused
	}
	if n := public.N.BitLen(); n < minModulus || n > maxModulus || public.N.Bit(0) == 0 ||
		public.E < minExponent || public.E%2 == 0 {
		return nil, refused
	}
	return public, nil
}

// The JSON web keys of §7.2, without their bytes. Mechanisms with JSON web encryption write use, the
// others key_ops.
var (
	encryptionJWK = jose.Key{Type: "oct", Use: "enc", Ops: []string{"encrypt", "decrypt"}, Alg: "A128CBC"}
	signatureJWK  = jose.Key{Type: "oct", Use: "sig", Ops: []string{"sign", "verify"}, Alg: "HS256"}
)

// wrap encrypts one key to public.
func (m mechanism) wrap(ctx context.Context, public *rsa.PublicKey, key *secret.Bytes, jwk jose.Key) ([]byte, error) {
	to := rsaWrapper{public, m.rsa}
	if !m.jwk {
		return to.Wrap(ctx, secret.Reveal(key))
	}
	jwk.Secret = key
	if !m.jwe {
		jwk.Use = ""
	}
	plain := jwk.Encode()
	defer secret.Wipe(plain)
	if !m.jwe {
		return to.Wrap(ctx, plain)
	}
	x := jose.Context{Alg: jose.RSAOAEP, Enc: jose.A128GCM, Wrapper: to}
	return x.Wrap(ctx, plain, m.compact)
}

// unwrap undoes wrap.
func (m mechanism) unwrap(ctx context.Context, private providers.RSADecrypter, wrapped []byte, jwk jose.Key) (*secret.Bytes, error) {
	from := rsaUnwrapper{private, m.rsa}
	var plain []byte
	var err error
	if m.jwe {
		x := jose.Context{Alg: jose.RSAOAEP, Enc: jose.A128GCM, Unwrapper: from}
		plain, err = x.Unwrap(ctx, wrapped)
	} else {
		plain, err = from.Unwrap(ctx, wrapped)
	}
	if err != nil {
		return nil, err
	}
	if !m.jwk {
		return secret.Take(plain), nil
	}
	defer secret.Wipe(plain)
	key, err := jose.ParseKey(plain)
	if err != nil {
		return nil, &fault{code: wire.VerificationFailed, number: mslSessionKeyCreation, what: "parsing a session key", err: err}
	}
	if key.Type != jwk.Type || key.Alg != jwk.Alg {
		key.Wipe()
		return nil, unverified(mslSessionKeyCreation, "using a session key")
	}
	return key.Secret, nil
}

// An rsaWrapper encrypts with a public key that is here (§2.8).
type rsaWrapper struct {
	public    *rsa.PublicKey
	mechanism providers.Mechanism
}

// Wrap encrypts key.
func (w rsaWrapper) Wrap(_ context.Context, key []byte) (b []byte, err error) {
	if w.mechanism == providers.RSAPKCS1 {
		//lint:ignore SA1019 the mechanism JWK_RSAES prescribes it (§7.2), and is off by default
		b, err = rsa.EncryptPKCS1v15(rand.Reader, w.public, key)
	} else {
		b, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, w.public, key, nil)
	}
	if err != nil {
		return nil, malformed(mslPlaintextBlockSize, "encrypting with an RSA key")
	}
	return b, nil
}

// An rsaUnwrapper decrypts with a private key, wherever it is.
type rsaUnwrapper struct {
	private   providers.RSADecrypter
	mechanism providers.Mechanism
}

// Unwrap decrypts. The caller wipes the result.
func (w rsaUnwrapper) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	b, err := w.private.DecryptRSA(ctx, w.mechanism, wrapped)
	if err != nil && codeOf(err) == wire.VerificationFailed && numberOf(err) == noNumber {
		return nil, &fault{code: wire.VerificationFailed, number: mslCiphertextBadPadding, what: "decrypting with an RSA key", err: err}
	}
	return b, err
}

// A pendingAsymmetric waits for keys that only its key pair opens.
type pendingAsymmetric struct {
	name string
	mechanism
	pair *exchangePair
}

func beginAsymmetric(ctx context.Context, a *Agent, r *beginner) (pendingExchange, error) {
	m, err := a.mechanismNamed(r.mechanism)
	if err != nil {
		return nil, err
	}
	pair, err := a.exchangePair(ctx)
	if err != nil {
		return nil, err
	}
	return &pendingAsymmetric{r.mechanism, m, pair}, nil
}

func (p *pendingAsymmetric) wipe() { p.pair.release() }

func (p *pendingAsymmetric) keyData() []byte {
	var b mslenc.Builder
	b.String("keypairid", p.pair.id)
	b.String("mechanism", p.name)
	b.Binary("publickey", p.pair.spki)
	return b.Bytes()
}

func (p *pendingAsymmetric) finish(ctx context.Context, o mslenc.Object) (*sessionKeys, error) {
	pairID, err := o.String("keypairid")
	if err != nil {
		return nil, malformed(mslParseError, "reading keypairid")
	}
	w, err := parseWrappedKeys(o)
	if err != nil {
		return nil, err
	}
	if pairID != p.pair.id {
		return nil, malformed(mslResponseMismatch, "comparing keypairid")
	}
	keys := &sessionKeys{algorithm: hmacSHA256}
	var macErr error
	var both sync.WaitGroup // which spares one of two round trips to a device
	both.Go(func() { keys.mac, macErr = p.unwrap(ctx, p.pair.private, w.mac, signatureJWK) })
	keys.enc, err = p.unwrap(ctx, p.pair.private, w.enc, encryptionJWK)
	both.Wait()
	if err == nil {
		err = macErr
	}
	if err != nil {
		keys.wipe()
		return nil, err
	}
	if !keys.wellSized() {
		keys.wipe()
		return nil, unverified(mslSessionKeyCreation, "using session keys")
	}
	return keys, nil
}
