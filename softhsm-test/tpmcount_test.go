// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/msl"
)

// tpmCommands are names for those that a device needs.
var tpmCommands = map[tpm2.TPMCC]string{
	tpm2.TPMCCLoad: "Load", tpm2.TPMCCSign: "Sign", tpm2.TPMCCRSADecrypt: "RSADecrypt", tpm2.TPMCCUnseal: "Unseal", tpm2.TPMCCFlushContext: "FlushContext",
	tpm2.TPMCCNVReadPublic: "NVReadPublic", tpm2.TPMCCNVIncrement: "NVIncrement", tpm2.TPMCCNVRead: "NVRead", tpm2.TPMCCStartAuthSession: "StartAuthSession",
	tpm2.TPMCCReadPublic: "ReadPublic", tpm2.TPMCCGetCapability: "GetCapability", tpm2.TPMCCReadClock: "ReadClock", tpm2.TPMCCGetRandom: "GetRandom",
	tpm2.TPMCCHMAC: "HMAC", tpm2.TPMCCHMACStart: "HMACStart", tpm2.TPMCCSequenceUpdate: "SequenceUpdate", tpm2.TPMCCSequenceComplete: "SequenceComplete",
	tpm2.TPMCCShutdown: "Shutdown", tpm2.TPMCCStartup: "Startup",
}

// told writes counts of commands.
func told(asked map[tpm2.TPMCC]int) string {
	var parts []string
	sum := 0
	for _, cc := range slices.Sorted(maps.Keys(asked)) {
		name := tpmCommands[cc]
		if name == "" {
			name = fmt.Sprintf("%x", uint32(cc))
		}
		parts = append(parts, fmt.Sprintf("%s %d", name, asked[cc]))
		sum += asked[cc]
	}
	return fmt.Sprintf("%d: %s", sum, strings.Join(parts, ", "))
}

// atMost fails the test if there are more commands than needed.
func atMost(t *testing.T, what string, asked, needed map[tpm2.TPMCC]int) {
	t.Helper()
	t.Logf("%s: %s", what, told(asked))
	for cc, n := range asked {
		if n > needed[cc] {
			t.Errorf("%s: %s is sent %d times, not %d: %s", what, tpmCommands[cc], n, needed[cc], told(asked))
		}
	}
}

// TestTPMIsAskedPerSession counts the commands that reach the TPM: those that a session needs at its start and at its
// renewal, those that a reboot needs, and none for a message. A key response holds two encrypted keys (§7.1.3).
func TestTPMIsAskedPerSession(t *testing.T) {
	s, d := newTPMSystem(t, "counters-required = true\n")
	s.server.end(syscall.SIGTERM)
	s.serveDevices("master-token-renewal = \"2s\"\n")
	k := d.begin("ECC", rsaExchange, "store", true) // which makes the counter
	k.reboot()

	// With each reboot: what the chip is, the session in which its secrets travel, the counter, and the sealed session.
	d.chip.asked()
	k = d.begin("ECC", rsaExchange, "store", false)
	atMost(t, "reboot", d.chip.asked(), map[tpm2.TPMCC]int{tpm2.TPMCCGetCapability: 7, tpm2.TPMCCReadClock: 1, tpm2.TPMCCReadPublic: 1,
		tpm2.TPMCCStartAuthSession: 1, tpm2.TPMCCNVReadPublic: 1, tpm2.TPMCCNVRead: 1, tpm2.TPMCCLoad: 1, tpm2.TPMCCUnseal: 1})

	// A health check is told by random bytes, which nothing else asks for. After one, keys are loaded again.
	messages, renewals := 0, 0
	for began := time.Now(); renewals < 2 || messages < 200; {
		if time.Since(began) > patience {
			t.Fatalf("%d messages, %d renewals", messages, renewals)
		}
		said := k.say("a message of many")
		asked := d.chip.asked()
		switch {
		case said.Error != "":
			t.Fatal(said.Error)
		case asked[tpm2.TPMCCGetRandom] > 0:
		case said.KeyExchange:
			renewals++
			atMost(t, "renewal", asked, map[tpm2.TPMCC]int{tpm2.TPMCCRSADecrypt: 2, tpm2.TPMCCUnseal: 1, tpm2.TPMCCNVIncrement: 1, tpm2.TPMCCNVRead: 1,
				tpm2.TPMCCLoad: 2, tpm2.TPMCCFlushContext: 2})
		default:
			messages++
			if len(asked) > 0 {
				t.Errorf("a message: %s", told(asked))
			}
		}
	}
	t.Logf("%d messages, %d renewals", messages, renewals)
	k.hangUp()

	f := d.fleet()
	for i := range 3 {
		d.chip.asked()
		f.session(t, fmt.Sprintf("session-%d", i))
		if asked := d.chip.asked(); i > 0 && asked[tpm2.TPMCCGetRandom] == 0 {
			atMost(t, "session start", asked, map[tpm2.TPMCC]int{tpm2.TPMCCSign: 1, tpm2.TPMCCRSADecrypt: 2, tpm2.TPMCCUnseal: 1, tpm2.TPMCCNVIncrement: 1,
				tpm2.TPMCCNVRead: 1, tpm2.TPMCCLoad: 3, tpm2.TPMCCFlushContext: 3})
		}
	}
}

// fleet starts an agent of the device for clients in this process, which authenticate with ECC.
func (d *device) fleet() *fleet {
	d.t.Helper()
	f := d.system.startFleet(d.file("agent.toml"))
	f.dir = d.file("")
	f.config.Entity = msl.ECC(d.name+"-ec", d.name+"-ec")
	f.config.KeyExchanges = []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"}}
	return f
}

// session begins a session, and keeps it in a file, as a device does.
func (f *fleet) session(t testing.TB, name string) {
	t.Helper()
	store, err := msl.OpenFileStore(filepath.Join(f.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c, err := msl.NewClient(f.config, f.keys, &msl.HTTPTransport{URL: f.url, RoundTripper: f}, store)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if exchanged, err := exchange(t.Context(), c, []byte("hello")); err != nil || !exchanged {
		t.Fatalf("exchanged: %v, %v", exchanged, err)
	}
}
