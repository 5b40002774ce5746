// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
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
	everyone := []string{"rsa-dev", "rsa-srv", "rsa-server", "revoked-entity", "unpermitted-entity"}
	return &msl.Config{
		Entity:        msl.PSK("psk-server"),
		EntitySchemes: []string{"PSK", "RSA", "NONE"},
		RSAPublicKeys: keys,
		RSAIdentities: map[string][]string{"rsa-client-key": everyone, "rsa-server-key": everyone, "nokey": everyone},
		KeyExchanges: []msl.KeyExchange{
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "RSA"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWEJS_RSA"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSAES"}, {Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK"},
		},
		ServiceTokenKeys:    map[string]string{"secure": "secure", "": "default"},
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

func (*vectorPolicy) UserIDToken(_ context.Context, _ string, t *msl.UserIDToken) (msl.Code, error) {
	if t.SerialNumber == 667 {
		return msl.UserIDTokenRevoked, nil
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
