// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"encoding/pem"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// FuzzKeyFile: no file makes the parser panic, and what it takes is written as it was read.
func FuzzKeyFile(f *testing.F) {
	for _, k := range []keyFile{
		{public: tpm2.Marshal(*template(providers.ECP256, forSigning, tpm2.TPMAObject{FixedTPM: true})), private: make([]byte, 100)},
		{public: tpm2.Marshal(*template(providers.RSA2048, forDecrypting, tpm2.TPMAObject{})), private: make([]byte, 200), hasAuth: true},
		{public: tpm2.Marshal(*template(providers.AES256, forSealing, tpm2.TPMAObject{})), private: []byte{1}, sealed: true, kind: "aes-256 wrap",
			policy: []policyStep{{tpm2.TPMCCPolicyPCR, []byte{0, 0, 0, 0, 0, 0}}, {tpm2.TPMCCPolicyAuthValue, nil}}},
		{public: tpm2.Marshal(*template(providers.AES128, forCipher, tpm2.TPMAObject{})), private: []byte{1}},
		{public: tpm2.Marshal(*template(providers.HMACSHA256, forMAC, tpm2.TPMAObject{})), private: []byte{1}},
	} {
		b, err := k.encode()
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(b)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
		var k stored
		if err := k.parse(text); err != nil {
			return
		}
		b, err := k.file.encode()
		if err != nil {
			t.Fatal(err)
		}
		var again stored
		if err := again.parse(b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.file.public, k.file.public) || !bytes.Equal(again.file.private, k.file.private) || again.info.Type != k.info.Type ||
			len(again.file.policy) != len(k.file.policy) || again.file.hasAuth != k.file.hasAuth || again.file.sealed != k.file.sealed {
			t.Error("a key file changes when it is written again")
		}
		usable(&object{stored: &k})
	})
}

// FuzzFileName: each file has one name and version.
func FuzzFileName(f *testing.F) {
	for _, s := range []string{"a.1.pem", "a%2Fb.2.pem", "..1.pem", "a.b.3.gone", "%2e.4.pem", "a.01.pem", ".1.pem"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		name, version, ok := splitName(file, keySuffix)
		if !ok {
			return
		}
		if again, good := fileName(name, version, keySuffix); !good || again != file || version == 0 {
			t.Errorf("%q is %q %d, which is %q", file, name, version, again)
		}
		for _, c := range []byte(file) {
			if c == '/' || c == 0 {
				t.Errorf("%q", file)
			}
		}
	})
}
