// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
)

// providerPID waits for the provider's process.
func (s *system) providerPID() (pid int) {
	s.t.Helper()
	eventually(s.t, "a provider", func() bool {
		pids := slices.DeleteFunc(children(s.agent), gone)
		if len(pids) == 1 {
			pid = pids[0]
		}
		return len(pids) == 1
	})
	return pid
}

func (s *system) signal(pid int, sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// newestUse returns the newest version of the token keys that was used, and how often.
func (s *system) newestUse() (version uint32) {
	s.t.Helper()
	var keys []agent.Key
	if err := json.Unmarshal([]byte(s.keys("server/apart.toml", "list", "--json", "hsm:token-keys.mac")), &keys); err != nil {
		s.t.Fatal(err)
	}
	for _, k := range keys {
		if k.Uses > 0 {
			version = max(version, k.Version)
		}
	}
	return version
}

// TestHSMComesAndGoes: whatever happens to the HSM and its provider while 64 clients send, their sessions go on;
// new ones are refused with a transient error while the HSM is away, and made again when it is back; nothing forged is
// accepted; and nothing is left over.
func TestHSMComesAndGoes(t *testing.T) {
	s := newSystem(t, 3*time.Second, "")
	s.makeKeys()
	s.serveApart()
	l := startLoad(t, s)
	before := descriptors(t, s.agent)

	l.killed()
	l.away()
	l.quiet("logged out", func() { s.once(s.shim.logout) })
	l.quiet("sessions closed", func() { s.once(s.shim.close) })
	l.rotated()
	l.replaced()

	l.end()
	t.Logf("%d messages of %d clients; %d new sessions, %d refused; %d forgeries", l.messages.Load(), established,
		l.sessions.Load(), l.refused.Load(), l.forgeries.Load())
	eventually(t, "the agent has no more descriptors than before", func() bool { return descriptors(t, s.agent) <= before })
	last := s.providerPID()
	s.server.end(syscall.SIGTERM)
	s.service.end(syscall.SIGTERM)
	eventually(t, "the provider ends with its agent", func() bool { return gone(last) })
}

// killed ends the provider's process, or stops it.
func (l *load) killed() {
	s := l.system
	nothing := func() {}
	replaced := func(pid int) func() bool { return func() bool { return gone(pid) && s.providerPID() != pid } }
	for range 2 {
		pid := s.providerPID()
		l.outage("provider killed", func() { s.signal(pid, syscall.SIGKILL) }, replaced(pid), nothing)
	}
	pid := s.providerPID()
	l.outage("provider stopped", func() { s.signal(pid, syscall.SIGSTOP) }, replaced(pid), nothing)
}

// away takes the token away, or lets it fail.
func (l *load) away() {
	s := l.system
	tokens := filepath.Join(s.hsm.dir, "tokens")
	rename := func(from, to string) func() {
		return func() {
			if err := os.Rename(from, to); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	l.outage("token taken away", rename(tokens, tokens+".away"), l.refusals(), rename(tokens+".away", tokens))
	for what, code := range map[string]uint32{"device removed": deviceRemoved, "device error": deviceError, "sessions invalid": sessionInvalid} {
		l.outage(what, func() { atomic.StoreUint32(s.shim.fail, code) }, l.refusals(), func() { atomic.StoreUint32(s.shim.fail, 0) })
	}
	hang := uint32(s.shim.function("C_SignInit") + 1)
	l.outage("HSM hangs", func() { atomic.StoreUint32(s.shim.hang, hang) }, l.refusals(), func() { atomic.StoreUint32(s.shim.hang, 0) })
}

// once has the shim do something, and waits until it is done.
func (s *system) once(command *uint32) {
	s.t.Helper()
	for range 5 {
		atomic.StoreUint32(command, 1)
		eventually(s.t, "the shim does as it is told", func() bool { return atomic.LoadUint32(command) == 0 })
	}
}

// rotated rotates the token keys, by this agent and by another one.
func (l *load) rotated() {
	s := l.system
	for i, config := range []string{"server/apart.toml", "server/hsm.toml"} {
		began := time.Now()
		l.quiet("keys rotated", func() { s.keys(config, "rotate", "hsm:token-keys") })
		eventually(l.t, "the new version is used", func() bool { return s.newestUse() == uint32(i)+2 })
		l.t.Logf("version %d is used at the latest %.2f s later", i+2, time.Since(began).Seconds())
	}
}

// replaced puts another program in place of the provider's, and ends the provider later.
func (l *load) replaced() {
	s := l.system
	good := s.provider + ".good"
	copyFile(l.t, s.provider, good)
	pid := s.providerPID()
	l.quiet("binary replaced", func() { copyFile(l.t, tool(l.t, "mslkeep"), s.provider) })
	if s.providerPID() != pid {
		l.t.Error("the provider was started again")
	}
	l.outage("binary is another one", func() { s.signal(pid, syscall.SIGKILL) }, l.refusals(), func() {
		if pids := slices.DeleteFunc(children(s.agent), gone); len(pids) > 0 {
			l.t.Errorf("a provider runs that has another hash: %v", pids)
		}
		copyFile(l.t, good, s.provider)
	})
}
