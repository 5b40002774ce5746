// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// talk requires that what one end seals the other opens.
func talk(t testing.TB, p *Peer, a wire.Handle, q *Peer, b wire.Handle) {
	t.Helper()
	sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: a, Plain: [][]byte{[]byte("hello"), {}}})
	opened := ask[*wire.OpenReply](t, q, &wire.OpenRequest{Context: b, Parts: sealed.Parts})
	if opened.FailedPart != -1 || len(opened.Plain) != 2 || string(opened.Plain[0]) != "hello" {
		t.Fatal("the two ends have different keys")
	}
}

func TestExchanges(t *testing.T) {
	server, client := newPeer(t, newAgent(t, everything)), newPeer(t, newAgent(t, everything))
	for _, x := range [][2]string{{"SYMMETRIC_WRAPPED", "PSK"}, {"ASYMMETRIC_WRAPPED", "JWK_RSA"}, {"ASYMMETRIC_WRAPPED", "JWE_RSA"},
		{"ASYMMETRIC_WRAPPED", "JWEJS_RSA"}, {"ASYMMETRIC_WRAPPED", "RSA"}, {"ASYMMETRIC_WRAPPED", "JWK_RSAES"},
		{"DIFFIE_HELLMAN", "dh768"}, {"DIFFIE_HELLMAN", "dh2048"}, {"JWE_LADDER", "PSK"}, {"JWK_LADDER", "PSK"}} {
		begun := ask[*wire.BeginExchangeReply](t, client, &wire.BeginExchangeRequest{Scheme: x[0], Mechanism: x[1], Identity: "psk-client"})
		issued := ask[*wire.IssueReply](t, server, &wire.IssueRequest{Scheme: x[0], KeyData: begun.KeyData,
			Entity: authenticated(t, server, "psk-client"), Identity: "psk-client", RenewalWindow: 10, Expiration: 20})
		for range 2 { // a response may come twice
			finished := ask[*wire.FinishExchangeReply](t, client, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData,
				Token: issued.Token, Identity: "psk-client"})
			talk(t, client, finished.Session, server, issued.Session)
			talk(t, server, issued.Session, client, finished.Session)
		}
		opened := ask[*wire.OpenMasterTokenReply](t, server, &wire.OpenMasterTokenRequest{Token: issued.Token})
		if !opened.Verified || opened.Identity != "psk-client" || opened.Session != issued.Session {
			t.Errorf("%v: %+v", x, opened)
		}
	}
}

func TestRenewal(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, _ := exchanged(t, p)
	before, err := parseMasterClaims(issued.Token.Data)
	if err != nil {
		t.Fatal(err)
	}
	if before.sequenceNumber != 0 || before.renewalWindow != 100 || before.expiration != 200 {
		t.Errorf("%+v", before)
	}
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "psk-client"})
	renew := func(session wire.Handle) (*wire.IssueReply, masterClaims) {
		r := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: begun.KeyData, Session: session,
			RenewalWindow: 300, Expiration: 400, IssuerData: []byte(`{"b":2,"a":3}`)})
		claims, err := parseMasterClaims(r.Token.Data)
		if err != nil {
			t.Fatal(err)
		}
		return r, claims
	}
	renewed, after := renew(issued.Session)
	if after.serialNumber != before.serialNumber || after.sequenceNumber != 1 || after.expiration != 400 {
		t.Errorf("%+v after %+v", after, before)
	}
	if _, again := renew(renewed.Session); again.sequenceNumber != 2 {
		t.Errorf("%+v", again)
	}
	opened := ask[*wire.OpenMasterTokenReply](t, p, &wire.OpenMasterTokenRequest{Token: renewed.Token})
	o, err := mslenc.Parse(opened.IssuerData)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := o.Int("a"); err != nil || a != 3 || !o.Has("b") {
		t.Errorf("issuer data %s", opened.IssuerData)
	}
	live(t, p, issued.Session)

	// The last number's successor is 0.
	e := p.sessions.acquire(issued.Session)
	e.value.sequenceNumber = mslenc.MaxLong
	p.sessions.release(e, 0, 0)
	if _, wrapped := renew(issued.Session); wrapped.sequenceNumber != 0 {
		t.Errorf("%+v", wrapped)
	}
}

