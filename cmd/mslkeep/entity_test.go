// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// An authority signs certificates. Its key is the test's own.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newAuthority makes a root, or with a parent what that signs.
func newAuthority(t *testing.T, name string, parent *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	signer := a
	if parent != nil {
		signer = parent
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.certificate = signer.sign(template, &key.PublicKey)
	return a
}

// sign completes a template, and signs it.
func (a *authority) sign(template *x509.Certificate, public any) *x509.Certificate {
	a.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificate
}

// issue writes a certificate for a key of an agent, of which the test sees the public half.
func (a *authority) issue(w *world, file, who, key string, template *x509.Certificate) {
	a.t.Helper()
	block, _ := pem.Decode([]byte(w.mslkeep("keys", "public", "--agent-config", w.path(who, "agent.toml"), key).ok(a.t)))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	w.writePEM(file, a.sign(template, public))
}

func (w *world) writePEM(file string, certificates ...*x509.Certificate) {
	var out bytes.Buffer
	for _, c := range certificates {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.write(file, out.String())
}

// entityWorld is a world in which device-1 and the server can be every kind of entity, under one root that signs
// the server, and an authority under it that signs devices.
func entityWorld(t *testing.T) (*world, *authority) {
	w := newWorld(t)
	generate := func(who, kind, name string) {
		w.mslkeep("keys", "generate", "--agent-config", w.path(who, "agent.toml"), "--type", kind, name).ok(t)
	}
	w.importCurve("server", "ec/curved")
	generate("device-1", "ec-p256", "ec/curved")
	for _, who := range []string{"server", "device-1"} {
		generate(who, "rsa-2048", "rsa/certified")
		w.write(who+"-ec.pem", w.mslkeep("keys", "public", "--agent-config", w.path(who, "agent.toml"), "ec/curved").ok(t))
	}
	for _, name := range []string{"psk/device-1-kids", "psk/server", "psk/server-main"} {
		random := execute(t.Context(), nil, "mslkeep-agent", "random", "48").ok(t)
		for _, who := range []string{"server", "device-1"} {
			execute(t.Context(), strings.NewReader(random), "mslkeep", "keys", "import", "--agent-config", w.path(who, "agent.toml"), name).ok(t)
		}
	}
	root := newAuthority(t, "root", nil)
	devices := newAuthority(t, "devices", root)
	w.writePEM("roots.pem", root.certificate)
	w.writePEM("intermediates.pem", devices.certificate)
	root.issue(w, "server.crt", "server", "rsa/certified", &x509.Certificate{Subject: pkix.Name{CommonName: "server", Organization: []string{"Test, Inc."}}})
	devices.issue(w, "device-1.crt", "device-1", "rsa/certified", &x509.Certificate{Subject: pkix.Name{CommonName: "device-1"}})
	const roots = "x509-roots-file = \"../roots.pem\"\nx509-intermediates-file = \"../intermediates.pem\"\n"
	w.edit("server/serve.toml", "[peers]\nschemes = [\"PSK\", \"RSA\", \"NONE\"]\n", "[peers]\n"+roots)
	w.edit("server/serve.toml", "[msl]\n", "[[peers.ecc]]\nkey-id = \"curved\"\nidentities = [\"device-4\"]\npublic-key-file = \"../device-1-ec.pem\"\n[msl]\n")
	w.edit("server/serve.toml", "[serve]\n", "[serve]\nprovision-prefix = \"guest-\"\n")
	w.edit("device-1/send.toml", "[peers]\nidentity = \"server\"\n", "[peers]\n"+roots)
	w.edit("device-1/send.toml", "[msl]\n", "[[peers.ecc]]\nkey-id = \"curved\"\nidentities = [\"server\"]\npublic-key-file = \"../server-ec.pem\"\n[msl]\n")
	return w, devices
}

// importCurve has an agent import a key on P-256.
func (w *world) importCurve(who, name string) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	stdin := bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	execute(w.t.Context(), stdin, "mslkeep", "keys", "import", "--agent-config", w.path(who, "agent.toml"), "--type", "ec-p256", name).ok(w.t)
}

// entityFlags are the flags for device-1 to be every kind of entity.
var entityFlags = []string{
	"--scheme PSK --identity device-1",
	"--scheme PSK_PROFILE --identity device-1 --profile kids",
	"--scheme X509 --key-id certified --certificate ../device-1.crt",
	"--scheme RSA --identity device-2 --key-id device-2",
	"--scheme ECC --identity device-4 --key-id curved",
	"--scheme NONE --identity nobody",
	"--scheme NONE_SUFFIXED --identity nobody --suffix else",
	"--scheme PROVISIONED",
	"--scheme PSK --identity device-1 --protected-by hiding",
	"--scheme X509 --key-id certified --certificate ../device-1.crt --protected-by hiding",
	"--scheme NONE --identity nobody --protected-by hiding",
}

const everyScheme = "PSK,PSK_PROFILE,X509,RSA,ECC,NONE,NONE_SUFFIXED,PROVISIONED,MT_PROTECTED"

// TestEntityKeys looks for the keys of certificates and curves in the memory of protocol processes.
func TestEntityKeys(t *testing.T) {
	t.Parallel()
	w, _ := entityWorld(t)
	w.logKeys()
	s := w.serve("--scheme", "ECC", "--identity", "server", "--key-id", "curved")
	senders := []*process{w.sender("device-1", s, strings.Fields(entityFlags[2])...), w.sender("device-1", s, strings.Fields(entityFlags[4])...)}
	agents := []int{s.agent}
	for _, p := range senders {
		if r := p.say("hello"); !r.MasterToken {
			t.Errorf("%+v", r)
		} else {
			agents = append(agents, r.AgentPID)
		}
	}
	w.scan(append(senders, s), agents...)
	if log := w.read("device-1/key.log"); !strings.Contains(log, "scalar") {
		t.Error("the scan has not looked for the key of an elliptic curve")
	}
}

// TestEveryServer has the server authenticate in every way that it can.
func TestEveryServer(t *testing.T) {
	t.Parallel()
	w, _ := entityWorld(t)
	text := w.read("device-1/send.toml")
	for _, c := range []struct{ flags, identity, schemes string }{
		{"--scheme PSK --identity server", "server", ""},
		{"--scheme PSK_PROFILE --identity server --profile main", "server-main", ""},
		{"--scheme X509 --key-id certified --certificate ../server.crt", `CN=server,O=Test\\, Inc.`, ""},
		{"--scheme RSA --identity server --key-id server", "server", ""},
		{"--scheme ECC --identity server --key-id curved", "server", ""},
		{"--scheme NONE --identity server", "server", `schemes = ["NONE"]`},
		{"--scheme NONE_SUFFIXED --identity server --suffix eu", "server.eu", `schemes = ["NONE_SUFFIXED"]`},
	} {
		t.Run(c.flags, func(t *testing.T) {
			w := &world{t: t, dir: w.dir}
			s := w.serve(strings.Fields(c.flags)...)
			for _, as := range []struct {
				identity, schemes string
				ok                bool
			}{{c.identity, c.schemes, true}, {"someone-else", c.schemes, false}, {c.identity, `schemes = ["MT_PROTECTED"]`, false}} {
				w.write("device-1/send.toml", strings.Replace(text, "[peers]\n", "[peers]\nidentity = \""+as.identity+"\"\n"+as.schemes+"\n", 1))
				// The server's entity protects the first answer, and errors.
				r := w.send("device-1", s, "--scheme", "ECC", "--identity", "device-4", "--key-id", "curved", "hello")
				if as.ok != (r.code == 0) {
					t.Errorf("as %+v: %+v", as, r)
				}
			}
			s.stop()
		})
	}
}

// TestEntitiesRefused: what is not named is refused, and so are certificates and keys that are not good.
func TestEntitiesRefused(t *testing.T) {
	t.Parallel()
	w, devices := entityWorld(t)
	s := w.serve()
	w.send("device-1", s, "--store", "hiding", "hello").ok(t)
	for _, e := range entityFlags[5:] { // those that prove nothing must be named
		w.send("device-1", s, append(strings.Fields(e), "hello")...).oneLine(t, exitRefused)
	}
	subject := pkix.Name{CommonName: "device-1"}
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	stranger := newAuthority(t, "devices", nil)
	for name, c := range map[string]struct {
		by       *authority
		template *x509.Certificate
	}{
		"expired":      {devices, &x509.Certificate{Subject: subject, NotBefore: past.Add(-time.Hour), NotAfter: past}},
		"of tomorrow":  {devices, &x509.Certificate{Subject: subject, NotBefore: future, NotAfter: future.Add(time.Hour)}},
		"of strangers": {stranger, &x509.Certificate{Subject: subject}},
		"for CAs":      {devices, &x509.Certificate{Subject: subject, KeyUsage: x509.KeyUsageCertSign}},
	} {
		c.by.issue(w, "bad.crt", "device-1", "rsa/certified", c.template)
		r := w.send("device-1", s, "--scheme", "X509", "--key-id", "certified", "--certificate", "../bad.crt", "hello")
		if r.code != exitRefused || !strings.Contains(r.err, "x509") {
			t.Errorf("a certificate %s: %+v", name, r)
		}
	}
	devices.issue(w, "other.crt", "device-2", "rsa/device-2", &x509.Certificate{Subject: subject})
	w.send("device-1", s, "--scheme", "X509", "--key-id", "certified", "--certificate", "../other.crt", "hello").oneLine(t, exitConfig, "import")
	w.send("device-1", s, "--scheme", "ECC", "--identity", "device-5", "--key-id", "curved", "hello").oneLine(t, exitRefused)
	w.send("device-1", s, "--scheme", "ECC", "--identity", "device-1", "--key-id", "none", "hello").oneLine(t, exitConfig, "ec-p256")

	// A user ID token logs nobody in, unless that is named.
	w.send("device-1", s, "--user", "me", "--email", "ada@example.com", "--password-file", "../password", "--store", "me", "hello").ok(t)
	w.send("device-1", s, "--user", "me", "--user-from", "me", "hello").oneLine(t, exitRefused)

	for _, args := range []string{
		"--scheme MAGIC", "--scheme MT_PROTECTED --identity device-1", "--scheme RSA --identity device-1", "--scheme PSK --identity device-1 --suffix x",
		"--scheme PROVISIONED --identity device-1", "--scheme X509 --key-id certified --certificate missing",
		"--scheme PSK --identity device-1 --protected-by missing", "--user-from missing --user me", "--user-from me --user other", "--user-from me --email x",
	} {
		if r := w.send("device-1", s, append(strings.Fields(args), "hello")...); r.code != exitConfig || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: %+v", args, r)
		}
	}
	w.send("device-1", s, "--identity", "device-1", "hello").oneLine(t, exitUsage, "--scheme")
	for _, args := range []string{"--entity-schemes MAGIC", "--user-schemes MAGIC", "--scheme PSK --identity server --protected-by hiding"} {
		if r := execute(context.Background(), nil, "mslkeep", append([]string{"serve", "--config", w.path("server/serve.toml")}, strings.Fields(args)...)...); r.code != exitConfig {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
