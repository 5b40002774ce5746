// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/memscan"
)

// keys runs mslkeep keys with the key agent of somebody.
func (w *world) keys(who, stdin, operation string, args ...string) result {
	args = append([]string{"keys", operation, "--agent-config", w.path(who, "agent.toml"), "--json"}, args...)
	return execute(w.t.Context(), strings.NewReader(stdin), "mslkeep", args...)
}

// versions lists the keys of a name, as NAME:VERSION.
func versions(t testing.TB, r result) (names []string) {
	t.Helper()
	for _, k := range decoded[[]agent.Key](t, r.ok(t)) {
		names = append(names, fmt.Sprintf("%s:%d", k.Name, k.Version))
	}
	return names
}

// TestImport imports the same keys in every form, from files and standard input. That they are the same
// shows where two sides have them in different forms.
func TestImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	raw := make([]byte, 48)
	rand.Read(raw)
	jwk := func(b []byte) string {
		text, _ := json.Marshal(map[string]string{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString(b)})
		return string(text)
	}
	forms := map[string]string{"hex": hex.EncodeToString(raw) + "\n", "base64": base64.StdEncoding.EncodeToString(raw), "jwk": jwk(raw)}
	w.keys("server", forms["hex"], "import", "psk/device-7").ok(t)
	w.edit("device-3/send.toml", "identity = \"device-3\"", "identity = \"device-7\"")
	w.edit("device-3/send.toml", "\"NONE\"", "\"PSK\"")
	s := w.serve()
	empty := w.read("device-3/keys")
	for form, text := range forms {
		for _, how := range [][]string{{}, {"--format", form}, {"--file", w.path("key")}, {"--file", w.path("key"), "--format", form}} {
			w.write("device-3/keys", empty)
			w.write("key", text)
			stdin := text
			if slices.Contains(how, "--file") {
				stdin = ""
			}
			want := []string{"psk/device-7.enc:1", "psk/device-7.mac:1", "psk/device-7.wrap:1"}
			if got := versions(t, w.keys("device-3", stdin, "import", append(how, "psk/device-7")...)); !slices.Equal(got, want) {
				t.Errorf("%s %v: %v", form, how, got)
			}
			if out := w.send("device-3", s, "hello").ok(t); out != "hello" {
				t.Errorf("%s %v: %q", form, how, out)
			}
		}
	}
	for what, text := range map[string]string{"nothing": "", "too short": "abcd", "not a key": "not a key at all", "half of a JWK": jwk(raw)[:20]} {
		r := w.keys("device-3", text, "import", "psk/bad")
		r.oneLine(t, exitFailure, "; ")
		if text != "" && strings.Contains(r.err, text) {
			t.Errorf("%s: the key is printed: %s", what, r.err)
		}
	}
	w.keys("device-3", "", "import", "--file", w.path("missing"), "psk/bad").oneLine(t, exitFailure, "missing")
	for typ, size := range map[string]int{"aes-128": 16, "aes-256": 32, "hmac-sha256": 32} {
		if got := versions(t, w.keys("device-3", hex.EncodeToString(raw[:size]), "import", "--type", typ, "one/"+typ)); len(got) != 1 {
			t.Errorf("%s: %v", typ, got)
		}
	}
}

