// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A KeyRequest offers a key exchange (§7.1).
type KeyRequest struct {
	Scheme  string
	KeyData []byte // an encoded MSL object

	mechanism string // as in KeyExchange; of a received request only
}

// A KeyResponse answers a key request with a new master token.
type KeyResponse struct {
	MasterToken *MasterToken
	Scheme      string
	KeyData     []byte // an encoded MSL object
}

func (r KeyRequest) encode() []byte {
	var b mslenc.Builder
	b.String("scheme", r.Scheme)
	b.Object("keydata", r.KeyData)
	return b.Bytes()
}

func (r *KeyResponse) encode() []byte {
	var b mslenc.Builder
	b.Object("mastertoken", r.MasterToken.Encoding())
	b.String("scheme", r.Scheme)
	b.Object("keydata", r.KeyData)
	return b.Bytes()
}

// A keyScheme is a key exchange scheme: its checks of key data that need no key, made before custody is
// asked. Adding one is a row in keySchemes with its two functions, and the exchange itself in custody.
type keyScheme struct {
	name              string
	selector          string   // the member of the key data that names the mechanism
	mechanisms        []string // that a side can ask for; nil: any name
	request, response func(keyData *fields)
}

const (
	schemeAsymmetricWrapped = "ASYMMETRIC_WRAPPED"
	schemeSymmetricWrapped  = "SYMMETRIC_WRAPPED"
	schemeDiffieHellman     = "DIFFIE_HELLMAN"
	schemeJWELadder         = "JWE_LADDER"
	schemeJWKLadder         = "JWK_LADDER"

	mechanismWRAP = "WRAP"
	mechanismPSK  = "PSK"
)

// continues reports whether the exchange goes on from an earlier one.
func (k KeyExchange) continues() bool {
	return k.Mechanism == mechanismWRAP && k.Scheme != schemeDiffieHellman
}

// preShared reports whether the exchange needs pre-shared keys.
func (k KeyExchange) preShared() bool {
	return k.Mechanism == mechanismPSK && k.Scheme != schemeDiffieHellman
}

var keySchemes = []keyScheme{
	{schemeAsymmetricWrapped, "mechanism", []string{"JWE_RSA", "JWEJS_RSA", "JWK_RSA", "JWK_RSAES", "RSA"}, checkAsymmetricRequest, checkAsymmetricResponse},
	{schemeSymmetricWrapped, "keyid", []string{mechanismPSK}, checkSymmetricRequest, checkSymmetricResponse},
	{schemeDiffieHellman, "parametersid", nil, checkAgreement, checkAgreement},
	{schemeJWELadder, "mechanism", []string{mechanismPSK, mechanismWRAP}, checkLadderRequest, checkLadderResponse},
	{schemeJWKLadder, "mechanism", []string{mechanismPSK, mechanismWRAP}, checkLadderRequest, checkLadderResponse},
}

// checkKeyExchanges finds names in the configuration that mean nothing.
func (c *Config) checkKeyExchanges() error {
	for _, k := range c.KeyExchanges {
		known := func(s keyScheme) bool {
			return s.name == k.Scheme && (slices.Contains(s.mechanisms, k.Mechanism) || s.mechanisms == nil && k.Mechanism != "")
		}
		if !slices.ContainsFunc(keySchemes, known) {
			return fmt.Errorf("msl: there is no key exchange %s/%s", k.Scheme, k.Mechanism)
		}
	}
	return nil
}

// defaultKeyExchanges are what a Config that names none offers.
func defaultKeyExchanges(symmetric bool) []KeyExchange {
	k := []KeyExchange{
		{schemeSymmetricWrapped, mechanismPSK},
		{schemeAsymmetricWrapped, "JWE_RSA"}, {schemeAsymmetricWrapped, "JWK_RSA"}, {schemeAsymmetricWrapped, "JWEJS_RSA"},
	}
	if !symmetric {
		k = k[1:]
	}
	return k
}