// TestWhoMayHaveAToken: the protocol process cannot have a token made for an entity that did not take
// part.
func TestWhoMayHaveAToken(t *testing.T) {
	a := newAgent(t, nil)
	p := newPeer(t, a)
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "psk-client"})
	asym := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"})
	fresh := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "PSK", Identity: "psk-client"}).Context
	local := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "RSA", Identity: "server", KeyID: "rsa-server-key"}).Context
	proven := authenticated(t, p, "psk-client")
	_, device := exchanged(t, p)
	for name, x := range map[string]struct {
		req  wire.IssueRequest
		code wire.Code
		msl  int32
	}{
		"not authenticated":   {wire.IssueRequest{Entity: fresh}, wire.Denied, 7016},
		"local entity":        {wire.IssueRequest{Entity: local}, wire.Denied, 7016},
		"another identity":    {wire.IssueRequest{Entity: proven, Identity: "psk-server"}, wire.Malformed, 7016},
		"word of the caller":  {wire.IssueRequest{Identity: "psk-client"}, wire.Denied, 7016},
		"not issued here":     {wire.IssueRequest{Session: device.Session}, wire.NotSupported, 1000},
		"expires too early":   {wire.IssueRequest{Entity: proven, RenewalWindow: 2, Expiration: 1}, wire.Malformed, -1},
		"unknown scheme":      {wire.IssueRequest{Entity: proven, Scheme: "NEW"}, wire.NotSupported, 7000},
		"broken keydata":      {wire.IssueRequest{Entity: proven, KeyData: []byte(`{"keyid`)}, wire.Malformed, 0},
		"unknown key id":      {wire.IssueRequest{Entity: proven, KeyData: []byte(`{"keyid":"X"}`)}, wire.Malformed, 7003},
		"session key id":      {wire.IssueRequest{Entity: proven, KeyData: []byte(`{"keyid":"SESSION"}`)}, wire.Malformed, 7010},
		"no wrapping key":     {wire.IssueRequest{Identity: "stranger"}, wire.NoSuchKey, 4005},
		"broken issuer data":  {wire.IssueRequest{Entity: proven, IssuerData: []byte(`[]`)}, wire.Malformed, -1},
		"identity not a text": {wire.IssueRequest{Identity: "\xff"}, wire.Malformed, 7016},
	} {
		if x.req.Scheme == "" {
			x.req.Scheme = "SYMMETRIC_WRAPPED"
		}
		if x.req.KeyData == nil {
			x.req.KeyData = begun.KeyData
		}
		_, err := try[*wire.IssueReply](p, &x.req)
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != x.code || e.MSL != x.msl {
			t.Errorf("%s: %#v", name, err)
		}
	}
	// An entity of a scheme without keys in the agent.
	r := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: asym.KeyData, Identity: "stranger", Expiration: 1})
	if o := ask[*wire.OpenMasterTokenReply](t, p, &wire.OpenMasterTokenRequest{Token: r.Token}); o.Identity != "stranger" {
		t.Errorf("%+v", o)
	}
}

func TestLegacyMechanismsAreOff(t *testing.T) {
	server, client := newPeer(t, newAgent(t, nil)), newPeer(t, newAgent(t, func(c *Config) { c.Allow = legacyMechanisms }))
	for _, m := range append(legacyMechanisms, mechanismECC, "NEW") {
		want := wire.Denied
		switch m {
		case mechanismECC:
			want = wire.NotSupported
		case "NEW":
			want = wire.Malformed
		}
		if _, err := try[*wire.BeginExchangeReply](server, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: m}); !errors.Is(err, want) {
			t.Errorf("beginning %s: %v", m, err)
		}
		begun, err := try[*wire.BeginExchangeReply](client, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: m})
		if err != nil {
			continue
		}
		_, err = try[*wire.IssueReply](server, &wire.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: begun.KeyData, Identity: "x", Expiration: 1})
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.Denied || e.MSL != mslUnsupportedMechanism {
			t.Errorf("answering %s: %v", m, err)
		}
	}
	if _, err := New(t.Context(), Config{Provider: newProvider(t), Allow: []string{"JWE_RSA"}}); err == nil {
		t.Error("allowing a mechanism that needs no allowing")
	}
}

