// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// vectorTime is the clock of the vectors.
var vectorTime = time.Unix(1700000000, 0)

// vectorConfig is a server as the reference's vectors have it, with a fresh policy.
func vectorConfig() *msl.Config {
	f := inproc.Fixtures()
	keys := make(map[string]*rsa.PublicKey)
	for id, pair := range f.RSAStore {
		key, err := x509.ParsePKIXPublicKey(f.KeyPairs[pair].SPKI)
		if err != nil {
			panic(err)
		}
		keys[id] = key.(*rsa.PublicKey)
	}
	curves := make(map[string]crypto.PublicKey)
	for id, pair := range f.ECCStore {
		key, err := x509.ParsePKIXPublicKey(f.KeyPairs[pair].SPKI)
		if err != nil {
			panic(err)
		}
		curves[id] = key
	}
	everyone := []string{"rsa-dev", "rsa-srv", "rsa-server", "ec-dev", "ec-srv", "revoked-entity", "unpermitted-entity"}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, name := range f.X509Trusted {
		certificate, err := x509.ParseCertificate(f.Certificates[name].DER)
		if err != nil {
			panic(err)
		}
		if certificate.CheckSignatureFrom(certificate) == nil {
			roots.AddCert(certificate)
		} else {
			intermediates.AddCert(certificate)
		}
	}
	return &msl.Config{
		Entity:        msl.PSK("psk-server"),
		EntitySchemes: []string{"PSK", "PSK_PROFILE", "X509", "RSA", "ECC", "NONE", "NONE_SUFFIXED", "MT_PROTECTED", "PROVISIONED"},
		RSAPublicKeys: keys,
		RSAIdentities: map[string][]string{"rsa-client-key": everyone, "rsa-server-key": everyone, "nokey": everyone},
		ECCPublicKeys: curves,
		ECCIdentities: map[string][]string{"ec-client-key": everyone, "ec-server-key": everyone},
		X509Roots:     roots, X509Intermediates: intermediates,
		Provision: func(context.Context) (string, error) { return "provisioned-1", nil },
		KeyExchanges: []msl.KeyExchange{ // in the reference's order
			{Scheme: "JWK_LADDER", Mechanism: "WRAP"}, {Scheme: "JWK_LADDER", Mechanism: "PSK"},
			{Scheme: "JWE_LADDER", Mechanism: "WRAP"}, {Scheme: "JWE_LADDER", Mechanism: "PSK"},
			{Scheme: "DIFFIE_HELLMAN", Mechanism: "dh768"}, {Scheme: "DIFFIE_HELLMAN", Mechanism: "dh2048"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "RSA"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWEJS_RSA"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSAES"}, {Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK"},
		},
		ServiceTokenKeys:    map[string]string{"secure": "secure", "": "default"},
		UserSchemes:         []string{"EMAIL_PASSWORD", "USER_ID_TOKEN"},
		Users:               vectorUsers(f.Users),
		Policy:              &vectorPolicy{largest: make(map[int64]int64)},
		MasterTokenRenewal:  1800 * time.Second,
		MasterTokenLifetime: 3600 * time.Second,
		UserIDTokenRenewal:  1800 * time.Second,
		UserIDTokenLifetime: 3600 * time.Second,
		Clock:               func() time.Time { return vectorTime },
	}
}

// vectorUsers is the user store of the vectors.
type vectorUsers []inproc.User

func (u vectorUsers) EmailPassword(_ context.Context, _, email, password string) (string, bool, error) {
	for _, user := range u {
		if user.Email == email && user.Password == password {
			return user.Name, true, nil
		}
	}
	return "", false, nil
}

// vectorPolicy is the application's policy in the vectors.
type vectorPolicy struct {
	mu      sync.Mutex
	largest map[int64]int64 // non-replayable id by master token serial number
}

func (*vectorPolicy) Entity(_ context.Context, identity, _ string) (msl.Code, error) {
	switch identity {
	case "revoked-entity":
		return msl.EntityRevoked, nil
	case "unpermitted-entity":
		return msl.IncorrectEntityAuthData, nil
	}
	return 0, nil
}

func (*vectorPolicy) MasterToken(_ context.Context, _ string, t *msl.MasterToken, renew bool) (msl.Code, error) {
	switch {
	case t.SerialNumber == 666:
		return msl.MasterTokenIdentityRevoked, nil
	case t.SerialNumber == 668 && renew:
		return msl.MasterTokenSequenceNumberOutOfSync, nil
	}
	return 0, nil
}

func (*vectorPolicy) UserIDToken(_ context.Context, user string, t *msl.UserIDToken) (msl.Code, error) {
	switch {
	case t.SerialNumber == 667:
		return msl.UserIDTokenRevoked, nil
	case !strings.HasPrefix(user, "user"):
		return msl.UserIDTokenIdentityInvalid, nil
	}
	return 0, nil
}

func (p *vectorPolicy) NonReplayable(_ context.Context, _ string, t *msl.MasterToken, id int64) (msl.Code, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	largest := p.largest[t.SerialNumber]
	switch {
	case id <= largest:
		return msl.MessageReplayed, nil
	case id > largest+65536:
		return msl.MessageReplayedUnrecoverable, nil
	}
	p.largest[t.SerialNumber] = id
	return 0, nil
}

func (*vectorPolicy) UserScheme(_ context.Context, identity, _, _ string) (msl.Code, error) {
	if identity == "unpermitted-entity" {
		return msl.UserAuthEntityIncorrectData, nil
	}
	return 0, nil
}

func (*vectorPolicy) KeyExchange(_ context.Context, identity, _ string) (msl.Code, error) {
	if identity == "unpermitted-entity" {
		return msl.KeyxIncorrectData, nil
	}
	return 0, nil
}

// server returns the opener of a server with the vectors' keys.
func server(t testing.TB, cfg *msl.Config) *msl.Opener {
	c := inproc.Agent(t)
	return &msl.Opener{Config: cfg, Entities: c, Tokens: c, Services: c}
}
