// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// hexKeys are the keys of a context as the fixtures write them.
type hexKeys struct {
	ID            string
	EncryptionKey string `json:"encryption_key"`
	HMACKey       string `json:"hmac_key"`
	WrappingKey   string `json:"wrapping_key"`
}

// fixtures are the keys that the vectors share.
var fixtures = sync.OnceValue(func() (f struct {
	MSL      hexKeys            `json:"msl"`
	Session  hexKeys            `json:"session"`
	Services map[string]hexKeys `json:"service_token_contexts"`
	PSK      map[string]hexKeys `json:"psk"`
	Pairs    map[string]struct {
		Algorithm, PKCS8, SPKI string
	} `json:"key_pairs"`
	Groups map[string]struct{ P, G string } `json:"dh_parameters"`
}) {
	msltest.VectorFile(new(testing.T), "fixtures.json", &f)
	return f
})

func fixturePair(name string) *rsa.PrivateKey { return anyPair(name).(*rsa.PrivateKey) }

// anyPair returns the private key of a pair of any type.
func anyPair(name string) any {
	der, err := base64.StdEncoding.DecodeString(fixtures().Pairs[name].PKCS8)
	if err != nil {
		panic(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		panic(err)
	}
	return key
}

// fixtureGroup returns a Diffie-Hellman group of the fixtures.
func fixtureGroup(id string) Group {
	g := fixtures().Groups[id]
	return Group{P: unhex(g.P), G: unhex("0" + g.G)}
}

// everything allows all key exchanges.
func everything(c *Config) {
	c.Groups = map[string]Group{"dh768": fixtureGroup("dh768"), "dh2048": fixtureGroup("dh2048")}
	c.Allow = append(slices.Clone(legacyMechanisms), "DIFFIE_HELLMAN/dh768")
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// newProvider makes a software provider with an empty file.
func newProvider(t testing.TB) *software.Provider {
	t.Helper()
	dir := t.TempDir()
	secretFile := filepath.Join(dir, "secret")
	key := make([]byte, 32)
	rand.Read(key)
	if err := os.WriteFile(secretFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := software.Create(filepath.Join(dir, "keys"), software.Unlock{KeySource: "file:" + secretFile}, software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func importSet(t testing.TB, p providers.Importer, name string, k hexKeys) {
	t.Helper()
	for _, m := range []struct {
		suffix, key string
		keyType     providers.KeyType
	}{{encSuffix, k.EncryptionKey, providers.AES128}, {macSuffix, k.HMACKey, providers.HMACSHA256}, {wrapSuffix, k.WrappingKey, providers.AES128}} {
		if m.key == "" {
			continue
		}
		if _, err := p.Import(t.Context(), name+m.suffix, m.keyType, unhex(m.key)); err != nil {
			t.Fatal(err)
		}
	}
}

// fixtureProvider holds the keys of the fixtures, by the default names.
func fixtureProvider(t testing.TB) *software.Provider {
	t.Helper()
	p := newProvider(t)
	importSet(t, p, "tokens", fixtures().MSL)
	for identity, k := range fixtures().PSK {
		importSet(t, p, "psk/"+identity, k)
	}
	importSet(t, p, "service/default", fixtures().Services[""])
	importSet(t, p, "service/secure", fixtures().Services["secure"])
	der, err := base64.StdEncoding.DecodeString(fixtures().Pairs["rsa_server"].PKCS8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Import(t.Context(), "rsa/rsa-server-key", providers.RSA2048, der); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Generate(t.Context(), "storage", providers.AES256); err != nil {
		t.Fatal(err)
	}
	return p
}

// A clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Unix(1700000000, 0)} }

// newAgent makes an agent that is issuer and device at once, on a provider with the fixtures' keys.
func newAgent(t testing.TB, change func(*Config)) *Agent {
	t.Helper()
	cfg := Config{TokenKeys: "tokens", StorageKey: "storage", Manage: true}
	if change != nil {
		change(&cfg)
	}
	if cfg.Provider == nil {
		cfg.Provider = fixtureProvider(t)
	}
	a, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newPeer(t testing.TB, a *Agent) *Peer {
	p := a.NewPeer()
	t.Cleanup(p.Close)
	return p
}

// ask sends a request and requires that it succeeds.
func ask[R wire.Reply](t testing.TB, p *Peer, req wire.Request) (r R) {
	t.Helper()
	r, err := try[R](p, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return r
}

func try[R wire.Reply](p *Peer, req wire.Request) (r R, err error) {
	reply, err := p.Handle(context.Background(), req)
	if err != nil {
		return r, err
	}
	return reply.(R), nil
}

// authenticated returns the context of an entity that has proven itself.
func authenticated(t testing.TB, p *Peer, identity string) wire.Handle {
	t.Helper()
	e := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "PSK", Identity: identity})
	sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: e.Context, Plain: [][]byte{[]byte("header")}})
	opened := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: e.Context, Parts: sealed.Parts})
	if opened.FailedPart != -1 {
		t.Fatal("an entity's own part does not open")
	}
	return e.Context
}

// exchanged runs a key exchange of psk-client with itself, and returns both ends.
func exchanged(t testing.TB, p *Peer) (*wire.IssueReply, *wire.FinishExchangeReply) {
	t.Helper()
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "psk-client"})
	issued := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: begun.KeyData,
		Entity: authenticated(t, p, "psk-client"), RenewalWindow: 100, Expiration: 200, IssuerData: []byte(`{"a":1}`)})
	finished := ask[*wire.FinishExchangeReply](t, p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData,
		Token: issued.Token, Identity: "psk-client"})
	return issued, finished
}
