// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// While the HSM is away, mslkeep keys list shows the other keys, names the HSM, and fails; and keys health names it, too.
func TestKeysListedWhileAway(t *testing.T) {
	s := newSystem(t, 5*time.Second, "")
	s.makeKeys()
	s.serveApart()
	if list := s.keys("server/apart.toml", "list"); !strings.Contains(list, "hsm:token-keys.mac") || !strings.Contains(list, "rsa/server") {
		t.Errorf("all are there: %s", list)
	}
	tokens := filepath.Join(s.hsm.dir, "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"--json=false", "--json"} {
		out, err := exec.Command(tool(t, "mslkeep"), "keys", "list", how, "--config", s.path("server/apart.toml")).Output()
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok || e.ExitCode() != 1 || !strings.Contains(string(e.Stderr), "hsm") || strings.Contains(string(out), "hsm:") || !strings.Contains(string(out), "rsa/server") {
			t.Errorf("%s while the HSM is away: %v, %s", how, err, out)
		}
	}
	if said := s.keys("server/apart.toml", "health"); !regexp.MustCompile(`(?m)^provider hsm +NO `).MatchString(said) {
		t.Errorf("health while the HSM is away: %s", said)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the keys of the HSM are listed again", func() bool {
		out, err := exec.Command(tool(t, "mslkeep"), "keys", "list", "--config", s.path("server/apart.toml"), "hsm:").Output()
		return err == nil && strings.Contains(string(out), "hsm:token-keys.mac")
	})
	if said := s.keys("server/apart.toml", "health"); !regexp.MustCompile(`(?m)^provider hsm +ok`).MatchString(said) {
		t.Errorf("health when the HSM is back: %s", said)
	}
}
