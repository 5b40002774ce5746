// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/memscan"
)

// importTPM puts a key of the test's own into the device's chip, and shares it with the server if it is a key set. It returns its
// parts for a search.
func (d *device) importTPM(name, keyType string, sizes ...int) (parts []memscan.Key) {
	d.t.Helper()
	var all []byte
	for _, size := range sizes {
		part := make([]byte, size)
		rand.Read(part)
		parts = append(parts, memscan.Key{Label: "tpm " + name, Bytes: part})
		all = append(all, part...)
	}
	file := d.file("import")
	write(d.t, file, hex.EncodeToString(all))
	d.keys(d.name+"/keys.toml", "import", "--file", file, "--type", keyType, "tpm:"+name)
	if keyType == "keyset" {
		d.keys("server/keys.toml", "import", "--file", file, "--type", keyType, name)
	}
	if err := os.Remove(file); err != nil {
		d.t.Fatal(err)
	}
	return parts
}

// TestTPMKeysStayThere searches the processes of a device and its server for the keys of the device's TPM. Neither protocol process
// holds any key, and the device's agent none of the TPM's. No key at all, of the TPM or of a session, crosses the bus in clear. So that the search is known to work, both agents must hold the session's keys,
// and the server's the pre-shared key, which is in its file.
func TestTPMKeysStayThere(t *testing.T) {
	s := newSystem(t, patience, "key-log = \"key.log\"\n")
	s.makeKeys()
	certify := s.know()
	d := newDevice(s, "tpm-device", sealPSK)
	d.chip.keep()
	if err := os.Remove(d.file("tpm/storage.1.pem")); err != nil { // in whose place comes one that the test knows
		t.Fatal(err)
	}
	keys := slices.Concat(d.importTPM("storage", "aes-256", 32), d.importTPM("psk/"+d.name, "keyset", 16, 32, 16))
	d.identify(certify)
	s.serveDevices("")
	for _, scheme := range []string{"ECC", "X509", "PSK"} {
		k := d.begin(scheme, rsaExchange, scheme, true)
		for range 5 {
			k.must(strings.Repeat(".", 1000), false)
		}
		k.reboot()
		k = d.begin(scheme, rsaExchange, scheme, false)
		all := slices.Concat(keys, readKeyLog(t, s.path("server/key.log")), readKeyLog(t, d.file("key.log")))
		for name, pid := range map[string]int{"server": s.server.pid(), "device": k.pid(), "server's agent": s.agent, "device's agent": k.agent} {
			found, err := scan(t, all, pid)
			if err != nil {
				t.Fatal(err)
			}
			session := func(label string) bool { return strings.Contains(label, "session") }
			chips := func(label string) bool { return strings.HasPrefix(label, "tpm ") }
			agent := strings.HasSuffix(name, "agent")
			if !agent && len(found) > 0 || slices.ContainsFunc(found, chips) != (name == "server's agent") {
				t.Errorf("%s: the %s holds %q", scheme, name, found)
			}
			if agent && !slices.ContainsFunc(found, session) {
				t.Errorf("%s: of %d keys, the %s seems to hold no session key, but %q: the search is broken", scheme, len(all), name, found)
			}
		}
		for _, key := range all {
			if d.chip.crossed(key.Bytes) {
				t.Errorf("%s: %s crosses the bus in clear", scheme, key.Label)
			}
		}
		k.hangUp()
	}
	block, _ := pem.Decode([]byte(d.keys(d.name+"/keys.toml", "public", "tpm:rsa/"+d.name+"-rsa")))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !d.chip.crossed(public.(*rsa.PublicKey).N.Bytes()) {
		t.Error("not even a public key is found on the bus: the search is broken")
	}
}

func readKeyLog(t *testing.T, path string) []memscan.Key {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	keys, err := memscan.ReadKeyLog(io.LimitReader(f, 1<<24))
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	return keys
}
