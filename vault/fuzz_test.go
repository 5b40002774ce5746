// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

// FuzzCiphertext: whatever a record has for a ciphertext, what is taken is in the one form that Vault makes, and is safe
// in JSON.
func FuzzCiphertext(f *testing.F) {
	for _, s := range []string{"vault:v1:" + base64.StdEncoding.EncodeToString(make([]byte, 28)), "vault:v0:AA==", "vault:v01:AA==", "vault:v4294967296:AA==",
		"vault:v1:AB==", "vault:v1:AA", "vault:v1:\"", "vault:v1:AA==\n", "vault:v-1:", "bao:v1:", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, raw, ok := parse(s)
		if ok && s != fmt.Sprintf("vault:v%d:%s", v, base64.StdEncoding.EncodeToString(raw)) {
			t.Errorf("%q is another form", s)
		}
		if ok && !json.Valid([]byte(`"`+s+`"`)) {
			t.Errorf("%q is not safe in JSON", s)
		}
	})
}

// FuzzName: names here and in Vault are the same number of names.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "a/b", "a__b", "a_/b", "-a", "a.", "../x", "a/../b", "é", "", "a//b", "token-keys.enc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if transit, ok := transitName(s); ok {
			if back, ok := ourName(transit); !ok || back != s || strings.ContainsAny(transit, "/?#%\" ") || strings.HasPrefix(transit, ".") {
				t.Errorf("%q became %q and %q", s, transit, back)
			}
		}
		if name, ok := ourName(s); ok {
			if transit, ok := transitName(name); !ok || transit != s {
				t.Errorf("Vault's %q became %q and %q", s, name, transit)
			}
		}
	})
}

// FuzzBlob: a file of the folder of wrapped keys is taken or refused, and what is taken is of the key that the file's
// name says.
func FuzzBlob(f *testing.F) {
	good := `{"name":"k","version":1,"type":"aes-128","created":1,"wrapped":"vault:v1:AAAA"}`
	for _, s := range []string{good, strings.Replace(good, "1", "2", 1), strings.Replace(good, `"k"`, `"../k"`, 1), `{"name":"k","version":1,"type":"aes-128","destroyed":true}`,
		strings.Replace(good, "aes-128", "rsa-2048", 1), "{}", "null", "[]", ""} {
		f.Add([]byte(s))
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(folder, "k.1.key")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		w := Wrapped{Folder: folder, Key: "root", Names: []string{"*"}}
		s := &store{Wrapped: w, p: &Provider{config: Config{Wrapped: &w}}, known: make(map[string]*versions)}
		if s.take("k.1.key") != nil {
			if len(s.known) > 0 {
				t.Error("refused, and taken")
			}
			return
		}
		if v := s.known["k"]; len(s.known) != 1 || v == nil || v.newest != 1 {
			t.Errorf("%q is another key", b)
		}
	})
}

// FuzzDescription: whatever Vault says of a key, it is taken with versions that make sense, or refused.
func FuzzDescription(f *testing.F) {
	for _, s := range []string{`{"type":"aes256-gcm96","latest_version":2,"min_decryption_version":1,"keys":{"1":1,"2":2}}`,
		`{"type":"hmac","key_size":32,"latest_version":1}`, `{"type":"ecdsa-p256","latest_version":1,"keys":{"1":{"public_key":"x","creation_time":"2026-01-01T00:00:00Z"}}}`,
		`{"type":"aes256-gcm96","exportable":true,"latest_version":1}`, `{"type":"aes256-gcm96","latest_version":4294967295,"keys":{"x":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d description
		if json.Unmarshal(b, &d) != nil {
			return
		}
		i, err := d.info("k", "")
		if err != nil {
			if providers.CodeOf(err) == 0 {
				t.Error("an error without a code")
			}
			return
		}
		if i.oldest < 1 || i.newest < i.oldest || i.newest-i.oldest > maxVersions || transitTypes[i.kind] == "" || d.Exportable {
			t.Errorf("%s became %+v", b, i)
		}
	})
}

// FuzzSettings: settings are taken or refused, and those that are taken have everything.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{`{"address":"https://v:8200","auth":{"method":"token","token":"file:/x"},"keys":{"k":"aes-256"},"timeout":"1s","window":"-1ns"}`,
		`{"address":"https://v:8200","auth":{"method":"approle","role-id":"r","secret-id":"credential:x","wrapped":true,"role":"r"},"wrapped":{"folder":"/x","key":"k"}}`,
		`{"address":"http://127.0.0.1","auth":{"method":"kubernetes","role":"r"},"keys":{"a/b":"hmac-sha256"}}`, `{"address":"https://u:p@v"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Config
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if d.Decode(&c) != nil || c.complete() != nil {
			return
		}
		if c.Timeout <= 0 || !isMount(c.Mount) || !isMount(c.Auth.Mount) {
			t.Errorf("%+v", c)
		}
		text, err := Policy(c)
		if err == nil && (strings.Count(text, "path \"") != strings.Count(text, "\n}\n") || strings.Contains(text, "*")) {
			t.Errorf("a policy that is none:\n%s", text)
		}
	})
}
