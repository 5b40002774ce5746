// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

var buildPKCS11 = buildOnce("mslkeep-provider-pkcs11", "1")

func needSoftHSM(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		t.Skip("SoftHSM is not installed (apt-get install softhsm2)")
	}
	if err := buildPKCS11(); err != nil {
		t.Fatal(err)
	}
}

// TestOperations runs the commands with which docs/operations.md leads to a server on SoftHSM: what comes first, and ten
// steps. In the end the token keys are rotated.
func TestOperations(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	script := onFreePort(t, strings.Join(blocksOf(t, "docs/operations.md", 11), ""), "8080")
	runScript(t, t.TempDir(), whenReady(script, "serve.toml", serves), nil,
		"hello", "hsm:rsa/server", `hsm:psk/device-1\.mac`, "\nok       start", `hsm:token-keys\.enc +2 `)
}
