// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package postgres starts PostgreSQL servers of tests: each in a folder of its own, on a socket in that folder.
package postgres

import (
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// A Server is a running server with an empty database.
type Server struct {
	URL string

	dir string
	as  *syscall.Credential // nil: this user
}

// programs finds a program of the server, which is often not in PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if path, err := exec.LookPath(name); err == nil && len(found) == 0 {
		found = append(found, path)
	}
	if len(found) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("PostgreSQL is not installed: .ci/install does that")
		}
		t.Skip("PostgreSQL is not installed: .ci/install does that")
	}
	slices.Sort(found)
	return found[len(found)-1]
}

// Start starts a server, which stops when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	program(t, "pg_ctl")
	// Not t.TempDir, whose path is too long for a socket, and whose parents only this user may enter.
	dir, err := os.MkdirTemp("/tmp", "mslkeep-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{dir: dir}
	owner := "mslkeep"
	if os.Geteuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "initdb", "--no-sync", "--auth=trust", "--username="+owner, "--encoding=UTF8", "--locale=C.UTF-8", "-D", filepath.Join(dir, "data"))
	s.Start(t)
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); err == nil {
			s.Stop(t)
		}
	})
	s.URL = (&url.URL{Scheme: "postgres", User: url.User(owner), Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String()
	return s
}

// Start starts a server again that was stopped.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.run(t, "pg_ctl", "-D", filepath.Join(s.dir, "data"), "-w", "-l", filepath.Join(s.dir, "log"), "-o", "-F -c listen_addresses= -c max_connections=60 -k "+s.dir, "start")
}

// Stop stops the server as a loss of power would.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.run(t, "pg_ctl", "-D", filepath.Join(s.dir, "data"), "-w", "-m", "immediate", "stop")
}

func (s *Server) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	cmd.Dir = s.dir
	if s.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	}
	out, err := os.Create(filepath.Join(t.TempDir(), name)) // not a pipe: the server would keep it open
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		t.Fatalf("%s: %v\n%s", name, err, said)
	}
}