func TestKeyPairs(t *testing.T) {
	clock := newClock()
	a := newAgent(t, func(c *Config) {
		c.Limits, c.Now = Limits{PairUses: 4, PairAge: time.Minute, Age: 100 * time.Hour, Idle: 100 * time.Hour}, clock.Now
	})
	p := newPeer(t, a)
	begin := func() (*wire.BeginExchangeReply, string) {
		r := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"})
		o, err := mslenc.Parse(r.KeyData)
		if err != nil {
			t.Fatal(err)
		}
		id, err := o.String("keypairid")
		if err != nil {
			t.Fatal(err)
		}
		return r, id
	}
	var wg sync.WaitGroup
	for range 4 { // at once: one pair is made for all
		wg.Go(func() {
			try[*wire.BeginExchangeReply](p, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"})
		})
	}
	wg.Wait()
	a.pairs.mu.Lock()
	first := a.pairs.pair
	a.pairs.mu.Unlock()
	second, id := begin()
	if id == first.id {
		t.Error("a pair serves more exchanges than it may")
	}
	if _, again := begin(); again != id {
		t.Error("a pair serves one exchange only")
	}
	if d := first.private.D; d.Sign() == 0 {
		t.Error("a pair is wiped that exchanges wait for")
	}
	busy := p.pending.acquire(second.Pending)
	pair := busy.value.(*pendingAsymmetric).pair.private.(*keyPair)
	private, words := pair.private, pair.private.D.Bits()
	clock.advance(2 * time.Minute)
	if _, third := begin(); third == id {
		t.Error("a pair is older than it may be")
	}
	if private.D.Sign() == 0 {
		t.Error("a pair is wiped that exchanges wait for")
	}
	p.Close()
	if pair.private == nil {
		t.Error("a pair is wiped during an operation")
	}
	p.pending.release(busy, 0, 0)
	for _, w := range words {
		if w != 0 {
			t.Fatal("a pair that is not needed is not wiped")
		}
	}
	if first.private != nil {
		t.Error("a pair that is not needed is not wiped")
	}
}

// TestExchangeKey: with a configured key, the private half of every key exchange stays where it is, and what an older
// version has begun ends with that.
func TestExchangeKey(t *testing.T) {
	keys := fixtureProvider(t)
	if _, err := keys.Generate(t.Context(), "exchange", providers.RSA2048); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, func(c *Config) { c.Provider, c.ExchangeKey = keys, "exchange" })
	p := newPeer(t, a)
	for _, mechanism := range []string{"JWE_RSA", "JWEJS_RSA", "JWK_RSA"} {
		begin := &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: mechanism}
		first, second := ask[*wire.BeginExchangeReply](t, p, begin), ask[*wire.BeginExchangeReply](t, p, begin)
		if !bytes.Equal(first.KeyData, second.KeyData) {
			t.Error("two exchanges name different keys")
		}
		if _, err := keys.Rotate(t.Context(), "exchange"); err != nil {
			t.Fatal(err)
		}
		if third := ask[*wire.BeginExchangeReply](t, p, begin); bytes.Equal(first.KeyData, third.KeyData) {
			t.Error("a new exchange names the old key")
		}
		issued := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: first.KeyData,
			Identity: "device", RenewalWindow: 100, Expiration: 200})
		finished := ask[*wire.FinishExchangeReply](t, p, &wire.FinishExchangeRequest{Pending: first.Pending,
			KeyData: issued.KeyData, Token: issued.Token, Identity: "device"})
		sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: issued.Session, Plain: [][]byte{[]byte("data")}})
		opened := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: finished.Session, Parts: sealed.Parts})
		if opened.FailedPart != -1 || string(opened.Plain[0]) != "data" {
			t.Errorf("%s: both sides have different keys", mechanism)
		}
	}
	if a.pairs.pair != nil || a.usesOf("exchange", 1).Load() != 2 {
		t.Errorf("the configured key was used %d times in one exchange", a.usesOf("exchange", 1).Load())
	}
	for name, keyType := range map[string]providers.KeyType{"none": "", "aes": providers.AES256, "rsa/own": providers.RSA2048} {
		if keyType != "" {
			if _, err := keys.Generate(t.Context(), name, keyType); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(t.Context(), Config{Provider: keys, ExchangeKey: name}); err == nil {
			t.Errorf("an agent starts with exchange key %q", name)
		}
	}
}

