// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/memscan"
	"github.com/mslkeep/mslkeep/msl"
)

// importKey puts a key of the test's own into the HSM, and returns its parts for a search.
func (s *system) importKey(name, keyType string, sizes ...int) (parts []memscan.Key) {
	s.t.Helper()
	var all []byte
	for i, size := range sizes {
		part := make([]byte, size)
		rand.Read(part)
		parts = append(parts, memscan.Key{Label: fmt.Sprintf("hsm %s %d", name, i), Bytes: part})
		all = append(all, part...)
	}
	file := s.path("import")
	write(s.t, file, hex.EncodeToString(all))
	s.keys("server/hsm.toml", "import", "--file", file, "--type", keyType, name)
	if err := os.Remove(file); err != nil {
		s.t.Fatal(err)
	}
	return parts
}

// scan searches the memory of a process, and returns the labels of the keys that it holds.
func scan(t testing.TB, keys []memscan.Key, pid int) ([]string, error) {
	t.Helper()
	scanner, err := memscan.New(keys)
	if err != nil {
		t.Fatal(err)
	}
	var files [3]*os.File
	for i, name := range []string{"maps", "mem", "pagemap"} {
		if files[i], err = os.Open(fmt.Sprintf("/proc/%d/%s", pid, name)); err != nil {
			return nil, err
		}
		defer files[i].Close()
	}
	report, err := scanner.Scan(files[0], files[1], files[2])
	if err != nil {
		return nil, err
	}
	return report.Labels(), nil
}

// TestHSMKeysStayThere searches the processes of a server for the keys of its HSM and for the PIN, while the HSM is
// in the middle of making a token. Neither the server nor its agent holds one. So that the search is known to work, the
// agent must hold session keys, and the provider's process the key that it uses.
func TestHSMKeysStayThere(t *testing.T) {
	s := newSystem(t, time.Minute, "key-log = \"key.log\"\n")
	keys := slices.Concat(
		s.importKey("hsm:token-keys", "keyset", 16, 32, 16),
		s.importKey("hsm:service/default", "keyset", 16, 32, 16),
		s.importKey("hsm:storage", "aes-256", 32),
		[]memscan.Key{{Label: "hsm PIN", Bytes: []byte(testPIN)}})
	s.serve()
	f := s.newFleet()
	var clients []*msl.Client
	for i := range 8 {
		c := f.client(t)
		defer c.Close()
		clients = append(clients, c)
		for range 5 {
			if err := say(t.Context(), c, bytes.Repeat([]byte{'.'}, 1+i*1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.restartAgent()
	for _, c := range clients { // whose tokens the HSM opens now
		if err := say(t.Context(), c, []byte("again")); err != nil {
			t.Fatal(err)
		}
	}

	before := s.shim.calls()["C_Encrypt"]
	atomic.StoreUint32(s.shim.hang, uint32(s.shim.function("C_Encrypt")+1))
	defer atomic.StoreUint32(s.shim.hang, 0)
	late := make(chan error, 1)
	go func() {
		c := f.client(t)
		defer c.Close()
		late <- say(t.Context(), c, []byte("late"))
	}()
	eventually(t, "the HSM makes a token", func() bool { return s.shim.calls()["C_Encrypt"] > before })
	keys = append(keys, s.keyLog()...)
	for name, pid := range map[string]int{"server": s.server.pid(), "agent": s.agent} {
		found, err := scan(t, keys, pid)
		if err != nil {
			t.Fatal(err)
		}
		session := func(label string) bool { return strings.Contains(label, "session") }
		hsm := func(label string) bool { return strings.HasPrefix(label, "hsm ") }
		if name == "server" && len(found) > 0 || slices.ContainsFunc(found, hsm) {
			t.Errorf("the %s holds %q", name, found)
		}
		if name == "agent" && !slices.ContainsFunc(found, session) {
			t.Errorf("of %d keys, the agent seems to hold no session key, but %q: the search is broken", len(keys), found)
		}
	}
	found, err := scan(t, keys, s.providerPID())
	switch {
	case errors.Is(err, os.ErrPermission):
		t.Logf("the provider's memory cannot be read: %v", err)
	case err != nil:
		t.Error(err)
	case !slices.Contains(found, "hsm hsm:token-keys 0"):
		t.Errorf("the provider uses a key and seems to hold none but %q: the search is broken", found)
	default:
		t.Logf("the provider, in the middle of it, holds %q", found)
	}
	atomic.StoreUint32(s.shim.hang, 0)
	if err := <-late; err != nil {
		t.Error(err)
	}
}

// keyLog returns the keys that the server's agent has had.
func (s *system) keyLog() []memscan.Key {
	s.t.Helper()
	f, err := os.Open(s.path("server/key.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	keys, err := memscan.ReadKeyLog(io.LimitReader(f, 1<<24))
	if err != nil || len(keys) == 0 {
		s.t.Fatalf("%d keys, %v", len(keys), err)
	}
	return keys
}
