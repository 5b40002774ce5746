// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// A server is an enrolment server of a test.
type server struct {
	*enrol.Server
	t       testing.TB
	url     *url.URL
	devices string // folder
}

func newServer(t testing.TB, c enrol.Config) *server {
	t.Helper()
	if c.Devices == "" {
		c.Devices = t.TempDir()
	}
	s, err := enrol.NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &server{s, t, u, c.Devices}
}

// listing makes a list of endorsement keys, each with an identity or none.
func listing(t testing.TB, list map[*device]string) string {
	t.Helper()
	var text strings.Builder
	for d, identity := range list {
		for _, template := range d.endorsements {
			f, err := enrol.FingerprintOf(d.endorsement(template).Public)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "%s %s\n", f, identity)
		}
	}
	path := filepath.Join(t.TempDir(), "endorsement-keys")
	write(t, path, text.String())
	return path
}

func (s *server) enrol(identity string, d enrol.Device) error {
	return enrol.Enrol(s.t.Context(), http.DefaultClient, s.url, identity, d)
}

// has returns the key of an identity, nil for none, and fails if there is anything in the folder that should not be.
func (s *server) has(identity string) any {
	s.t.Helper()
	files, err := os.ReadDir(s.devices)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".pem") {
			s.t.Errorf("left behind: %s", f.Name())
		}
	}
	data, err := os.ReadFile(filepath.Join(s.devices, url.PathEscape(identity)+".pem"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	block, rest := pem.Decode(data)
	if err != nil || block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		s.t.Fatalf("the file of %q: %v, %q", identity, err, data)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// refuses checks that an enrolment fails for a reason, and leaves nothing.
func (s *server) refuses(identity string, d enrol.Device, want enrol.Code) {
	s.t.Helper()
	before := s.has(identity)
	if err := s.enrol(identity, d); !errors.Is(err, want) {
		s.t.Errorf("enrolling: %v, want %v", err, want)
	}
	if before == nil && s.has(identity) != nil {
		s.t.Error("enrolled all the same")
	}
}

// enrols checks that an enrolment succeeds.
func (s *server) enrols(identity string, d *device) {
	s.t.Helper()
	if err := s.enrol(identity, d); err != nil {
		s.t.Fatal(err)
	}
	if key, ok := s.has(identity).(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(d.publicKey()) {
		s.t.Error("another key is in the folder")
	}
}

// TestEnrol: with a list and with certificates, ECC and RSA.
func TestEnrol(t *testing.T) {
	m := newMaker(t)
	c := newChip(t, m)
	curve, big := newDevice(c, signing()), newDevice(c, signingRSA())
	listed := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{curve: ""})})
	listed.enrols("device 1/ä", curve)
	listed.enrols("device-2", big)
	certified := newServer(t, enrol.Config{Roots: m.pool(t, "swtpm-localca-rootca-cert.pem"), Intermediates: m.pool(t, "issuercert.pem"), Identities: "device-*"})
	certified.refuses("device-1", curve, enrol.CertificateRefused)
	// It goes on to the next endorsement key when the server does not want the first.
	curve.endorsements = append(curve.endorsements, tpm2.RSAEKTemplate)
	curve.certificates = map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgRSA: curve.certificate()}
	certified.enrols("device-1", curve)
	certified.enrols("device-1", curve) // again
	certified.refuses("sensor-1", curve, enrol.IdentityDenied)
	certified.refuses("device-1", big.certified(), enrol.Enrolled)
	certified.enrols("device-2", big)
	both := newServer(t, enrol.Config{Roots: m.pool(t, "issuercert.pem"), Devices: certified.devices, Replace: true,
		Endorsements: listing(t, map[*device]string{big: "device-1"})})
	both.enrols("device-1", big)
	both.refuses("device-2", curve, enrol.IdentityDenied)
	if err := enrol.Enrol(t.Context(), http.DefaultClient, both.url, "", big); !errors.Is(err, enrol.Malformed) {
		t.Errorf("without an identity: %v", err)
	}
}

