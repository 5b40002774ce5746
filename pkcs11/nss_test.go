// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

// newNSS makes a token of another implementation: NSS's softoken, with its keys in a folder of the test.
func newNSS(t *testing.T) (*hsm, Config) {
	t.Helper()
	h := &hsm{dir: t.TempDir()}
	certutil, err := exec.LookPath("certutil")
	if _, serr := os.Stat("/usr/lib/x86_64-linux-gnu/libsoftokn3.so"); err != nil || serr != nil {
		t.Skip("NSS is not installed (apt-get install libnss3 libnss3-tools)")
	}
	h.module = filepath.Join(h.dir, "nss.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O", "-o", h.module, "testdata/nss.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	b, err := os.ReadFile(h.module)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	h.sum = hex.EncodeToString(sum[:])
	h.pin = filepath.Join(h.dir, "pin")
	write(t, h.pin, testPIN+"\n")
	if out, err := exec.Command(certutil, "-N", "-d", "sql:"+h.dir, "-f", h.pin).CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v\n%s", err, out)
	}
	c := h.config()
	t.Setenv("NSS_PARAMS", "configDir='sql:"+h.dir+"' certPrefix='' keyPrefix='' secmod='' dbTokenDescription='keys' flags=")
	c.AnyMechanism, c.Without = true, []providers.Mechanism{providers.AESGCM} // it cannot encrypt nothing
	return h, c
}

func TestConformanceNSS(t *testing.T) {
	for name, wrapping := range map[string]string{"Encrypting": "*.wrap", "Wrapping": "conformance/*"} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providers.Provider {
				h, config := newNSS(t)
				config.Wrapping = []string{wrapping}
				return h.open(t, config)
			}, providertest.Options{TooLarge: maxData + 1, NoPKCS1Decryption: true})
		})
	}
}
