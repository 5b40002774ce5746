// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package inproc gives tests a key agent in their own process, with the keys of the reference's vectors.
// It is a package of its own, since what the agent is made of uses package msltest in its tests.
package inproc

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// A KeySet is the keys of a crypto context. Wrapping may be missing.
type KeySet struct {
	EncryptionKey Hex `json:"encryption_key"`
	HMACKey       Hex `json:"hmac_key"`
	WrappingKey   Hex `json:"wrapping_key"`
}

// Hex is bytes that are hexadecimal text in JSON.
type Hex []byte

// UnmarshalJSON reads text, or nothing for null.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := hex.DecodeString(s)
	*h = v
	return err
}

// A User is a user of the vectors.
type User struct {
	Email, Password string
	Name            string `json:"user"`
}

// Keys is what fixtures.json holds, as far as tests need it.
type Keys struct {
	MSL                  KeySet
	Session              KeySet
	ServiceTokenContexts map[string]KeySet `json:"service_token_contexts"`
	PSK                  map[string]KeySet
	KeyPairs             map[string]struct{ PKCS8, SPKI []byte } `json:"key_pairs"`
	RSAStore             map[string]string                       `json:"rsa_store"`
	ECCStore             map[string]string                       `json:"ecc_store"`
	Certificates         map[string]struct {
		DER []byte
		Key string
	}
	X509Trusted []string `json:"x509_trusted"`
	PSKProfile  struct {
		PSKID, Profile, Identity string
	} `json:"psk_profile"`
	DHParameters map[string]struct{ P, G string } `json:"dh_parameters"`
	Users        []User
}

// Fixtures returns the keys of the vectors. They are public.
var Fixtures = sync.OnceValue(func() *Keys {
	_, self, _, _ := runtime.Caller(0)
	data, err := os.ReadFile(filepath.Join(filepath.Dir(self), "..", "testdata", "vectors", "fixtures.json"))
	k := new(Keys)
	if err == nil {
		err = json.Unmarshal(data, k)
	}
	if err != nil {
		panic(err)
	}
	return k
})

// Time is the clock of the agent: that of the vectors.
var Time = time.Unix(1700000000, 0)

// keyFile is a key file with all keys, and what unlocks it.
var keyFile = sync.OnceValues(func() (file [2][]byte, err error) {
	dir, err := os.MkdirTemp("", "mslkeep-inproc")
	if err != nil {
		return file, err
	}
	defer os.RemoveAll(dir)
	file[1] = make([]byte, 32)
	rand.Read(file[1])
	if err := os.WriteFile(filepath.Join(dir, "unlock"), file[1], 0o600); err != nil {
		return file, err
	}
	p, err := software.Create(filepath.Join(dir, "keys"), unlock(dir), software.Options{})
	if err != nil {
		return file, err
	}
	defer p.Close()
	if err := fill(p, Fixtures()); err != nil {
		return file, err
	}
	file[0], err = os.ReadFile(filepath.Join(dir, "keys"))
	return file, err
})

func unlock(dir string) software.Unlock {
	return software.Unlock{KeySource: "file:" + filepath.Join(dir, "unlock")}
}