// TestOtherTPM: what is made for one TPM is of no use to another, whatever it says of itself.
func TestOtherTPM(t *testing.T) {
	honest, other := newDevice(newChip(t, nil), signing()), newDevice(newChip(t, nil), signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{honest: "device-1"})})
	s.refuses("device-1", other, enrol.EndorsementUnknown)
	s.refuses("device-2", honest, enrol.IdentityDenied)
	fails := func(what string, d enrol.Device) {
		t.Helper()
		if err := s.enrol("device-1", d); err == nil || s.has("device-1") != nil {
			t.Errorf("%s: enrolled", what)
		}
	}
	pretender := *other
	pretender.shown = []enrol.Endorsement{honest.endorsement(tpm2.ECCEKTemplate)}
	fails("with the endorsement key of another TPM", &pretender)
	pretender.key.area = honest.key.area
	fails("and with its identity key", &pretender)

	stolen := *honest
	stolen.key.area = other.key.area
	fails("with an identity key of another TPM", &stolen)
	stolen.key.area, stolen.sign = honest.key.area, other.sign
	s.refuses("device-1", &stolen, enrol.WrongAnswer)
	s.enrols("device-1", honest)
}

// answers posts an answer of its own making.
func (s *server) post(path string, body []byte) (status int, said string) {
	s.t.Helper()
	r, err := http.Post(s.url.JoinPath(path).String(), "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// A wire sees and changes what travels.
type wire struct {
	request, response func(path string, fields map[string]any)
	answer            []byte // the last
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.ContentLength = -1
	body = edit(body, r.URL.Path, w.request)
	if strings.HasSuffix(r.URL.Path, "answer") {
		w.answer = body
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	a, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if body, err = io.ReadAll(a.Body); err != nil {
		return nil, err
	}
	a.Body = io.NopCloser(bytes.NewReader(edit(body, r.URL.Path, w.response)))
	return a, nil
}

// edit edits the members of an object.
func edit(body []byte, path string, how func(string, map[string]any)) []byte {
	var fields map[string]any
	if how == nil || json.Unmarshal(body, &fields) != nil {
		return body
	}
	how(path, fields)
	body, _ = json.Marshal(fields)
	return body
}

func (s *server) enrolOver(w *wire, identity string, d enrol.Device) error {
	return enrol.Enrol(s.t.Context(), &http.Client{Transport: w}, s.url, identity, d)
}

// TestReplay: a challenge is good once, whether it was answered well or badly, and for two minutes.
func TestReplay(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{d: ""})})
	var w wire
	gone := func(answer []byte) {
		t.Helper()
		if status, said := s.post("enrol/answer", answer); status != http.StatusNotFound || !strings.Contains(said, string(enrol.NoChallenge)) {
			t.Errorf("the server said %d %s", status, said)
		}
		if s.has("device-1") != nil {
			t.Error("enrolled")
		}
	}
	if err := s.enrolOver(&w, "device-1", d); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.devices, "device-1.pem")); err != nil {
		t.Fatal(err)
	}
	gone(w.answer)

	var right []byte
	spoil := &wire{request: func(path string, fields map[string]any) {
		if strings.HasSuffix(path, "answer") {
			right, _ = json.Marshal(fields)
			fields["mac"] = make([]byte, 32)
		}
	}}
	if err := s.enrolOver(spoil, "device-1", d); !errors.Is(err, enrol.WrongAnswer) {
		t.Errorf("a wrong answer: %v", err)
	}
	gone(right)

	// Two minutes, on the server's clock.
	for _, c := range []struct {
		late time.Duration
		want error
	}{{2*time.Minute - time.Second, nil}, {2*time.Minute + time.Second, enrol.NoChallenge}} {
		var late time.Duration
		s.Now(func() time.Time { return time.Now().Add(late) })
		slow := &wire{request: func(path string, _ map[string]any) {
			if strings.HasSuffix(path, "answer") {
				late = c.late
			}
		}}
		if err := s.enrolOver(slow, "device-1", d); !errors.Is(err, c.want) {
			t.Errorf("%v late: %v, want %v", c.late, err, c.want)
		}
	}
}