// TestImportPair imports a private key in PKCS #8 and gets its public half.
func TestImportPair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	w.write("key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	w.keys("device-2", "", "import", "--type", "rsa-2048", "--file", w.path("key"), "rsa/file").ok(t)
	w.keys("device-2", w.read("key"), "import", "--type", "rsa-2048", "--format", "pkcs8", "rsa/stdin").ok(t)
	for _, name := range []string{"rsa/file", "rsa/stdin"} {
		block, rest := pem.Decode([]byte(w.keys("device-2", "", "public", name).ok(t)))
		if block == nil || len(rest) != 0 || block.Type != "PUBLIC KEY" || !bytes.Equal(block.Bytes, spki) {
			t.Errorf("%s: %+v", name, block)
		}
	}
	w.write("device-2.pem", w.keys("device-2", "", "public", "rsa/file").ok(t))
	w.edit("device-2/send.toml", "key-id = \"device-2\"", "key-id = \"file\"")
	w.edit("server/serve.toml", "key-id = \"device-2\"\n", "key-id = \"file\"\nidentities = [\"device-2\"]\n")
	w.send("device-2", w.serve(), "hello").ok(t)
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, typ := range []string{"keyset", "aes-128", "aes-256", "hmac-sha256", "rsa-2048", "ec-p256"} {
		made := versions(t, w.keys("device-3", "", "generate", "--type", typ, "made/"+typ))
		listed := versions(t, w.keys("device-3", "", "list", "made/"+typ))
		if len(made) == 0 || !slices.Equal(made, listed) {
			t.Errorf("%s: made %v, listed %v", typ, made, listed)
		}
		rotated := versions(t, w.keys("device-3", "", "rotate", "made/"+typ))
		if len(rotated) != len(made) || !strings.HasSuffix(rotated[0], ":2") {
			t.Errorf("%s: rotated %v", typ, rotated)
		}
		w.keys("device-3", "", "generate", "--type", typ, "made/"+typ).oneLine(t, exitFailure)
	}
	if out := w.mslkeep("keys", "list", "--agent-config", w.path("device-3/agent.toml")).ok(t); strings.Count(out, "\n") < 12 {
		t.Error(out)
	}
	for _, name := range []string{"made/none", "../keys", ""} {
		if r := w.keys("device-3", "", "rotate", name); r.code == 0 {
			t.Errorf("%q: %+v", name, r)
		}
	}
	w.keys("device-3", "", "public", "made/aes-128").oneLine(t, exitFailure)
}

// TestRotate: while serve runs, its token keys get a new version. Tokens of the old one stay good, and soon
// new ones are issued under the new one.
func TestRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.logKeys()
	s := w.serve()
	through, posts := counting(t, s)
	send := func(store string) {
		t.Helper()
		w.send("device-1", through, "--store", w.path(store), "hello").ok(t)
	}
	send("old")
	if v := w.tokenVersion("old"); v != 1 {
		t.Errorf("the first token is of version %d", v)
	}
	w.keys("server", "", "rotate", "token-keys").ok(t)
	n := 0
	eventually(t, patience, "tokens are issued under the new version", func() bool {
		n++
		store := fmt.Sprintf("new-%d", n)
		send(store)
		return w.tokenVersion(store) == 2
	})
	for _, when := range []string{"rotated", "started again"} {
		before := w.read("old")
		posts.Store(0)
		if r := w.report("device-1", through, "--store", w.path("old"), "hello"); r.KeyExchange || !r.MasterToken || posts.Load() != 1 || w.read("old") != before {
			t.Errorf("%s: with an old token: %+v, %d posts", when, r, posts.Load())
		}
		s.stop()
		s = w.serve()
		through, posts = counting(t, s)
	}
}

// tokenVersion tells which version of the server's token keys has signed the master token of a store.
func (w *world) tokenVersion(store string) int {
	w.t.Helper()
	outer := decoded[struct{ MasterToken []byte }](w.t, w.read(store))
	token := decoded[struct{ TokenData, Signature []byte }](w.t, string(outer.MasterToken))
	log, err := os.Open(w.path("server/key.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	keys, err := memscan.ReadKeyLog(log)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range keys {
		mac := hmac.New(sha256.New, k.Bytes)
		mac.Write(token.TokenData)
		version := 0
		if hmac.Equal(mac.Sum(nil), token.Signature) {
			if _, err := fmt.Sscanf(k.Label, "software:token-keys.mac:%d", &version); err != nil {
				w.t.Fatalf("%s has signed a token", k.Label)
			}
			return version
		}
	}
	w.t.Fatalf("none of %d keys has signed the token", len(keys))
	return 0
}
