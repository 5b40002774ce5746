// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// A lab has a maker of TPMs, one of which it has made.
type lab struct {
	t      *testing.T
	dir    string
	socket string
}

const makerFiles = `statedir = %[1]s
signingkey = %[1]s/signkey.pem
issuercert = %[1]s/issuercert.pem
certserial = %[1]s/certserial
`

// newLab makes a TPM with endorsement keys and their certificates, and starts it until the test ends.
func newLab(t *testing.T, more ...string) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "enrol") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t, dir, filepath.Join(dir, "server")}
	l.write("ca.conf", fmt.Sprintf(makerFiles, dir))
	l.write("ca.options", "--platform-manufacturer mslkeep\n--platform-version 1\n--platform-model test\n")
	l.write("setup.conf", fmt.Sprintf("create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %[1]s/ca.conf\ncreate_certs_tool_options = %[1]s/ca.options\n", dir))
	for _, name := range []string{"keys", "devices"} {
		if err := os.Mkdir(l.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	setup := exec.Command("swtpm_setup", append([]string{"--tpm2", "--tpmstate", dir, "--config", l.path("setup.conf"), "--create-ek-cert"}, more...)...)
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v: %s", err, out)
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+l.path("ctrl"),
		"--server", "type=unixio,path="+l.socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", l.socket); err == nil {
			conn.Close()
			return l
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("swtpm does not start")
		}
	}
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(l.path(name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// run runs a command to its end.
func (l *lab) run(want int, args ...string) (out, said string) {
	l.t.Helper()
	var o, s bytes.Buffer
	if code := run(l.t.Context(), &o, &s, args); code != want {
		l.t.Errorf("%s: exit code %d, want %d: %s", args, code, want, s.String())
	}
	if want != 0 && (strings.Count(s.String(), "\n") != 1 || !strings.HasPrefix(s.String(), "mslkeep-enrol: ")) {
		l.t.Errorf("%s: not one line: %q", args, s.String())
	}
	return o.String(), s.String()
}

// serve starts a server until the test ends, and returns its URL.
func (l *lab) serve(args ...string) string {
	l.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, w, io.Discard, append([]string{"serve", "--listen", "127.0.0.1:0", "--devices", l.path("devices")}, args...))
		w.Close()
	}()
	l.t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			l.t.Errorf("the server ended with %d", code)
		}
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		l.t.Fatalf("the server does not start: %v", err)
	}
	_, url, _ := strings.Cut(strings.TrimSpace(line), "enrolling at ")
	return url
}

func (l *lab) enrol(want int, url, identity string, more ...string) string {
	l.t.Helper()
	_, said := l.run(want, append([]string{"enrol", "--tpm", "swtpm:unix:" + l.socket, "--keys", l.path("keys"), "--url", url, "--identity", identity}, more...)...)
	return said
}

// handles are the objects and sessions in the chip.
func (l *lab) handles() (all []tpm2.TPMHandle) {
	l.t.Helper()
	tpm, err := linuxudstpm.Open(l.socket)
	if err != nil {
		l.t.Fatal(err)
	}
	defer tpm.Close()
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTLoadedSession, tpm2.TPMHTSavedSession} {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 64}.Execute(tpm)
		if err != nil {
			l.t.Fatal(err)
		}
		list, err := r.CapabilityData.Data.Handles()
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, list.Handle...)
	}
	return all
}

// TestEnrolment: with each of the TPM's endorsement keys, and by its maker's certificates; nothing is left in the chip.
func TestEnrolment(t *testing.T) {
	l := newLab(t)
	lines, _ := l.run(0, "endorsement", "--tpm", "swtpm:unix:"+l.socket)
	kinds := []string{"rsa-2048, certificate", "ec-p384-high, certificate", "ec-p256, no certificate"}
	list := strings.Split(strings.TrimSpace(lines), "\n")
	if len(list) != len(kinds) {
		t.Fatalf("its endorsement keys are: %s", lines)
	}
	for i, line := range list {
		if !strings.HasSuffix(line, "# "+kinds[i]) {
			t.Errorf("%q is not %s", line, kinds[i])
		}
		name := fmt.Sprint("list-", i)
		l.write(name, line+"\n")
		url := l.serve("--endorsement-keys", l.path(name))
		l.enrol(0, url, name)
		l.enrol(0, url, name+"-rsa", "--type", "rsa-2048")
		l.enrol(exitRefused, url, name, "--type", "rsa-2048")
	}
	roots := l.path("swtpm-localca-rootca-cert.pem")
	l.enrol(0, l.serve("--roots", roots, "--intermediates", l.path("issuercert.pem"), "--identities", "certified-*"), "certified-1")
	l.enrol(exitRefused, l.serve("--roots", roots), "certified-2")
	if files, err := filepath.Glob(l.path("devices/*.pem")); err != nil || len(files) != 2*len(list)+1 {
		t.Errorf("enrolled are %v, %v", files, err)
	}
	if left := l.handles(); len(left) > 0 {
		t.Errorf("left in the chip: %x", left)
	}
}