// Provider returns a provider with all keys, and those of extra by the name of their set.
func Provider(t testing.TB, extra map[string]KeySet) *software.Provider {
	t.Helper()
	p, err := openKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	for name, keys := range extra {
		if err := importSet(p, name, keys); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// openKeys opens a copy of the key file in a folder.
func openKeys(dir string) (*software.Provider, error) {
	file, err := keyFile()
	if err != nil {
		return nil, err
	}
	for i, name := range []string{"keys", "unlock"} {
		if err := os.WriteFile(filepath.Join(dir, name), file[i], 0o600); err != nil {
			return nil, err
		}
	}
	return software.Open(filepath.Join(dir, "keys"), unlock(dir), software.Options{})
}

func fill(p *software.Provider, f *Keys) error {
	sets := map[string]KeySet{"msl": f.MSL}
	for identity, k := range f.PSK {
		name, err := custody.KeyName("psk/", identity)
		if err != nil {
			return err
		}
		sets[name] = k
	}
	profile, err := custody.KeyName("psk/", f.PSKProfile.Identity)
	if err != nil {
		return err
	}
	sets[profile] = f.PSK[f.PSKProfile.PSKID]
	for name, k := range f.ServiceTokenContexts {
		if name == "" {
			name = "default"
		}
		sets["service/"+name] = k
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		if err := importSet(p, name, sets[name]); err != nil {
			return err
		}
	}
	ctx := context.Background()
	pairs := make(map[string]string) // fixture by name of the key
	for id, pair := range f.RSAStore {
		pairs["rsa/"+id] = pair
	}
	for id, pair := range f.ECCStore {
		pairs["ec/"+id] = pair
	}
	pairs["rsa/x_leaf"] = "x_leaf"
	for name, pair := range pairs {
		keyType := providers.RSA2048
		if strings.HasPrefix(name, "ec/") {
			keyType = providers.ECP256
		}
		if _, err := p.Import(ctx, name, keyType, slices.Clone(f.KeyPairs[pair].PKCS8)); err != nil {
			return fmt.Errorf("key pair %s: %w", name, err)
		}
	}
	storage := make([]byte, 32)
	rand.Read(storage)
	_, err = p.Import(ctx, "storage", providers.AES256, storage)
	return err
}

func importSet(p *software.Provider, name string, k KeySet) error {
	for _, key := range []struct {
		suffix string
		t      providers.KeyType
		bytes  []byte
	}{{".enc", providers.AES128, k.EncryptionKey}, {".mac", providers.HMACSHA256, k.HMACKey}, {".wrap", providers.AES128, k.WrappingKey}} {
		if len(key.bytes) == 0 {
			continue
		}
		if _, err := p.Import(context.Background(), name+key.suffix, key.t, slices.Clone(key.bytes)); err != nil {
			return fmt.Errorf("%s%s: %w", name, key.suffix, err)
		}
	}
	return nil
}

// Agent returns an agent in this process, with the keys of the vectors. It ends with the test.
func Agent(t testing.TB) *agent.Client { return withKeys(t, nil) }

func withKeys(t testing.TB, extra map[string]KeySet) *agent.Client {
	t.Helper()
	return start(t, Provider(t, extra), "msl")
}

// OtherIssuer returns an agent with the keys of the vectors, and token keys of its own: it cannot open
// the tokens of Agent's, nor Agent those of this one.
func OtherIssuer(t testing.TB) *agent.Client {
	t.Helper()
	var own KeySet
	for _, key := range []struct {
		bytes *Hex
		size  int
	}{{&own.EncryptionKey, 16}, {&own.HMACKey, 32}, {&own.WrappingKey, 16}} {
		*key.bytes = make([]byte, key.size)
		rand.Read(*key.bytes)
	}
	return start(t, Provider(t, map[string]KeySet{"own": own}), "own")
}

// Start is Agent for examples, which have no testing.TB. The caller calls done.
func Start() (c *agent.Client, done func(), err error) {
	dir, err := os.MkdirTemp("", "mslkeep-inproc")
	if err != nil {
		return nil, nil, err
	}
	p, err := openKeys(dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	peer, err := newPeer(p, "msl")
	if err != nil {
		p.Close()
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return agent.New(wire.Direct{Handler: peer}), func() { peer.Close(); p.Close(); os.RemoveAll(dir) }, nil
}

func newPeer(p providers.Provider, tokenKeys string) (*custody.Peer, error) {
	a, err := custody.New(context.Background(), custody.Config{
		Provider: p, TokenKeys: tokenKeys, StorageKey: storageKey(p), Allow: []string{"RSA", "JWK_RSAES", "DIFFIE_HELLMAN/dh768"}, Groups: groups(),
		Now: func() time.Time { return Time },
	})
	if err != nil {
		return nil, err
	}
	return a.NewPeer(), nil
}

func start(t testing.TB, p providers.Provider, tokenKeys string) *agent.Client {
	t.Helper()
	peer, err := newPeer(p, tokenKeys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)
	return agent.New(wire.Direct{Handler: peer})
}

// groups are the Diffie-Hellman groups of the vectors.
func groups() map[string]custody.Group {
	out := make(map[string]custody.Group)
	for id, x := range Fixtures().DHParameters {
		p, ok1 := new(big.Int).SetString(x.P, 16)
		g, ok2 := new(big.Int).SetString(x.G, 16)
		if !ok1 || !ok2 {
			panic("Diffie-Hellman group " + id)
		}
		out[id] = custody.Group{P: p.Bytes(), G: g.Bytes()}
	}
	return out
}

// storageKey is the name of the storage key, if p has one.
func storageKey(p providers.Provider) string {
	if _, err := p.Open(context.Background(), "storage", 0); err != nil {
		return ""
	}
	return "storage"
}

// Context returns a context that has the given keys: those of a pre-shared entity made for it.
func Context(t testing.TB, k KeySet) msl.CryptoContext {
	t.Helper()
	if len(k.WrappingKey) == 0 {
		k.WrappingKey = k.EncryptionKey
	}
	c, err := withKeys(t, map[string]KeySet{"psk/extra": k}).EntityContext(context.Background(), "PSK", "extra", "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Session returns a context with the keys of the vectors' ready-made master tokens.
func Session(t testing.TB) msl.CryptoContext { return Context(t, Fixtures().Session) }

// Strangers returns an agent that has keys of the same names as Agent's, and none of its keys.
func Strangers(t testing.TB) *agent.Client {
	t.Helper()
	dir := t.TempDir()
	key := make([]byte, 32)
	rand.Read(key)
	if err := os.WriteFile(filepath.Join(dir, "unlock"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := software.Create(filepath.Join(dir, "keys"), unlock(dir), software.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	for _, set := range []string{"msl", "psk/psk-client", "psk/psk-server", "service/default", "service/secure"} {
		for suffix, keyType := range map[string]providers.KeyType{".enc": providers.AES128, ".mac": providers.HMACSHA256, ".wrap": providers.AES128} {
			if _, err := p.Generate(t.Context(), set+suffix, keyType); err != nil {
				t.Fatal(err)
			}
		}
	}
	return start(t, p, "msl")
}

// SmallModulus is the modulus of an RSA key that is too small to be trusted.
func SmallModulus() *big.Int {
	key, err := x509.ParsePKIXPublicKey(Fixtures().KeyPairs["rsa_small"].SPKI)
	if err != nil {
		panic(err)
	}
	return key.(*rsa.PublicKey).N
}
