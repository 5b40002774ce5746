// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// TestTPMSchemes: a device authenticates with keys of its TPM, and exchanges keys with them, in every way that MSL has for
// that, with a server whose master tokens an HSM seals.
func TestTPMSchemes(t *testing.T) {
	ways := map[string][]string{
		"RSA":  {"ASYMMETRIC_WRAPPED/JWE_RSA"},
		"ECC":  {"ASYMMETRIC_WRAPPED/JWK_RSA", "ASYMMETRIC_WRAPPED/RSA"},
		"X509": {"ASYMMETRIC_WRAPPED/JWEJS_RSA"},
		"PSK":  {"ASYMMETRIC_WRAPPED/JWE_RSA", "SYMMETRIC_WRAPPED/PSK", "JWE_LADDER/PSK", "JWK_LADDER/PSK"},
	}
	for name, settings := range map[string]string{"Sealed": sealPSK, "InTheChip": ""} {
		t.Run(name, func(t *testing.T) {
			s, d := newTPMSystem(t, settings)
			s.server.end(syscall.SIGTERM)
			s.serveDevices(`key-exchanges = ["SYMMETRIC_WRAPPED/PSK", "JWE_LADDER/PSK", "JWK_LADDER/PSK", "ASYMMETRIC_WRAPPED/JWE_RSA",
				"ASYMMETRIC_WRAPPED/JWK_RSA", "ASYMMETRIC_WRAPPED/JWEJS_RSA", "ASYMMETRIC_WRAPPED/RSA"]` + "\n")
			for scheme, exchanges := range ways {
				if scheme != "PSK" && settings != "" {
					continue // only pre-shared keys are kept in another way
				}
				for _, exchange := range exchanges {
					k := d.talk(scheme, exchange, url.PathEscape(scheme+exchange))
					k.must("hello by "+scheme+" and "+exchange, true)
					k.must("and again", false)
					k.hangUp()
				}
			}
			if n := d.chip.failures(); n != 0 {
				t.Errorf("the chip counts %d wrong authorisation values", n)
			}
		})
	}
}

const rsaExchange = "ASYMMETRIC_WRAPPED/JWE_RSA"

// begin starts a process of the device, and has it send a message, with a key exchange or without.
func (d *device) begin(scheme, exchange, store string, exchanged bool) *talk {
	d.t.Helper()
	k := d.talk(scheme, exchange, store)
	k.must("hello", exchanged)
	return k
}

// reboot cuts the power of the device, and of its chip.
func (k *talk) reboot() {
	k.t.Helper()
	k.end(syscall.SIGKILL)
	k.d.chip.reset()
	eventually(k.t, "the device's agent has ended", func() bool { return gone(k.agent) })
}

// TestTPMRestart: after a restart of all that is on the device, its session goes on without a new key exchange; as often as
// one likes, and by way of a ladder, too.
func TestTPMRestart(t *testing.T) {
	_, d := newTPMSystem(t, sealPSK)
	for scheme, exchange := range map[string]string{"ECC": rsaExchange, "PSK": "JWK_LADDER/PSK"} {
		k := d.begin(scheme, exchange, scheme, true)
		for range 3 {
			k.reboot()
			k = d.begin(scheme, exchange, scheme, false)
			k.must("and again", false)
		}
		k.hangUp()
	}
	if n := d.chip.failures(); n != 0 {
		t.Errorf("the chip counts %d wrong authorisation values", n)
	}
}

