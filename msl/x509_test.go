// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// attribute is one attribute of a name: an OID, the tag of the value, and its bytes.
type attribute struct {
	oid   string
	tag   int
	value string
}

// name encodes a name whose elements are sets of attributes.
func name(t testing.TB, sets ...[]attribute) []byte {
	t.Helper()
	var content []byte
	for _, set := range sets {
		var pairs []byte
		for _, a := range set {
			oid, err := x509.ParseOID(a.oid)
			if err != nil {
				t.Fatal(err)
			}
			der, err := oid.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, element(t, 0x30, append(element(t, 6, der), element(t, byte(a.tag), []byte(a.value))...))...)
		}
		content = append(content, element(t, 0x31, pairs)...)
	}
	return element(t, 0x30, content)
}

func element(t testing.TB, tag byte, content []byte) []byte {
	t.Helper()
	b, err := asn1.Marshal(asn1.RawValue{Class: int(tag >> 6), Tag: int(tag & 31), IsCompound: tag&0x20 != 0, Bytes: content})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	utf8Tag, numericTag, printableTag, t61Tag, ia5Tag, generalTag, bmpTag = 12, 18, 19, 20, 22, 27, 30

	commonName, country, organization, email, userID, domain = "2.5.4.3", "2.5.4.6", "2.5.4.10", "1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.1", "0.9.2342.19200300.100.1.25"
)

// TestDistinguishedName: names are written as the reference writes them, and two that differ never look the same (§5.3).
func TestDistinguishedName(t *testing.T) {
	one := func(oid string, tag int, value string) []attribute { return []attribute{{oid, tag, value}} }
	for _, c := range []struct {
		der  []byte
		want string // "" if refused
	}{
		{name(t, one(country, printableTag, "US"), one("2.5.4.8", utf8Tag, "California"), one("2.5.4.7", utf8Tag, "Los Gatos"), one(organization, utf8Tag, "Netflix, Inc."),
			one("2.5.4.11", utf8Tag, "PPD Security"), one(commonName, utf8Tag, "msl"), one(email, ia5Tag, "mslwiki@netflix.com")),
			"1.2.840.113549.1.9.1=#16136d736c77696b69406e6574666c69782e636f6d,CN=msl,OU=PPD Security,O=Netflix\\, Inc.,L=Los Gatos,ST=California,C=US"},
		{name(t, one("2.5.4.9", utf8Tag, "Main St"), one(userID, utf8Tag, "u"), one(domain, ia5Tag, "d")), "DC=d,UID=u,STREET=Main St"},
		{name(t, one("2.5.4.5", printableTag, "1")), "2.5.4.5=#130131"},
		{name(t, []attribute{{commonName, utf8Tag, "a"}, {organization, utf8Tag, "b"}}), "CN=a+O=b"},
		{name(t, one(commonName, utf8Tag, `,=+<>#;"\`)), `CN=\,\=\+\<\>\#\;\"\\`},
		{name(t, one(commonName, utf8Tag, "  a \rb \r ")), "CN=\\ \\ a \rb\\ \\\r\\ "},
		{name(t, one(commonName, utf8Tag, "  ")), `CN=\ \ `},
		{name(t, one(commonName, utf8Tag, "\ta\n")), "CN=\ta\n"},
		{name(t, one(commonName, utf8Tag, "a\x00b")), `CN=a\00b`},
		{name(t, one(commonName, utf8Tag, `a\00b`)), `CN=a\\00b`},
		{name(t, one(commonName, utf8Tag, "Zoë 😀")), "CN=Zoë 😀"},
		{name(t, one(commonName, utf8Tag, "")), "CN="},
		{name(t, one(commonName, numericTag, "12")), "CN=#12023132"},
		{name(t, one(commonName, printableTag, "#12023132")), `CN=\#12023132`},
		{name(t, one(commonName, t61Tag, "a")), ""},
		{name(t, one(commonName, generalTag, "a")), ""},
		{name(t, one(commonName, bmpTag, "\x00a")), ""},
		{name(t, one(email, bmpTag, "\x00a")), email + "=#1e020061"},
		{name(t), ""},
		{name(t, nil), ""},
		{append(name(t, one(commonName, utf8Tag, "a")), 0), ""},
		{name(t, one(commonName, utf8Tag, "a"))[1:], ""},
		{nil, ""},
	} {
		got, err := msl.DistinguishedName(c.der)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%x: %q, %v; want %q", c.der, got, err, c.want)
		}
	}
}

// FuzzDistinguishedName: what is rendered can be told apart again from everything else, when the types of texts are known.
func FuzzDistinguishedName(f *testing.F) {
	for _, c := range inproc.Fixtures().Certificates {
		certificate, err := x509.ParseCertificate(c.DER)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(certificate.RawSubject)
	}
	f.Add(name(f, []attribute{{commonName, utf8Tag, ` a,=+<>#;"\ `}, {email, ia5Tag, "x"}}, []attribute{{userID, utf8Tag, "a\x00b"}}))
	f.Fuzz(func(t *testing.T, der []byte) {
		text, err := msl.DistinguishedName(der)
		if err != nil {
			return
		}
		if again := unrendered(t, text, der); !bytes.Equal(again, der) {
			t.Errorf("%q of %x could also be %x", text, der, again)
		}
	})
}

// unrendered encodes the name that a text means, with the tags that der has.
func unrendered(t *testing.T, text string, der []byte) []byte {
	var raw []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &raw); err != nil {
		t.Skip("an encoding that Go does not read")
	}
	var sets []string
	for rest := text; ; {
		set, more, found := cutUnescaped(rest, ',')
		sets = append([]string{set}, sets...)
		if rest = more; !found {
			break
		}
	}
	if len(sets) != len(raw) {
		t.Fatalf("%q has %d sets, not %d", text, len(sets), len(raw))
	}
	var out []byte
	for i, set := range sets {
		var pairs []byte
		inside := raw[i].Bytes
		for rest := set; ; {
			pair, more, found := cutUnescaped(rest, '+')
			var have asn1.RawValue
			var err error
			if inside, err = asn1.Unmarshal(inside, &have); err != nil {
				t.Skip("an encoding that Go does not read")
			}
			pairs = append(pairs, unrenderedPair(t, pair, have)...)
			if rest = more; !found {
				break
			}
		}
		out = append(out, element(t, 0x31, pairs)...)
	}
	return element(t, 0x30, out)
}

func unrenderedPair(t *testing.T, pair string, have asn1.RawValue) []byte {
	kind, value, _ := strings.Cut(pair, "=")
	for oid, named := range msl.AttributeNames {
		if kind == named {
			kind = oid
		}
	}
	oid, err := x509.ParseOID(kind)
	if err != nil {
		t.Fatalf("%q: %v", pair, err)
	}
	der, _ := oid.MarshalBinary()
	encoded := element(t, 6, der)
	if strings.HasPrefix(value, "#") {
		b, err := hex.DecodeString(value[1:])
		if err != nil {
			t.Fatal(err)
		}
		return element(t, 0x30, append(encoded, b...))
	}
	var id, text asn1.RawValue
	rest, err := asn1.Unmarshal(have.Bytes, &id)
	if err == nil {
		_, err = asn1.Unmarshal(rest, &text)
	}
	if err != nil {
		t.Skip("an encoding that Go does not read")
	}
	return element(t, 0x30, append(encoded, element(t, byte(text.Tag), unescaped(value))...))
}

// cutUnescaped cuts s at the first separator that is not escaped.
func cutUnescaped(s string, separator byte) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func unescaped(s string) (out []byte) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && strings.HasPrefix(s[i+1:], "00") {
			out, i = append(out, 0), i+2
			continue
		}
		if s[i] == '\\' {
			i++
		}
		out = append(out, s[i])
	}
	return out
}