// TestTampering: whatever byte of what travels is changed on its way, nobody is enrolled.
func TestTampering(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{d: ""})})
	var members []string // DIRECTION PATH NAME SIZE
	look := func(direction string) func(string, map[string]any) {
		return func(path string, fields map[string]any) {
			for _, name := range slices.Sorted(maps.Keys(fields)) {
				var value []byte
				if name != "identity" {
					value = fromBase64(t, fields[name])
				} else if value = []byte(fields[name].(string)); direction == "response" {
					continue // which nothing depends on
				}
				for i := range value {
					members = append(members, fmt.Sprintf("%s %s %s %d", direction, path, name, i))
				}
			}
		}
	}
	if err := s.enrolOver(&wire{request: look("request"), response: look("response")}, "device-1", d); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.devices, "device-1.pem")); err != nil {
		t.Fatal(err)
	}
	if len(members) < 400 {
		t.Fatalf("only %d bytes travel", len(members))
	}
	for n, member := range members {
		tamper := func(direction string) func(string, map[string]any) {
			return func(path string, fields map[string]any) {
				var name string
				var i int
				if _, err := fmt.Sscanf(member, direction+" "+path+" %s %d", &name, &i); err != nil || fields[name] == nil {
					return
				}
				if name == "identity" {
					b := []byte(fields[name].(string))
					b[i] ^= 1
					fields[name] = string(b)
					return
				}
				b := fromBase64(t, fields[name])
				if i < len(b) {
					b[i] ^= 1 << (n % 8)
				} else {
					b = append(b, 0) // a signature can be shorter than the first was
				}
				fields[name] = b
			}
		}
		if err := s.enrolOver(&wire{request: tamper("request"), response: tamper("response")}, "device-1", d); err == nil {
			t.Errorf("enrolled with another byte: %s", member)
		}
	}
	if files, _ := os.ReadDir(s.devices); len(files) > 0 {
		t.Errorf("enrolled: %v", files)
	}
}

func fromBase64(t testing.TB, v any) (b []byte) {
	t.Helper()
	text, _ := json.Marshal(v)
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFlood: challenges that nobody answers are bounded, and keep nobody out.
func TestFlood(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{d: ""})})
	cut := &wire{request: func(path string, fields map[string]any) {
		if strings.HasSuffix(path, "answer") {
			clear(fields)
		}
	}}
	for i := range 10 {
		if err := s.enrolOver(cut, fmt.Sprint("device-", i), d); !errors.Is(err, enrol.NoChallenge) {
			t.Fatal(err)
		}
	}
	if n := s.Waiting(); n != 4 {
		t.Errorf("%d challenges wait for one TPM", n)
	}
	s.enrols("device-1", d)
}

// TestRace: of two TPMs that want the same identity at the same time, one gets it.
func TestRace(t *testing.T) {
	one, other := newDevice(newChip(t, nil), signing()), newDevice(newChip(t, nil), signing())
	list := listing(t, map[*device]string{one: "", other: ""})
	s := newServer(t, enrol.Config{Endorsements: list})
	for i := range 10 {
		identity := fmt.Sprint("device-", i)
		results := make(chan error)
		for _, d := range []*device{one, other} {
			go func() { results <- s.enrol(identity, d) }()
		}
		first, second := <-results, <-results
		if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), enrol.Enrolled) {
			t.Errorf("%s: %v, %v", identity, first, second)
		}
		if s.has(identity) == nil {
			t.Error("nobody is enrolled")
		}
	}
}
