// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

const (
	opencryptoki    = "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
	opencryptokiPIN = "canary-8" // it takes no more than 8 bytes
	// inNamespace is set where opencryptoki has folders of its own.
	inNamespace = "MSLKEEP_TEST_NAMESPACE"
)

// TestOpencryptoki has all on opencryptoki's software token. That keeps its keys, locks and socket in folders of the
// system, and has a daemon. So the test runs itself once more, in namespaces in which these folders are its own,
// and which end with it and take the daemon along.
func TestOpencryptoki(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		inside(t)
		return
	}
	if _, err := os.Stat(opencryptoki); err != nil {
		t.Skip("opencryptoki is not installed (apt-get install opencryptoki)")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give opencryptoki other folders than those of the system")
	}
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOpencryptoki$", "-test.v", "-test.timeout=2m")
	again.Env = append(os.Environ(), inNamespace+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("in a namespace: %v\n%s", err, out)
	}
	t.Logf("in a namespace:\n%s", out)
}

// inside is TestOpencryptoki in its namespaces.
func inside(t *testing.T) {
	h := newOpencryptoki(t)
	t.Run("Conformance", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providers.Provider { return h.open(t).Provider() }, providertest.Options{
			TooLarge: 1<<20 + 1, NoPKCS1Decryption: true,
			Generates: []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048},
			Imports:   []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048},
		})
	})
}

// newOpencryptoki makes a token, and starts the daemon that all of opencryptoki needs.
func newOpencryptoki(t *testing.T) *hsm {
	t.Helper()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run", "/dev/shm", "/etc/opencryptoki", "/var/lib/opencryptoki"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatalf("a folder in place of %s: %v", dir, err)
		}
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil { // in which the daemon looks for its clients
		t.Fatal(err)
	}
	for _, dir := range []string{"/run/lock/opencryptoki/swtok", "/var/lib/opencryptoki/swtok/TOK_OBJ"} {
		if err := os.MkdirAll(dir, 0o770); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "/etc/opencryptoki/opencryptoki.conf", "version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n")
	daemon(t)
	for _, c := range []struct{ in, args string }{{"keys\n", "-I -S 87654321"}, {"", "-u -S 87654321 -n " + opencryptokiPIN}} {
		init := exec.Command("pkcsconf", append(strings.Fields(c.args), "-c", "0")...)
		init.Stdin = strings.NewReader(c.in)
		if out, err := init.CombinedOutput(); err != nil {
			t.Fatalf("pkcsconf: %v\n%s", err, out)
		}
	}
	h := &hsm{dir: t.TempDir()}
	pin := filepath.Join(h.dir, "pin")
	write(t, pin, opencryptokiPIN+"\n")
	h.settings = map[string]any{"module": opencryptoki, "sha256": sum(t, opencryptoki), "token": "pkcs11:token=keys?pin-source=file:" + pin,
		"any-mechanism": true}
	return h
}

// daemon starts opencryptoki's daemon.
func daemon(t *testing.T) *exec.Cmd {
	t.Helper()
	d := exec.Command("pkcsslotd", "-f")
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); exec.Command("pkcsconf", "-t").Run() != nil; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("pkcsslotd does not answer")
		}
	}
	return d
}