// fixtureKey is a key of the vectors, since making RSA keys takes long.
func fixtureKey(t testing.TB, pair string) *rsa.PrivateKey {
	key, err := x509.ParsePKCS8PrivateKey(inproc.Fixtures().KeyPairs[pair].PKCS8)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// issue makes a certificate of subject for public, which parent signs; without one it signs itself.
func issue(t testing.TB, subject string, public any, parent *x509.Certificate, key *rsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: vectorTime.Add(-time.Hour), NotAfter: vectorTime.Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func ca(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
}

// TestCertificates: a certificate must lead to a root, and be good for signatures, now; so must what is between (§5.3,
// behaviour 67).
func TestCertificates(t *testing.T) {
	rootKey, middleKey, leafKey := fixtureKey(t, "x_ca"), fixtureKey(t, "x_int"), fixtureKey(t, "x_leaf")
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := issue(t, "root", &rootKey.PublicKey, nil, rootKey, ca)
	middle := func(change func(*x509.Certificate)) *x509.Certificate {
		return issue(t, "middle", &middleKey.PublicKey, root, rootKey, func(c *x509.Certificate) {
			ca(c)
			if change != nil {
				change(c)
			}
		})
	}
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		return issue(t, "leaf", &leafKey.PublicKey, root, rootKey, change)
	}
	below := issue(t, "leaf", &leafKey.PublicKey, middle(nil), middleKey, nil)
	for _, c := range []struct {
		name        string
		certificate *x509.Certificate
		between     *x509.Certificate // nil: none is known
		want        msl.Code
	}{
		{"under the root", leaf(nil), nil, 0},
		{"under another", below, middle(nil), 0},
		{"without key usage", leaf(func(c *x509.Certificate) { c.KeyUsage = 0 }), nil, 0},
		{"for TLS servers only", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, 0},
		{"the root itself", root, nil, 0},
		{"without what is between", below, nil, msl.X509CertVerificationFailed},
		{"under one that is no authority", below, middle(func(c *x509.Certificate) { c.IsCA = false }), msl.X509CertVerificationFailed},
		{"under one that may not sign certificates", below, middle(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), msl.X509CertVerificationFailed},
		{"under one that has expired", below, middle(func(c *x509.Certificate) { c.NotAfter = vectorTime.Add(-time.Minute) }), msl.X509CertVerificationFailed},
		{"expired", leaf(func(c *x509.Certificate) { c.NotAfter = vectorTime.Add(-time.Second) }), nil, msl.X509CertExpired},
		{"not yet valid", leaf(func(c *x509.Certificate) { c.NotBefore = vectorTime.Add(time.Second) }), nil, msl.X509CertNotYetValid},
		{"to the second", leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = vectorTime, vectorTime }), nil, 0},
		{"not for signatures", leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), nil, msl.X509CertVerificationFailed},
		{"of itself", issue(t, "leaf", &leafKey.PublicKey, nil, leafKey, nil), nil, msl.X509CertVerificationFailed},
		{"of a namesake of the root", issue(t, "leaf", &leafKey.PublicKey, issue(t, "root", &leafKey.PublicKey, nil, leafKey, ca), leafKey, nil), nil, msl.X509CertVerificationFailed},
		{"of another leaf", issue(t, "other", &middleKey.PublicKey, leaf(nil), leafKey, nil), leaf(nil), msl.X509CertVerificationFailed},
		{"with a small key", issue(t, "leaf", &rsa.PublicKey{N: inproc.SmallModulus(), E: 65537}, root, rootKey, nil), nil, msl.X509CertVerificationFailed},
		{"with a key on a curve", issue(t, "leaf", &curve.PublicKey, root, rootKey, nil), nil, msl.X509CertVerificationFailed},
		{"with an extension that nobody knows", leaf(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), nil, msl.X509CertVerificationFailed},
	} {
		cfg := &msl.Config{X509Roots: x509.NewCertPool(), Clock: func() time.Time { return vectorTime }}
		cfg.X509Roots.AddCert(root)
		if c.between != nil {
			cfg.X509Intermediates = x509.NewCertPool()
			cfg.X509Intermediates.AddCert(c.between)
		}
		d, err := msl.X509(c.certificate, "")
		if err != nil {
			t.Fatal(err)
		}
		context, got, err := msl.RemoteContext(t.Context(), cfg, nil, d.Encoding())
		if (err == nil) != (c.want == 0) || err != nil && msl.CodeOf(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && got.Identity() != "CN="+c.certificate.Subject.CommonName {
			t.Errorf("%s: %q", c.name, got.Identity())
		}
		if c.name == "under another" && err == nil {
			data := []byte("data")
			digest := sha256.Sum256(data)
			signature, err := rsa.SignPKCS1v15(nil, leafKey, crypto.SHA256, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			onlySigned(t, context, data, signature)
		}
	}
	d, err := msl.X509(leaf(nil), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := msl.RemoteContext(context.Background(), &msl.Config{}, nil, d.Encoding()); err == nil {
		t.Error("accepted without roots: this machine's are not ours")
	}
	if _, err := msl.X509(issue(t, "", &leafKey.PublicKey, root, rootKey, nil), ""); msl.CodeOf(err) != msl.X509CertParseError {
		t.Errorf("nobody's certificate: %v", err)
	}
}

// TestTamperCertificate changes every byte of a good certificate. None of the results is good, but for what the
// signature does not cover and nothing reads.
func TestTamperCertificate(t *testing.T) {
	cfg, der := vectorConfig(), inproc.Fixtures().Certificates["x_leaf"].DER
	for i := range der {
		for _, bit := range []byte{0x01, 0x20, 0x80} {
			changed := bytes.Clone(der)
			changed[i] ^= bit
			encoded := fmt.Appendf(nil, `{"scheme":"X509","authdata":{"x509certificate":%q}}`, base64.StdEncoding.EncodeToString(changed))
			_, d, err := msl.RemoteContext(t.Context(), cfg, nil, encoded)
			if err == nil {
				t.Errorf("byte %d of %d: %q", i, len(der), d.Identity())
			} else if code := msl.CodeOf(err); code == msl.InternalException || !strings.HasPrefix(code.Name(), "X509CERT_") {
				t.Errorf("byte %d of %d: %v", i, len(der), err)
			}
		}
	}
}

// FuzzEntityAuthData parses data of every scheme; what is accepted travels on as it came.
func FuzzEntityAuthData(f *testing.F) {
	for _, c := range msltest.Cases(f, "entityauth.json") {
		if d := c.Bytes("document"); d != nil {
			f.Add(d)
		}
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		d, err := msl.ParseEntityAuthData(encoded)
		if err != nil {
			if msl.CodeOf(err).Name() == "" || msl.CodeOf(err) == msl.InternalException {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := msl.ParseEntityAuthData(d.Encoding())
		if err != nil || again.Scheme != d.Scheme || again.Identity() != d.Identity() || again.KeyID() != d.KeyID() {
			t.Errorf("%s %q came back as %s %q: %v", d.Scheme, d.Identity(), again.Scheme, again.Identity(), err)
		}
	})
}
