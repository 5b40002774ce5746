// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// TestEveryRole has the keys of all of a server's roles in the HSM: token keys, its identity, the key that wraps records of
// pre-shared keys, keys of service tokens, storage key. Those that can be rotated are, while it serves, and the records are
// sealed anew.
func TestEveryRole(t *testing.T) {
	s := newSystem(t, 10*time.Second, "")
	text, err := os.ReadFile(s.path("server/agent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	roles := serverRoles + "record-key = \"hsm:records\"\nrsa-prefix = \"hsm:rsa/\"\npsk-prefix = \"none/\"\n"
	write(t, s.path("server/agent.toml"), strings.Replace(string(text), serverRoles, roles, 1))
	s.makeKeys()
	s.keys("server/hsm.toml", "generate", "--type", "rsa-2048", "hsm:rsa/server")
	write(t, s.path("server.pem"), s.keys("server/hsm.toml", "public", "hsm:rsa/server"))
	write(t, s.path("server/serve.toml"), strings.Replace(s.read("server/serve.toml"), "[serve]", "[entities]\ndatabase = \"sqlite:entities.db\"\n[serve]", 1))
	write(t, s.path("devices.csv"), "device,"+s.read("psk"))
	s.run("mslkeep", "entities", "import", "--config", s.path("server/serve.toml"), s.path("devices.csv"))
	s.serve()
	f := s.newFleet()
	old := f.client(t)
	defer old.Close()
	says := func(what string, c *msl.Client) {
		t.Helper()
		if err := say(t.Context(), c, []byte("hello")); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	recorded := func(what string) { // a session of a device whose record the agent does not remember
		t.Helper()
		c := f.client(t)
		defer c.Close()
		before := s.shim.calls()
		says(what, c)
		if uses := crypto(s.shim.since(before)); uses["C_DecryptInit"] == 0 {
			t.Errorf("%s: the HSM did not open its record, but was asked %v", what, uses)
		}
	}
	recorded("a device")
	says("its session", old)
	for _, name := range []string{"hsm:token-keys", "hsm:service/default", "hsm:records", "hsm:storage"} {
		s.keys("server/hsm.toml", "rotate", name)
		says("its session, after the rotation of "+name, old)
	}
	s.restartAgent()
	recorded("its record, which an old version has sealed")
	s.run("mslkeep", "entities", "rewrap", "--config", s.path("server/serve.toml"))
	s.restartAgent()
	recorded("its record, which the new version has sealed")
	says("its old session", old)
}

func (s *system) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b)) + "\n"
}
