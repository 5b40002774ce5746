// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// TestRequests: what is no request is refused, with the right status.
func TestRequests(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	write(t, list, "# none yet\n")
	s := newServer(t, enrol.Config{Endorsements: list})
	for _, k := range []struct {
		path, body string
		want       int
	}{
		{"enrol/challenge", "", 400}, {"enrol/challenge", "{", 400}, {"enrol/challenge", "[]", 400}, {"enrol/challenge", "{} {}", 400},
		{"enrol/challenge", `{"identity": 1}`, 400}, {"enrol/challenge", `{"identity": "a", "secret": ""}`, 400},
		{"enrol/challenge", `{"identity": "` + strings.Repeat("a", 81) + `"}`, 400}, {"enrol/challenge", `{"identity": "a\u0000"}`, 400},
		{"enrol/challenge", `{"identity": "a"}`, 403}, {"enrol/challenge", `{"identity": "` + strings.Repeat("a", 17<<10) + `"}`, 413},
		{"enrol/answer", `{}`, 404}, {"enrol/answer", `{"id": "AAAAAAAAAAAAAAAAAAAAAA=="}`, 404}, {"enrol/answer", ` {}`, 404}, {"enrol/answer", `null`, 404},
		{"enrol/other", `{}`, 404}, {"", `{}`, 404},
	} {
		if status, said := s.post(k.path, []byte(k.body)); status != k.want {
			t.Errorf("%s %.40s: %d %s, want %d", k.path, k.body, status, said, k.want)
		}
	}
	r, err := http.Get(s.url.JoinPath("enrol/challenge").String())
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", r.StatusCode)
	}
}

// TestConfig: a server that could not tell a TPM from a program does not start.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	write(t, list, strings.Repeat("0", 64))
	for name, c := range map[string]enrol.Config{
		"neither list nor roots": {Devices: dir}, "no folder": {Endorsements: list, Devices: filepath.Join(dir, "none")},
		"no list": {Endorsements: filepath.Join(dir, "none"), Devices: dir}, "a bad pattern": {Endorsements: list, Devices: dir, Identities: "["},
	} {
		if s, err := enrol.NewServer(c); err == nil {
			s.Close()
			t.Errorf("it starts with %s", name)
		}
	}
	for _, text := range []string{"x", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("0", 64) + " a\x01", strings.Repeat("0", 64) + " " + strings.Repeat("a", 81),
		strings.Repeat("0", 64) + "\n" + strings.Repeat("0", 64), strings.Repeat("0", 64) + " a\n" + strings.Repeat("0", 64), strings.Repeat("0", 70000)} {
		write(t, list, text)
		if s, err := enrol.NewServer(enrol.Config{Endorsements: list, Devices: dir}); err == nil {
			s.Close()
			t.Errorf("it starts with the list %.80q", text)
		}
	}
}

// TestList: a list is read again when it has changed, and one that cannot be read lets nobody in.
func TestList(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	list := listing(t, map[*device]string{d: "device-1\n# the same TPM has two\n"})
	good, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, enrol.Config{Endorsements: list})
	s.enrols("device-1", d)
	s.refuses("device-2", d, enrol.IdentityDenied)
	line, _, _ := strings.Cut(string(good), " ")
	replace := func(text string) {
		t.Helper()
		write(t, list+".new", text)
		if err := os.Rename(list+".new", list); err != nil {
			t.Fatal(err)
		}
	}
	replace(string(good) + line + "   device-2 # and so it goes\n")
	s.enrols("device-2", d)
	s.enrols("device-1", d)
	long := time.Now().Add(-time.Hour) // so that it is not read each time
	replace(strings.ToUpper(line))
	if err := os.Chtimes(list, long, long); err != nil {
		t.Fatal(err)
	}
	s.enrols("device-3", d)
	s.enrols("device-4", d)
	replace("rubbish")
	s.refuses("device-5", d, enrol.Unavailable)
	replace("")
	s.refuses("device-5", d, enrol.EndorsementUnknown)
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	s.refuses("device-5", d, enrol.Unavailable)
}

// TestListLine: a line for each identity that a list can have.
func TestListLine(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	e := d.endorsement(d.endorsements[0])
	list := filepath.Join(t.TempDir(), "list")
	for _, identity := range []string{"", "a", "a#b", "#a", "a b", "a  b", "ä/.. "} {
		line, err := enrol.ListLine(e.Public, identity, "comment # of it")
		if bad := strings.HasPrefix(identity, "#") || strings.HasSuffix(identity, " "); (err != nil) != bad {
			t.Errorf("%q: %q, %v", identity, line, err)
		}
		if err != nil {
			continue
		}
		write(t, list, line)
		s := newServer(t, enrol.Config{Endorsements: list})
		if identity != "" {
			s.refuses("another", d, enrol.IdentityDenied)
			s.enrols(identity, d)
		} else {
			s.enrols("another", d)
		}
	}
	for _, identity := range []string{"a #b", "a\nb", strings.Repeat("a", 81)} {
		if line, err := enrol.ListLine(e.Public, identity, ""); err == nil {
			t.Errorf("%q: %q", identity, line)
		}
	}
	if line, err := enrol.ListLine([]byte("key"), "a", ""); err == nil {
		t.Errorf("no key: %q", line)
	}
}

// TestServers: a device is told what a server said that is none, in a way that its terminal survives.
func TestServers(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	for name, body := range map[string]string{
		"nothing": "", "a page": "<html>", "a challenge for nobody": `{"id": "AA==", "credential": "AA==", "encrypted-secret": "AA=="}`,
		"much": strings.Repeat("{", 1<<20), "colours": `{"error": "\u001b[31m", "reason": "\u001b[0m` + strings.Repeat("a", 1000) + `"}`,
	} {
		for _, status := range []int{http.StatusOK, http.StatusForbidden, http.StatusTemporaryRedirect} {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			}))
			u, _ := url.Parse(h.URL)
			err := enrol.Enrol(t.Context(), http.DefaultClient, u, "device-1", d)
			if err == nil || strings.ContainsRune(err.Error(), '\x1b') || len(err.Error()) > 500 {
				t.Errorf("%s, %d: %v", name, status, err)
			}
			h.Close()
		}
	}
}

// TestFolder: a folder that cannot be written to is no enrolment.
func TestFolder(t *testing.T) {
	d := newDevice(newChip(t, nil), signing())
	s := newServer(t, enrol.Config{Endorsements: listing(t, map[*device]string{d: ""})})
	if err := os.Mkdir(filepath.Join(s.devices, "device-1.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.enrol("device-1", d); err == nil {
		t.Error("enrolled in a folder's place")
	}
	if err := os.Remove(filepath.Join(s.devices, "device-1.pem")); err != nil {
		t.Fatal(err)
	}
	// What a folder beside it has is none of its business.
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Symlink(outside, filepath.Join(s.devices, "device-2.pem")); err != nil {
		t.Fatal(err)
	}
	if err := s.enrol("device-2", d); err == nil {
		t.Error("enrolled over a link")
	}
	if err := os.Remove(filepath.Join(s.devices, "device-2.pem")); err != nil {
		t.Fatal(err)
	}
	s.enrols("..", d)
	if err := os.RemoveAll(s.devices); err != nil {
		t.Fatal(err)
	}
	if err := s.enrol("device-1", d); err == nil {
		t.Error("enrolled without a folder")
	}
}