func TestUserIDAndServiceTokens(t *testing.T) {
	a := newAgent(t, nil)
	p := newPeer(t, a)
	issued, finished := exchanged(t, p)
	master, err := parseMasterClaims(issued.Token.Data)
	if err != nil {
		t.Fatal(err)
	}
	user := ask[*wire.IssueUserIDTokenReply](t, p, &wire.IssueUserIDTokenRequest{Session: issued.Session, User: "üser", SerialNumber: 7,
		RenewalWindow: 1, Expiration: 2, IssuerData: []byte(`{"x":1}`)})
	claims, err := parseUserClaims(user.Token.Data)
	if err != nil || claims.masterSerialNumber != master.serialNumber || claims.serialNumber != 7 {
		t.Errorf("%+v, %v", claims, err)
	}
	opened := ask[*wire.OpenUserIDTokenReply](t, p, &wire.OpenUserIDTokenRequest{Token: user.Token})
	if !opened.Verified || opened.User != "üser" || string(opened.IssuerData) != `{"x":1}` {
		t.Errorf("%+v", opened)
	}
	for _, bad := range []*wire.IssueUserIDTokenRequest{
		{Session: finished.Session, User: "u", Expiration: 1}, {Session: issued.Session, Expiration: 1},
		{Session: issued.Session, User: "u", RenewalWindow: 1}, {Session: issued.Session, User: "u", SerialNumber: -2}} {
		if _, err := try[*wire.IssueUserIDTokenReply](p, bad); err == nil {
			t.Errorf("issued %+v", bad)
		}
	}
	// One kind of token is not another, though the keys are the same.
	if _, err := try[*wire.OpenMasterTokenReply](p, &wire.OpenMasterTokenRequest{Token: user.Token}); !errors.Is(err, wire.VerificationFailed) {
		t.Error("a user ID token opens as a master token", err)
	}
	if _, err := try[*wire.OpenUserIDTokenReply](p, &wire.OpenUserIDTokenRequest{Token: issued.Token}); !errors.Is(err, wire.VerificationFailed) {
		t.Error("a master token opens as a user ID token", err)
	}
	for _, encrypt := range []bool{true, false} {
		for _, data := range [][]byte{[]byte("data"), {}} {
			service := ask[*wire.SealServiceTokenReply](t, p, &wire.SealServiceTokenRequest{Keys: "secure", Name: "n",
				MasterTokenSerialNumber: 5, UserIDTokenSerialNumber: -1, Encrypt: encrypt, Data: data})
			back := ask[*wire.OpenServiceTokenReply](t, p, &wire.OpenServiceTokenRequest{Keys: "secure", Token: service.Token})
			if !back.Verified || !bytes.Equal(back.Data, data) {
				t.Errorf("%+v", back)
			}
			if other := ask[*wire.OpenServiceTokenReply](t, p, &wire.OpenServiceTokenRequest{Token: service.Token}); other.Verified || other.Data != nil {
				t.Errorf("opens with other keys: %+v", other)
			}
			if len(data) > 0 && bytes.Contains(service.Token.Data, []byte(mslenc.EncodeBase64([]byte("data")))) == encrypt {
				t.Error("encrypted where it should not be, or not where it should")
			}
		}
	}
	if _, err := try[*wire.OpenServiceTokenReply](p, &wire.OpenServiceTokenRequest{Keys: "../tokens", Token: user.Token}); !errors.Is(err, wire.NoSuchKey) {
		t.Error("a name leads out of the prefix", err)
	}
}