// acceptedKeyExchanges are what a Config that names none accepts: all that a client may be able to do without
// anything being named. Of the ladders, WRAP is before PSK, so that a pre-shared key is used as little as possible. JWK_LADDER
// is before JWE_LADDER, whose pre-shared key is not the same one in all stacks (§7.5).
func acceptedKeyExchanges() []KeyExchange {
	return slices.Insert(defaultKeyExchanges(true), 1,
		KeyExchange{schemeJWKLadder, mechanismWRAP}, KeyExchange{schemeJWELadder, mechanismWRAP},
		KeyExchange{schemeJWKLadder, mechanismPSK}, KeyExchange{schemeJWELadder, mechanismPSK})
}

// keyExchange reads the scheme and the key data that requests and responses have in common.
func (f *fields) keyExchange() (scheme string, keyData fields, row keyScheme) {
	scheme = f.text("scheme")
	i := slices.IndexFunc(keySchemes, func(s keyScheme) bool { return s.name == scheme })
	if f.err == nil && i < 0 {
		f.refuse(UnidentifiedKeyxScheme, "scheme")
	}
	keyData = f.object("keydata", f.what)
	if keyData.err == nil {
		row = keySchemes[i]
	}
	return scheme, keyData, row
}

func parseKeyRequest(o mslenc.Object) (KeyRequest, error) {
	f := fields{obj: o, what: "key request data", code: MSLParseError}
	scheme, keyData, row := f.keyExchange()
	if keyData.err == nil {
		row.request(&keyData)
	}
	if keyData.err != nil {
		return KeyRequest{}, keyData.err
	}
	mechanism, _ := keyData.obj.String(row.selector)
	return KeyRequest{Scheme: scheme, KeyData: slices.Clone(keyData.obj.Encoding()), mechanism: mechanism}, nil
}

func parseKeyResponse(f fields) (*KeyResponse, error) {
	token := f.object("mastertoken", "key response data")
	m, err := parseMasterToken(token)
	if err != nil {
		return nil, err
	}
	scheme, keyData, row := f.keyExchange()
	if keyData.err == nil {
		row.response(&keyData)
	}
	if keyData.err != nil {
		return nil, keyData.err
	}
	return &KeyResponse{MasterToken: m, Scheme: scheme, KeyData: slices.Clone(keyData.obj.Encoding())}, nil
}

// checkAsymmetricRequest checks §7.2.
func checkAsymmetricRequest(k *fields) {
	k.text("keypairid")
	mechanism := k.text("mechanism")
	switch mechanism {
	case "RSA", "JWK_RSA", "JWK_RSAES", "JWE_RSA", "JWEJS_RSA":
	case "ECC":
		k.refuse(UnsupportedKeyxMechanism, "mechanism")
	default:
		k.refuse(UnidentifiedKeyxMechanism, "mechanism")
	}
	der := k.binary("publickey")
	if k.err != nil {
		return
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if _, ok := key.(*rsa.PublicKey); !ok || err != nil {
		k.refuse(InvalidPublicKey, "publickey")
	}
}

func checkAsymmetricResponse(k *fields) {
	k.text("keypairid")
	k.binary("encryptionkey")
	k.binary("hmackey")
}

// checkSymmetricRequest checks §7.3.
func checkSymmetricRequest(k *fields) {
	if id := k.text("keyid"); id != "PSK" && id != "SESSION" {
		k.refuse(UnidentifiedKeyxKeyID, "keyid")
	}
}

func checkSymmetricResponse(k *fields) {
	checkSymmetricRequest(k)
	k.binary("encryptionkey")
	k.binary("hmackey")
}

// checkAgreement checks §7.4. Which groups there are, and what a good public key is, custody knows.
func checkAgreement(k *fields) {
	k.text("parametersid")
	if public := k.binary("publickey"); k.err == nil && len(public) == 0 {
		k.refuse(KeyxInvalidPublicKey, "publickey")
	}
}

// checkLadderRequest checks §7.5 and §7.6.
func checkLadderRequest(k *fields) {
	switch k.text("mechanism") {
	case "PSK": // wrapdata means nothing
	case mechanismWRAP:
		if wrapdata := k.binary("wrapdata"); k.err == nil && len(wrapdata) == 0 {
			k.refuse(KeyxWrappingKeyMissing, "wrapdata")
		}
	default:
		k.refuse(UnidentifiedKeyxMechanism, "mechanism")
	}
}

func checkLadderResponse(k *fields) {
	k.binary("wrapkey")
	k.binary("wrapdata")
	k.binary("encryptionkey")
	k.binary("hmackey")
}
