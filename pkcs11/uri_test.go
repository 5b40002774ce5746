// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"encoding/binary"
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	good := map[string]uri{
		"pkcs11:": {},
		"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-source=file:/etc/token_pin": {
			token: "The Software PKCS#11 Softtoken", manufacturer: "Snake Oil, Inc.", pinSource: "file:/etc/token_pin"},
		"pkcs11:object=token.enc;id=%01%00;type=secret-key": {object: "token.enc", id: "\x01\x00", class: "secret-key"},
		"pkcs11:serial=DECC0401648;model=1.0;type=private":  {serial: "DECC0401648", model: "1.0", class: "private"},
		"pkcs11:object=a&b=c":                               {object: "a&b=c"},
	}
	for text, want := range good {
		if got, err := parseURI(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "pkcs11", "PKCS11:", "pkcs11:token", "pkcs11:token=", "pkcs11:token=a;token=b", "pkcs11:token=a;",
		"pkcs11:;token=a", "pkcs11:token=a b", "pkcs11:token=%", "pkcs11:token=%2", "pkcs11:token=%zz", "pkcs11:token=a/b", "pkcs11:token=ä",
		"pkcs11:slot-id=1", "pkcs11:x-vendor=1", "pkcs11:type=public", "pkcs11:type=cert", "pkcs11:?pin-value=1234",
		"pkcs11:?pin-source=file:/a&pin-source=file:/b", "pkcs11:?module-path=/x.so", "pkcs11:token=a?b?c", "pkcs11:token=" + strings.Repeat("a", maxURI)} {
		if u, err := parseURI(text); err == nil {
			t.Errorf("%s: accepted as %+v", text, u)
		}
	}
	if _, err := parseURI("pkcs11:?pin-value=canary"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("the error of a PIN in a URI: %v", err)
	}
}

func FuzzURI(f *testing.F) {
	for _, s := range []string{"pkcs11:token=keys?pin-source=file:/p", "pkcs11:object=a%20b;id=%00%ff;type=private", "pkcs11:model=;", "pkcs11:serial=%4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseURI(text)
		if err != nil {
			return
		}
		u.pinSource = ""
		if len(u.String()) > maxURI { // escapes may make it longer
			return
		}
		if again, err := parseURI(u.String()); err != nil || again != u {
			t.Errorf("%q: %+v, again %+v, %v", text, u, again, err)
		}
	})
}

func TestVersions(t *testing.T) {
	for _, v := range []uint32{1, 2, 255, 256, 65536, 1 << 24, 1<<32 - 1} {
		if got := versionOf([]byte("name"), binary.BigEndian.AppendUint32(nil, v)); got != v {
			t.Errorf("version %d, by hand, is read as %d", v, got)
		}
		if got := versionOf([]byte("name"), idOf([]byte("name"), v)); got != v {
			t.Errorf("version %d is read as %d", v, got)
		}
	}
	for _, id := range [][]byte{nil, {0}, {0, 0}, {1, 2, 3, 4, 5}, idOf([]byte("other"), 1)} {
		if got := versionOf([]byte("name"), id); got != 0 {
			t.Errorf("identifier %x is version %d", id, got)
		}
	}
	c := Config{Wrapping: []string{"*.wrap", "kek", "psk/*.kw"}}
	for name, want := range map[string]bool{"token.wrap": true, "kek": true, "psk/a.kw": true, "token.enc": false, "keks": false, "psk.kw": false} {
		if got := c.wraps(name); got != want {
			t.Errorf("%s wraps: %v", name, got)
		}
	}
}
