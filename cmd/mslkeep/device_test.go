// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startTPM starts a simulated TPM until the test ends, and returns its name as a device.
func startTPM(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "server")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"),
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, patience, "swtpm listens", func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return "swtpm:unix:" + socket
}

const enrolledAgent = `keys = "keys"
key-source = "file:unlock"
storage-key = "storage"
ec-prefix = "tpm:ec/"
rsa-prefix = "tpm:rsa/"
[[providers]]
name = "tpm"
binary = %q
sha256 = %q
[providers.settings]
device = %q
folder = %q
`

// TestDevice: a device with a TPM, from nothing to its first message, and to its last.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tpm := startTPM(t)
	for _, dir := range []string{"devices", "tpm"} {
		if err := os.Mkdir(w.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The list comes from whoever has the device in hand.
	w.write("list", w.mslkeep("device", "endorsement", "--tpm", tpm, "--identity", "sensor/1").ok(t))
	enrolment := start(t, nil, "mslkeep-enrol", "serve", "--listen", "127.0.0.1:0", "--devices", w.path("devices"), "--endorsement-keys", w.path("list"), "--identities", "sensor/*", "--replace")
	_, url, _ := strings.Cut(enrolment.line(), "enrolling at ")
	enrol := func(identity string, more ...string) result {
		return w.mslkeep(append([]string{"device", "enrol", "--tpm", tpm, "--keys", w.path("tpm"), "--url", url, "--identity", identity}, more...)...)
	}
	enrol("sensor/2").oneLine(t, exitRefused, "identity")
	enrol("device-1").oneLine(t, exitRefused, "identity")

	provider := filepath.Join(binaries, "mslkeep-provider-tpm")
	hash, err := sum(provider)
	if err != nil {
		t.Fatal(err)
	}
	w.write("device-3/agent.toml", fmt.Sprintf(enrolledAgent, provider, hash, tpm, w.path("tpm")))
	w.edit("server/serve.toml", `schemes = ["PSK", "RSA", "NONE"]`, `public-key-directory = "../devices"`)
	s := w.serve()
	for scheme, kind := range map[string]string{"ECC": "ec-p256", "RSA": "rsa-2048"} {
		send := func(text string) result {
			return w.send("device-3", s, "--scheme", scheme, "--identity", "sensor/1", "--key-id", "sensor/1", text)
		}
		if out := enrol("sensor/1", "--type", kind).ok(t); !strings.Contains(out, "enrolled") {
			t.Errorf("%s: it said %q", scheme, out)
		}
		enrol("sensor/1", "--type", kind).ok(t) // once more changes nothing
		if out := send("hello from a TPM").ok(t); out != "hello from a TPM" {
			t.Errorf("%s: answered %q", scheme, out)
		}
		// A session that is kept goes on without a new key exchange, until the file has gone.
		store := []string{"--scheme", scheme, "--identity", "sensor/1", "--key-id", "sensor/1", "--store", w.path(scheme)}
		w.send("device-3", s, append(store, "to begin")...).ok(t)
		if r := w.report("device-3", s, append(store, "to go on")...); !r.MasterToken || r.KeyExchange {
			t.Errorf("%s: with a store: %+v", scheme, r)
		}
		if err := os.Remove(w.path("devices", "sensor%2F1.pem")); err != nil {
			t.Fatal(err)
		}
		if r := w.send("device-3", s, append(store, "to go on for ever")...); r.code != exitRefused || r.out != "" {
			t.Errorf("%s: a session when it is enrolled no more: %d, %q, %s", scheme, r.code, r.out, r.err)
		}
		if r := send("once more"); r.code != exitRefused || r.out != "" {
			t.Errorf("%s: when it is enrolled no more: %d, %q, %s", scheme, r.code, r.out, r.err)
		}
	}
	if code := enrolment.stop(); code != 0 {
		t.Errorf("mslkeep-enrol ended with %d: %s", code, enrolment.said)
	}
	enrol("sensor/1").oneLine(t, exitFailure)
	for _, args := range [][]string{{}, {"fly"}, {"enrol"}, {"enrol", "--url", "x"}, {"enrol", "--type", "x"}, {"endorsement", "x"}} {
		w.mslkeep(append([]string{"device"}, args...)...).oneLine(t, exitUsage)
	}
	if out := w.mslkeep("device", "enrol", "--help").ok(t); !strings.Contains(out, "--identity NAME") || !strings.Contains(out, "-url") {
		t.Errorf("help: %s", out)
	}
}
