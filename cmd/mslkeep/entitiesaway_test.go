// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest/postgres"
)

// TestRewrapServing: while clients send, the record key is rotated and all records are sealed anew. Nobody notices, and
// what is changed meanwhile stays changed.
func TestRewrapServing(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	var lines strings.Builder
	for i := range 20_000 {
		lines.WriteString(lineOf("csv", fmt.Sprintf("bulk-%05d", i), newPSK()))
	}
	w.entities(lines.String(), "import", "-").ok(t)
	s := w.serve()
	var stop atomic.Bool
	var sent atomic.Int64
	done := make(chan string)
	const clients = 8
	for range clients {
		go func() {
			failure := ""
			for !stop.Load() && failure == "" {
				// New sessions all the time, each of which needs the record.
				if r := w.send("device-1", s, "--count", "4", "--concurrency", "2", "--key-exchange", "JWE_LADDER/PSK", "--json", "hello"); r.code != 0 {
					failure = r.err + r.out
				}
				sent.Add(4)
			}
			done <- failure
		}()
	}
	damaged, err := sql.Open("sqlite", "file:"+w.path("server/entities.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer damaged.Close()
	if _, err := damaged.Exec("UPDATE mslkeep_entities SET record = zeroblob(100) WHERE identity = ?", []byte("bulk-00007")); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		w.keys("server", "", "rotate", "records").ok(t)
		at := sent.Load()
		eventually(t, patience, "messages are sent", func() bool { return sent.Load() > at })
		r := w.entities("", "rewrap")
		all := decoded[rewrapped](t, r.out)
		if r.code != exitFailure || all.Sealed != 20_001 || all.Newest != 0 || !slices.Equal(all.First, []string{"bulk-00007"}) {
			t.Errorf("round %d: %+v, %s", round, all, r.err)
		}
	}
	w.entities("", "remove", "bulk-00007").ok(t)
	if all := decoded[rewrapped](t, w.entities("", "rewrap").ok(t)); all.Sealed != 0 || all.Newest != 20_001 {
		t.Errorf("again: %+v", all)
	}
	stop.Store(true)
	for range clients {
		if failure := <-done; failure != "" {
			t.Error(failure)
		}
	}
	t.Logf("%d messages", sent.Load())
}

// TestDatabaseAway: while the database is locked, gone or cannot be written, nothing is let in that it would have to vouch
// for, others go on, and it is all right again when the database is.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	path := w.path("server/entities.db")
	s := w.serve()
	p := w.sender("device-1", s)
	p.say("hello")
	p.say("hello")

	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	p.say("while it is locked for a change")
	if r := w.entities("", "remove", "device-1-tv"); r.code != exitFailure {
		t.Errorf("changed while it was locked: %+v", r)
	}
	if _, err := c.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	db.Close()

	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Rename(name, name+".away"); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	for range 2 {
		if r := p.try("while it is gone"); r.Error == "" {
			t.Errorf("%+v", r)
		}
	}
	w.send("device-1", s, "hello").oneLine(t, exitRefused, "again")
	w.send("device-2", s, "hello").ok(t)
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Rename(name+".away", name); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	p.say("it is back")
	w.entities("", "remove", "device-1").ok(t)
	if r := p.try("revoked"); r.Error == "" {
		t.Errorf("%+v", r)
	}
}

// TestServerAway is TestDatabaseAway with PostgreSQL, which also can be one that only reads.
func TestServerAway(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t)
	w := recordWorld(t, server.URL)
	s := w.serve()
	p := w.sender("device-1", s)
	p.say("hello")
	server.Stop(t)
	eventually(t, patience, "nothing is remembered", func() bool { return p.try("hello").Error != "" })
	w.send("device-1", s, "hello").oneLine(t, exitRefused, "again")
	w.send("device-2", s, "hello").ok(t)
	r := w.entities("", "count")
	r.oneLine(t, exitConfig, "[entities]")
	server.Start(t)
	eventually(t, patience, "it is back", func() bool { return p.try("hello").Error == "" })
	if n := w.count(); n != 2 {
		t.Errorf("%d entities", n)
	}
	db, err := sql.Open("pgx", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Conn(t.Context()) // which goes on as it was
	if err != nil {
		t.Fatal(err)
	}
	for i, readOnly := range []string{"on", "off"} {
		if _, err := c.ExecContext(t.Context(), "ALTER DATABASE postgres SET default_transaction_read_only = "+readOnly); err != nil {
			t.Fatal(err)
		}
		if r := w.entities("", "remove", "device-1-tv"); r.code != []int{exitFailure, 0}[i] {
			t.Errorf("read-only %s: %+v", readOnly, r)
		}
		if i == 0 {
			again := w.serve()
			w.send("device-1", again, "hello").ok(t)
		}
	}
}
