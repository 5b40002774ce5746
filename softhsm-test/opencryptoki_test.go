// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	needsRoot   = "the second PKCS #11 token is not tested: this needs root with CAP_SYS_ADMIN, for opencryptoki has folders of the system only"
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
		t.Skip(needsRoot)
	}
	runtime.LockOSThread() // with which the other process would be killed
	defer runtime.UnlockOSThread()
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOpencryptoki$", "-test.v", "-test.timeout=2m")
	again.Env = append(os.Environ(), inNamespace+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := again.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip(needsRoot)
	}
	if err != nil {
		t.Fatalf("in a namespace: %v\n%s", err, out)
	}
	t.Logf("in a namespace:\n%s", out)
}

// inside is TestOpencryptoki in its namespaces.
func inside(t *testing.T) {
	h, d := newOpencryptoki(t)
	t.Run("Conformance", func(t *testing.T) {
		types := []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048}
		providertest.Run(t, func(t *testing.T) providers.Provider { return h.open(t).Provider() },
			providertest.Options{TooLarge: 1<<20 + 1, NoPKCS1Decryption: true, Generates: types, Imports: types})
	})
	t.Run("Attributes", func(t *testing.T) { h.hints(t) })
	t.Run("Lost", func(t *testing.T) { h.loseDaemon(t, d) })
	t.Run("Renewed", func(t *testing.T) {
		// Not TestLostUnderLoad: the library sometimes crashes when its log-in is taken away while it is used. In earnest that is
		// the provider's process, which is started again.
		again := exec.Command("go", "test", "-count=1", "-run=^(TestRenewed|TestOneLogin|TestLoggedOutInTheMiddle)$/Opencryptoki", "-v",
			"github.com/mslkeep/mslkeep/pkcs11")
		again.Env = append(os.Environ(), "MSLKEEP_TEST_OPENCRYPTOKI="+opencryptoki, "MSLKEEP_TEST_PIN="+filepath.Join(h.dir, "pin"))
		if out, err := again.CombinedOutput(); err != nil || strings.Count(string(out), "/Opencryptoki (") != 3 {
			t.Errorf("package pkcs11: %v\n%s", err, out)
		}
	})
	t.Run("PIN", func(t *testing.T) { h.wrongPINs(t) })
	t.Run("PINOfMany", func(t *testing.T) { h.wrongPINOfMany(t) })
}

// with is the token with another setting.
func (h *hsm) with(name string, value any) *hsm {
	other := *h
	other.settings = maps.Clone(h.settings)
	other.settings[name] = value
	return &other
}

// hints: what the token cannot do is refused when a key is made, and not when it is used.
func (h *hsm) hints(t *testing.T) {
	g := h.with("any-mechanism", false).open(t).Provider().(providers.Generator)
	if _, err := g.Generate(t.Context(), "strict", providers.AES128); !errors.Is(err, providers.NotSupported) || !strings.Contains(err.Error(), "any-mechanism") {
		t.Errorf("a token that keeps no list of mechanisms: %v", err)
	}
	g = h.open(t).Provider().(providers.Generator)
	for name, kt := range map[string]providers.KeyType{"kek.wrap": providers.AES256, "pair": providers.ECP256} {
		if _, err := g.Generate(t.Context(), name, kt); !errors.Is(err, providers.NotSupported) {
			t.Errorf("%s, without a mechanism: %v", name, err)
		}
	}
}