// TestLargeEndorsement: an endorsement key of 3072 bits, by its certificate.
func TestLargeEndorsement(t *testing.T) {
	l := newLab(t, "--rsa-keysize", "3072")
	lines, _ := l.run(0, "endorsement", "--tpm", "swtpm:unix:"+l.socket)
	for line := range strings.Lines(lines) {
		if strings.HasSuffix(line, "# rsa-3072-high, certificate\n") {
			l.write("list", line)
		}
	}
	l.enrol(0, l.serve("--endorsement-keys", l.path("list"), "--roots", l.path("issuercert.pem")), "device-1")
}

// TestAuthorisation: keys with an authorisation value, and an endorsement hierarchy with one that nobody tells us.
func TestAuthorisation(t *testing.T) {
	l := newLab(t)
	url := l.serve("--roots", l.path("issuercert.pem"))
	l.write("auth", "correct horse\n")
	l.write("wrong", "incorrect horse\n")
	l.enrol(0, url, "device-1", "--auth-source", "file:"+l.path("auth"))
	l.enrol(0, url, "device-1", "--auth-source", "file:"+l.path("auth"))
	l.enrol(exitFailure, url, "device-1")
	l.enrol(exitFailure, url, "device-1", "--auth-source", "file:"+l.path("wrong"))
	l.enrol(0, url, "device-1", "--auth-source", "file:"+l.path("auth"))
	l.enrol(0, url, "device-2", "--pcrs", "0,7")

	tpm, err := linuxudstpm.Open(l.socket)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	if said := l.enrol(exitFailure, url, "device-3"); !strings.Contains(said, "password") {
		t.Errorf("it said %q", said)
	}
	if left := l.handles(); len(left) > 0 {
		t.Errorf("left in the chip: %x", left)
	}
}

// TestConnections: those that only hold connections open keep others out no longer than they hold them.
func TestConnections(t *testing.T) {
	l := &lab{t: t, dir: t.TempDir()}
	if err := os.Mkdir(l.path("devices"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.write("list", "")
	address := strings.Trim(strings.TrimPrefix(l.serve("--endorsement-keys", l.path("list")), "http:"), "/")
	answered := func() bool {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "POST /enrol/answer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}") // it may be closed
		said, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && strings.Contains(said, " 404 ")
	}
	var held []net.Conn
	for range maxConns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	for began := time.Now(); answered(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("there are more than %d connections", maxConns)
		}
	}
	for _, c := range held {
		c.Close()
	}
	for began := time.Now(); !answered(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("it does not come back")
		}
	}
}

// TestUsage: what cannot be understood is said in one line, and nothing is done.
func TestUsage(t *testing.T) {
	l := &lab{t: t, dir: t.TempDir()}
	l.write("empty.pem", "")
	l.write("key.pem", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")
	for _, k := range []struct {
		want int
		args string
	}{
		{exitUsage, "fly"}, {exitUsage, "serve"}, {exitUsage, "serve --devices x"}, {exitUsage, "serve --roots x"}, {exitUsage, "serve x"},
		{exitFailure, "serve --devices DIR --roots DIR/none"}, {exitFailure, "serve --devices DIR --roots DIR/empty.pem"},
		{exitFailure, "serve --devices DIR --roots DIR/key.pem"}, {exitFailure, "serve --devices DIR --endorsement-keys DIR/none"},
		{exitFailure, "serve --devices DIR --endorsement-keys DIR/empty.pem --listen nowhere"},
		{exitUsage, "enrol"}, {exitUsage, "enrol --identity a --keys b --url c"}, {exitUsage, "enrol --identity a --keys b --url http://c/ --type d"},
		{exitUsage, "enrol --identity a --url http://c/"}, {exitUsage, "enrol --identity a --keys b --url http://c/ --pcrs d"},
		{exitFailure, "enrol --identity a --keys DIR --url http://c/ --tpm DIR/none"}, {exitUsage, "endorsement a"},
		{exitFailure, "endorsement --tpm DIR/none"}, {exitFailure, "endorsement --tpm none"},
	} {
		l.run(k.want, strings.Split(strings.ReplaceAll(k.args, "DIR", l.dir), " ")...)
	}
	for _, args := range []string{"--help", "serve --help", "enrol -h", "endorsement --help"} {
		if out, _ := l.run(0, strings.Split(args, " ")...); !strings.Contains(out, "mslkeep") {
			t.Errorf("%s printed %q", args, out)
		}
	}
}