// TestTPMOther: whoever has all files of a device, and another TPM, has nothing.
func TestTPMOther(t *testing.T) {
	s, d := newTPMSystem(t, sealPSK)
	d.begin("ECC", rsaExchange, "store", true).hangUp()
	other := &device{s, "other-device", newChip(t)}
	if out, err := exec.Command("cp", "-r", d.file(""), other.file("")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(d.file("agent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(strings.ReplaceAll(string(text), d.chip.address(), other.chip.address()), d.file("tpm"), other.file("tpm"))
	write(t, other.file("agent.toml"), changed)
	refused := func(what string) {
		t.Helper()
		for _, scheme := range []string{"ECC", "PSK"} {
			k := other.talk(scheme, rsaExchange, "store")
			// It may end at once, since its provider does not start.
			go k.in.Write([]byte("hello\n"))
			if line, err := k.out.ReadString('\n'); err == nil && !strings.Contains(line, `"error"`) {
				t.Errorf("%s: the device was believed: %s", what, line)
			}
			k.in.Close()
			<-k.done
		}
	}
	refused("with all files")
	// A thief can make the provider start, with the other chip's storage root key …
	if err := os.Remove(other.file("tpm/srk.name")); err != nil {
		t.Fatal(err)
	}
	refused("without the name of the storage root key")
	// … and have it make other keys.
	for _, name := range []string{"storage.1.pem", "exchange.1.pem"} {
		if err := os.Remove(other.file(filepath.Join("tpm", name))); err != nil {
			t.Fatal(err)
		}
	}
	s.run("mslkeep-agent", "init", "--config", other.file("agent.toml"))
	refused("with other keys")
	d.begin("ECC", rsaExchange, "store", false).hangUp()
}

// TestTPMRollback: a session that was sealed earlier is not taken for the last one, where the chip counts; and is, where it does
// not, so that the test is known to try what it says.
func TestTPMRollback(t *testing.T) {
	for name, counters := range map[string]string{"Counted": "counters-required = true\n", "Uncounted": "counters = []\n"} {
		t.Run(name, func(t *testing.T) {
			_, d := newTPMSystem(t, counters)
			copyFile := func(from, to string) {
				t.Helper()
				b, err := os.ReadFile(d.file(from))
				if err != nil {
					t.Fatal(err)
				}
				write(t, d.file(to), string(b))
			}
			d.begin("ECC", rsaExchange, "store", true).hangUp()
			copyFile("store", "earlier")
			d.begin("ECC", rsaExchange, "another", true).hangUp()
			copyFile("earlier", "store")
			k := d.begin("ECC", rsaExchange, "store", name == "Counted")
			k.reboot()
			d.begin("ECC", rsaExchange, "store", false).hangUp()
		})
	}
}

// TestTPMPowerCut: the power goes between counting and storing. The session is lost, and no more than that.
func TestTPMPowerCut(t *testing.T) {
	_, d := newTPMSystem(t, "counters-required = true\n")
	d.begin("ECC", rsaExchange, "store", true).hangUp()
	before, err := os.ReadFile(d.file("store"))
	if err != nil {
		t.Fatal(err)
	}
	k := d.talk("ECC", rsaExchange, "new")
	var counted atomic.Bool
	d.chip.hook(func(cc tpm2.TPMCC) {
		if cc == tpm2.TPMCCNVRead && counted.Load() {
			k.cmd.Process.Kill()
			d.chip.off()
		}
		counted.Store(counted.Load() || cc == tpm2.TPMCCNVIncrement)
	})
	go k.in.Write([]byte("hello\n"))
	<-k.done
	d.chip.hook(nil)
	d.chip.reset()
	if after, err := os.ReadFile(d.file("store")); err != nil || string(after) != string(before) {
		t.Errorf("the store was changed, %v", err)
	}
	d.begin("ECC", rsaExchange, "store", true).hangUp()
	d.begin("ECC", rsaExchange, "store", false).hangUp()
}

// TestTPMReset resets the chip right before a command, once for each command of a session's start. The message arrives all the
// same, and the chip counts no wrong authorisation value.
func TestTPMReset(t *testing.T) {
	_, d := newTPMSystem(t, "")
	for _, at := range []tpm2.TPMCC{tpm2.TPMCCLoad, tpm2.TPMCCSign, tpm2.TPMCCRSADecrypt, tpm2.TPMCCUnseal, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVRead} {
		store := fmt.Sprintf("store-%x", uint32(at))
		k := d.talk("ECC", rsaExchange, store)
		var once atomic.Bool
		d.chip.hook(func(cc tpm2.TPMCC) {
			if cc == at && once.CompareAndSwap(false, true) {
				d.chip.reset()
			}
		})
		k.must("hello", true)
		if !once.Load() {
			t.Errorf("command %x was not sent", uint32(at))
		}
		d.chip.hook(nil)
		k.hangUp()
		d.begin("ECC", rsaExchange, store, false).hangUp()
	}
	if n := d.chip.failures(); n != 0 {
		t.Errorf("the chip counts %d wrong authorisation values", n)
	}
}

// TestTPMCleared: the owner clears the TPM under a device that talks. It is said that the keys are lost, the session is not unsealed,
// and the way back that docs/tpm.md tells leads back.
func TestTPMCleared(t *testing.T) {
	s, d := newTPMSystem(t, "counters-required = true\n")
	k := d.begin("ECC", rsaExchange, "store", true)
	k.end(syscall.SIGKILL)
	eventually(t, "the device's agent has ended", func() bool { return gone(k.agent) })
	conn, err := net.Dial("unix", d.chip.path("server"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(tpmConn{conn})
	conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	doctor := func(what, says string) {
		t.Helper()
		out, err := exec.Command(tool(t, "mslkeep-agent"), "doctor", "--config", d.file("agent.toml")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) {
			t.Errorf("doctor of %s: %v, %s", what, err, out)
		}
	}
	doctor("a cleared TPM", "it was cleared")
	k = d.talk("ECC", rsaExchange, "store")
	go k.in.Write([]byte("hello\n")) // it may end at once
	if line, err := k.out.ReadString('\n'); err == nil && !strings.Contains(line, `"error"`) {
		t.Errorf("with a cleared TPM: %s", line)
	}
	k.in.Close()
	<-k.done

	if err := os.RemoveAll(d.file("tpm")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.file("tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.run("mslkeep-agent", "init", "--config", d.file("agent.toml"))
	d.keys(d.name+"/keys.toml", "generate", "--type", "ec-p256", "tpm:ec/"+d.name+"-ec")
	write(t, d.path("devices/"+d.name+"-ec.pem"), d.keys(d.name+"/keys.toml", "public", "tpm:ec/"+d.name+"-ec"))
	d.begin("ECC", rsaExchange, "store", true).hangUp()
	d.begin("ECC", rsaExchange, "store", false).hangUp()
	d.chip.off()
	d.chip.bus.Close()
	doctor("a TPM that is not there", "problem  token")
}