// loseDaemon takes the provider and the daemon away. Keys cannot be used until both are back, and then at once.
func (h *hsm) loseDaemon(t *testing.T, d *exec.Cmd) {
	c := h.open(t)
	ctx, p := t.Context(), c.Provider()
	if _, err := p.(providers.Generator).Generate(ctx, "lost", providers.HMACSHA256); err != nil {
		t.Fatal(err)
	}
	mac := func() ([]byte, error) {
		k, err := p.Open(ctx, "lost", 1)
		if err != nil {
			return nil, err
		}
		return k.(providers.MACer).MAC(ctx, []byte("message"))
	}
	want, err := mac()
	if err != nil {
		t.Fatal(err)
	}
	d.Process.Kill()
	d.Wait()
	if got, err := mac(); err != nil || !bytes.Equal(got, want) { // a process that has started does not need it
		t.Errorf("without its daemon: %x, %v", got, err)
	}
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := mac(); !errors.Is(err, providers.Transient) {
			t.Errorf("without its daemon: %v", err)
		}
	}
	daemon(t)
	for began := time.Now(); ; {
		got, err := mac()
		if err == nil && bytes.Equal(got, want) {
			break
		}
		if since := time.Since(began); since > 3*time.Second { // 2 s, on a machine that does nothing else
			t.Fatalf("not back after %v: %v", since, err)
		}
	}
}

// wrongPINs: this token counts wrong PINs, and the third would lock it.
func (h *hsm) wrongPINs(t *testing.T) {
	pin := filepath.Join(h.dir, "pin")
	for _, c := range []struct {
		pin   string
		again bool
		want  string
	}{
		{"wrong", false, "PIN_INCORRECT"},
		{opencryptokiPIN, false, "wrong the last time"}, // not tried, though it is right
		{"wrong", true, "PIN_INCORRECT"},
		{opencryptokiPIN, true, "would lock"}, // never tried
		{"wrong", true, "would lock"},
	} {
		write(t, pin, c.pin+"\n")
		if p, err := h.with("try-pin-again", c.again).connect(t); err == nil {
			p.Close()
			t.Errorf("started, want %s", c.want)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	write(t, pin, opencryptokiPIN+"\n")
	byHand := func(pin string) error {
		return exec.Command("pkcs11-tool", "--module", opencryptoki, "--token-label", "keys", "--login", "--pin", pin, "--list-objects").Run()
	}
	if err := byHand(opencryptokiPIN); err != nil {
		t.Fatalf("the token is locked: %v", err)
	}
	// Somebody else's wrong PINs: a provider that has to log in again does not, until they are seen to.
	c := h.open(t)
	if byHand("wrong-1") == nil || byHand("wrong-2") == nil {
		t.Fatal("the token takes wrong PINs")
	}
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < time.Second; {
		if _, err := c.Provider().Keys(t.Context()); !errors.Is(err, providers.Transient) {
			t.Fatalf("while one more wrong PIN would lock the token: %v", err)
		}
	}
	if err := byHand(opencryptokiPIN); err != nil {
		t.Fatalf("the provider has locked the token: %v", err)
	}
	for began := time.Now(); ; {
		_, err := c.Provider().Keys(t.Context())
		if err == nil {
			break
		}
		if time.Since(began) > 3*time.Second {
			t.Fatalf("not back: %v", err)
		}
	}
}

// wrongPINOfMany: when several processes of one provider have to log in at the same time, with a PIN that has changed,
// one of them tries it.
func (h *hsm) wrongPINOfMany(t *testing.T) {
	path, err := provider()
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(h.settings)
	if err != nil {
		t.Fatal(err)
	}
	c, err := providers.Connect(t.Context(), providers.Config{Path: path, SHA256: sum(t, path), Settings: settings, Processes: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pin := filepath.Join(h.dir, "pin")
	write(t, pin, "wrong\n")
	for _, pid := range c.PIDs() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		if _, err := c.Provider().Keys(t.Context()); !errors.Is(err, providers.Transient) {
			t.Fatalf("with a wrong PIN: %v", err)
		}
	}
	flags, err := exec.Command("pkcsconf", "-t", "-c", "0").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(flags, []byte("USER_PIN_COUNT_LOW")) || bytes.Contains(flags, []byte("FINAL_TRY")) || bytes.Contains(flags, []byte("USER_PIN_LOCKED")) {
		t.Errorf("not one wrong PIN:\n%s", flags)
	}
	write(t, pin, opencryptokiPIN+"\n")
}

// newOpencryptoki makes a token, and starts the daemon that all of opencryptoki needs.
func newOpencryptoki(t *testing.T) (*hsm, *exec.Cmd) {
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
	d := daemon(t)
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
	return h, d
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
