// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// someEndorsement is the fingerprint of the endorsement key in testdata.
const someEndorsement = "616fb6ad701bfd4d6a092e96e5f1e7536d14e5a0646711776c196d0a177dcfcc"

// FuzzPublic: what is accepted is what the TPM library reads, too, and a credential can be made for it if it is fit.
func FuzzPublic(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePublic(b)
		if err != nil {
			return
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](p.encoding)
		if err != nil || !bytes.Equal(tpm2.Marshal(*area), b[2:]) {
			t.Fatalf("the library reads something else: %v", err)
		}
		name, err := tpm2.ObjectName(area)
		if err != nil || !bytes.Equal(name.Buffer, p.name()) {
			t.Fatalf("the library has another name: %v", err)
		}
		_ = p.checkKey()
		if p.checkEndorsement() != nil {
			return
		}
		if _, _, err := p.credential(make([]byte, secretSize), p.name()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRequest: whatever is posted, the answer is JSON with a status that says the same.
func FuzzRequest(f *testing.F) {
	list := filepath.Join(f.TempDir(), "list")
	if err := os.WriteFile(list, []byte(someEndorsement), 0o600); err != nil {
		f.Fatal(err)
	}
	s, err := NewServer(Config{Devices: f.TempDir(), Endorsements: list})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer bool, body []byte) {
		path := challengePath
		if answer {
			path = answerPath
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
		var said Refusal
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil {
			t.Fatal(err)
		}
		switch {
		case w.Code == http.StatusOK && answer:
			t.Fatal("enrolled")
		case w.Code == http.StatusOK != (said.Code == "") || said.Code != "" && said.Code.status() != w.Code || w.Code >= 500:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// FuzzList: a list is read as it is written.
func FuzzList(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		known, err := parseList(strings.NewReader(text))
		if err != nil {
			return
		}
		for f, identities := range known {
			if !strings.Contains(strings.ToLower(text), f.String()) {
				t.Fatalf("%s is not on it", f)
			}
			for _, i := range identities {
				if checkIdentity(i) != nil || !strings.Contains(text, i) {
					t.Fatalf("%q is not on it", i)
				}
			}
		}
	})
}

// FuzzCertificate: nothing leads to a root that has signed nothing.
func FuzzCertificate(f *testing.F) {
	roots := x509.NewCertPool()
	f.Fuzz(func(t *testing.T, der []byte) {
		var key any
		if c, err := x509.ParseCertificate(der); err == nil {
			key = certified(c)
		}
		if checkCertificate(der, key, roots, nil, time.Now()) == nil {
			t.Fatal("trusted")
		}
	})
}

// TestWaiting: at most a thousand challenges wait, the newest, and none for longer than it lives.
func TestWaiting(t *testing.T) {
	var w waiting
	now := time.Now()
	add := func(n int) (last *pending) {
		for range n {
			last = &pending{ends: now.Add(lifetime)}
			rand.Read(last.id[:])
			rand.Read(last.endorsement[:])
			w.add(last, now)
		}
		return last
	}
	first := add(1)
	add(maxPending - 1)
	if w.take(first.id[:], now) != first {
		t.Error("the first of a thousand is gone")
	}
	first = add(1)
	last := add(maxPending + 5)
	if len(w.list) != maxPending || w.take(first.id[:], now) != nil || w.take(last.id[:], now) != last || w.take(last.id[:], now) != nil {
		t.Error("not the newest thousand, each once")
	}
	now = now.Add(lifetime)
	if last = add(1); len(w.list) != 1 {
		t.Errorf("%d challenges are left of those that ended", len(w.list)-1)
	}
	if w.take(last.id[:], now.Add(lifetime)) != nil {
		t.Error("good for too long")
	}
}
