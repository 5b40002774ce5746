// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// buildPKCS11 builds the provider for PKCS #11 beside the other binaries, once.
var buildPKCS11 = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", binaries+"/", "../mslkeep-provider-pkcs11")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

func needSoftHSM(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		t.Skip("SoftHSM is not installed (apt-get install softhsm2)")
	}
	if err := buildPKCS11(); err != nil {
		t.Fatal(err)
	}
}

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// TestOperations runs the commands with which docs/operations.md leads to a server on SoftHSM, as they stand there, but
// for the port.
func TestOperations(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	for _, block := range blocks {
		script.WriteString(block[1])
	}
	if n := len(blocks); n != 11 {
		t.Errorf("%d blocks of commands, not what comes first and ten", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	commands := strings.ReplaceAll(script.String(), "--example >", "--example | sed s/:8080/:"+port+"/ >")
	// A person does not type the next command before serve says that it serves.
	commands = strings.ReplaceAll(commands, "serve.toml &\n", "serve.toml > serving &\ntrap 'kill %1; wait' EXIT\nuntil grep -q http serving; do :; done\n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", commands)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"hello", "hsm:rsa/server", "hsm:psk/device-1.mac", "\nok       start"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %q in:\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`hsm:token-keys\.enc +2 `).Match(out) {
		t.Errorf("the token keys were not rotated:\n%s", out)
	}
	if regexp.MustCompile(`(?m)^problem `).Match(out) {
		t.Errorf("doctor found problems:\n%s", out)
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", out)
	}
}
