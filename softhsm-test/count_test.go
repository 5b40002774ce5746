// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// crypto leaves of the calls those that use a key. Where the provider asks for the size of a result first, C_…Init is
// called once, and the function itself twice.
func crypto(calls map[string]uint64) map[string]uint64 {
	uses := make(map[string]uint64)
	for name, n := range calls {
		for _, what := range []string{"C_Encrypt", "C_Decrypt", "C_Sign", "C_Verify", "C_Digest", "C_Wrap", "C_Unwrap", "C_Derive", "C_Generate"} {
			if strings.HasPrefix(name, what) {
				uses[name] = n
			}
		}
	}
	return uses
}

// asks runs work, and returns what the HSM was asked for during it. Health checks, every 30 seconds, are told by the
// random bytes that nothing else asks for; work in whose time one falls is done again.
func (s *system) asks(work func()) map[string]uint64 {
	s.t.Helper()
	for range 3 {
		before := s.shim.calls()
		work()
		calls := s.shim.since(before)
		if calls["C_GenerateRandom"] == 0 {
			return calls
		}
	}
	s.t.Fatal("health checks all the time")
	return nil
}

// TestHSMIsAskedOncePerToken counts the calls of the HSM's functions: two uses of keys for each token that is made,
// two for each that the agent has not seen, and none for a message.
func TestHSMIsAskedOncePerToken(t *testing.T) {
	const clients, messages = 16, 40
	s := newSystem(t, 10*time.Second, "")
	s.makeKeys()
	s.serve()
	f := s.newFleet()
	var all []*msl.Client
	each := func(n int) { t.Helper(); eachSays(t, all, n) }

	uses := crypto(s.asks(func() {
		for _, c := range all {
			c.Close()
		}
		all = nil
		for range clients {
			all = append(all, f.client(t))
		}
		each(1)
	}))
	want(t, "key exchanges", uses, map[string]uint64{"C_EncryptInit": clients, "C_Encrypt": 2 * clients, "C_SignInit": clients, "C_Sign": 2 * clients})
	calls := s.asks(func() { each(messages) })
	if len(calls) > 0 {
		t.Errorf("%d messages: the HSM was asked %v", clients*messages, calls)
	}

	uses = crypto(s.asks(func() {
		s.restartAgent()
		each(1)
	}))
	want(t, "tokens that a new agent opens", uses, map[string]uint64{"C_VerifyInit": clients, "C_Verify": clients, "C_DecryptInit": clients, "C_Decrypt": 2 * clients})
	calls = s.asks(func() { each(messages) })
	if len(calls) > 0 {
		t.Errorf("%d messages after the agent's restart: the HSM was asked %v", clients*messages, calls)
	}
	for _, c := range all {
		c.Close()
	}
	forgeries(t, s, f)
}

// forgeries are not decrypted, and are no fault of the HSM, however many come one after the other.
func forgeries(t *testing.T, s *system, f *fleet) {
	const posts = 40
	uses := crypto(s.asks(func() {
		forged := f.record(t).forgeries(t)[:4] // those of the token
		for i := range posts {
			answer, err := f.post(forged[i%len(forged)])
			if err != nil || bytes.Contains(answer, []byte(`"headerdata"`)) {
				t.Errorf("forgery %d: %q, %v", i%len(forged), answer, err)
			}
		}
		c := f.client(t)
		defer c.Close()
		if err := say(t.Context(), c, []byte("hello")); err != nil {
			t.Errorf("a new session after many forgeries: %v", err)
		}
	}))
	if uses["C_DecryptInit"] > 0 || uses["C_VerifyInit"] > posts || uses["C_VerifyInit"] == 0 {
		t.Errorf("%d forgeries: the HSM was asked %v", posts, uses)
	}
	t.Logf("%d forged tokens cost the HSM %d verifications", posts, uses["C_VerifyInit"])
}

// eachSays has all clients send messages at the same time.
func eachSays(t *testing.T, clients []*msl.Client, messages int) {
	t.Helper()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for j := range messages {
				if err := say(t.Context(), c, bytes.Repeat([]byte{byte(i)}, 1+100*j)); err != nil {
					t.Errorf("client %d, message %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
}

// want compares counts.
func want(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %d calls of %s, want %d", what, got[name], name, want[name])
		}
	}
	for name, n := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %d calls of %s", what, n, name)
		}
	}
}

// restartAgent kills the server's agent, and waits until there is another one that has its provider.
func (s *system) restartAgent() {
	s.t.Helper()
	old := s.agent
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "another agent with a provider", func() bool {
		for _, pid := range children(s.server.pid()) {
			if pid != old && !gone(pid) && len(children(pid)) == 1 {
				s.agent = pid
				return true
			}
		}
		return false
	})
}
