// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/mslkeep/mslkeep/internal/msltest/postgres"
)

// recordWorld is a world whose server finds the pre-shared keys of devices in a database, and none in its agent. device-1
// has one record as device-1, and another as device-1-tv.
func recordWorld(t *testing.T, database string) *world {
	t.Helper()
	w := emptyRecordWorld(t, database)
	w.enrol("device-1", "device-1")
	w.enrol("device-1", "device-1-tv")
	return w
}

// emptyRecordWorld is recordWorld without records.
func emptyRecordWorld(t *testing.T, database string) *world {
	t.Helper()
	w := newWorld(t)
	for _, who := range []string{"server", "device-1", "device-2", "device-3"} {
		name := who + "/agent.toml"
		w.write(name, w.read(name)+"psk-prefix = \"other/\"\n")
	}
	w.write("server/agent.toml", w.read("server/agent.toml")+"record-key = \"records\"\n")
	execute(t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(t)
	w.write("server/serve.toml", w.read("server/serve.toml")+fmt.Sprintf("[entities]\ndatabase = %q\n", database))
	w.edit("server/serve.toml", `"PSK", "RSA"`, `"PSK", "PSK_PROFILE", "RSA"`)
	return w
}

// entities runs mslkeep entities on the server's database.
func (w *world) entities(stdin, operation string, args ...string) result {
	args = append([]string{"entities", operation, "--config", w.path("server/serve.toml"), "--json"}, args...)
	return execute(w.t.Context(), strings.NewReader(stdin), "mslkeep", args...)
}

// enrol gives a device and the server a new key of an identity.
func (w *world) enrol(device, identity string) {
	w.t.Helper()
	key := newPSK()
	w.entities(key+"\n", "add", identity).ok(w.t)
	if r := w.keys(device, key, "import", "other/"+identity); r.code != 0 {
		w.t.Fatal(r.err)
	}
}

func newPSK() string {
	key := make([]byte, 48)
	rand.Read(key)
	return hex.EncodeToString(key)
}

func (w *world) count() int64 {
	w.t.Helper()
	return decoded[map[string]int64](w.t, w.entities("", "count").ok(w.t))["entities"]
}

// lineOf is a line to import.
func lineOf(format, identity, key string) string {
	if format == "csv" {
		return identity + "," + key + "\n"
	}
	return fmt.Sprintf("{\"identity\":%q,\"key\":%q}\n", identity, key)
}

// TestImportKilled imports many, is killed in the middle, and goes on where it was: nothing is missing, and nothing that
// was done is done again.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"csv", "jsonl"} {
		t.Run(format, func(t *testing.T) {
			w := recordWorld(t, "sqlite:entities.db")
			const many = 100_000
			var text strings.Builder
			for i := range many {
				text.WriteString(lineOf(format, fmt.Sprintf("bulk-%05d", i), newPSK()))
			}
			text.WriteString("a bad line\n" + lineOf(format, "last", newPSK()))
			w.write("many", text.String())
			before := w.count()
			args := []string{"entities", "import", "--config", w.path("server/serve.toml"), "--json", "--format", format, w.path("many")}
			kills := 0
			for range 3 {
				p := start(t, nil, "mslkeep", args...)
				had := w.count()
				eventually(t, patience, "some are imported", func() bool { return w.count() > had || gone(p.pid()) })
				if !gone(p.pid()) {
					kills++
				}
				p.kill()
			}
			done := w.count()
			if kills == 0 || done == before || done-before >= many {
				t.Errorf("killed %d times; %d of %d were done", kills, done-before, many)
			}
			r := w.mslkeep(args...)
			all := decoded[imported](t, r.out)
			if r.code != exitFailure || all.Bad != 1 || all.BadLines[0].Line != many+1 || int64(all.From) != done-before+1 {
				t.Errorf("%d done, then %+v: %s", done-before, all, r.err)
			}
			if strings.Contains(r.err, "a bad line") {
				t.Error("the line is quoted")
			}
			if n := w.count() - before; n != many+1 {
				t.Errorf("%d imported", n)
			}
			// Its end was noted, so that the next begins anew.
			if all := decoded[imported](t, w.mslkeep(args...).out); all.From != 1 || all.Imported != many+1 {
				t.Errorf("again: %+v", all)
			}
		})
	}
}

// TestImportInput: an import of the standard input tells where to go on, and does so.
func TestImportInput(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	lines := lineOf("csv", "a", newPSK()) + lineOf("csv", "b", newPSK()) + "\n# nothing\n" + lineOf("csv", "c", newPSK())
	if all := decoded[imported](t, w.entities(lines, "import", "-").ok(t)); all.Imported != 3 || all.Lines != 5 {
		t.Errorf("%+v", all)
	}
	if all := decoded[imported](t, w.entities(lines, "import", "--from", "3", "-").ok(t)); all.Imported != 1 || all.From != 3 {
		t.Errorf("%+v", all)
	}
	// What was exported can be imported elsewhere, and is the same.
	exported := w.entities("", "export").ok(t)
	w.entities("", "remove", "a", "b", "c", "device-1", "device-1-tv").ok(t)
	if all := decoded[imported](t, w.entities(exported, "import", "--records", "-").ok(t)); all.Imported != 5 {
		t.Errorf("%+v", all)
	}
	if again := w.entities("", "export").ok(t); again != exported {
		t.Errorf("%s became %s", exported, again)
	}
	w.send("device-1", w.serve(), "hello").ok(t)
	w.write("records", exported+"{}\n[]\n"+strings.Repeat("x", 20_000)+"\n")
	if r := w.entities("", "import", "--records", w.path("records")); r.code != exitFailure || decoded[imported](t, r.out).Bad != 3 {
		t.Errorf("%+v", r)
	}
	var listed []map[string]any
	if err := json.Unmarshal([]byte(w.entities("", "list", "--prefix", "device").ok(t)), &listed); err != nil || len(listed) != 2 || listed[0]["identity"] != "device-1" || listed[0]["version"] != 1.0 {
		t.Errorf("%v, %v", listed, err)
	}
}

// exchanging are the flags of a device with each key exchange that needs pre-shared keys.
var exchanging = []string{"SYMMETRIC_WRAPPED/PSK", "JWE_LADDER/PSK", "JWK_LADDER/PSK", "JWE_LADDER/WRAP,JWE_LADDER/PSK", "ASYMMETRIC_WRAPPED/JWE_RSA"}

// TestRecords: devices whose keys are in the database do what those do whose keys are in the agent. None of the keys is
// in the server.
func TestRecords(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	w.logKeys()
	w.edit("server/serve.toml", "[msl]\n", "[msl]\nmaster-token-renewal = \"1ms\"\n") // every message renews
	s := w.serve()
	protocol, agents := []*process{s}, []int{s.agent}
	for _, x := range exchanging {
		for _, flags := range [][]string{{"--scheme", "PSK", "--identity", "device-1"}, {"--scheme", "PSK_PROFILE", "--identity", "device-1", "--profile", "tv"}} {
			p := w.sender("device-1", s, append(flags, "--key-exchange", x)...)
			for i := range 4 {
				r := p.say("hello")
				if !r.KeyExchange || !r.Encrypted || i > 0 && !r.MasterToken {
					t.Errorf("%s, %v, message %d: %+v", x, flags, i, r)
				}
				if i == 0 {
					agents = append(agents, r.AgentPID)
				}
			}
			protocol = append(protocol, p)
		}
	}
	w.send("device-2", s, "hello").ok(t) // others are not looked for
	if log := w.read("server/key.log"); !strings.Contains(log, "psk.enc_device-1-tv ") {
		t.Error("the scan does not look for the keys of records")
	}
	w.scan(protocol, agents...)
}

// TestRevoked: the next message of an established session is refused, whatever it was established by and however it
// travels; so it stays when the entity is added again with another key, and no other entity notices.
func TestRevoked(t *testing.T) {
	t.Parallel()
	for kind, database := range map[string]string{"SQLite": "sqlite:entities.db", "PostgreSQL": "new"} {
		t.Run(kind, func(t *testing.T) {
			if database == "new" {
				database = postgres.Start(t).URL
			}
			w := recordWorld(t, database)
			http := w.serve("--listen", "http://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0")
			tcp := &process{url: http.urls[1]}
			var senders []*process
			for i, x := range append(exchanging, exchanging[0]) {
				to := http
				if i == len(exchanging) {
					to = tcp
				}
				p := w.sender("device-1", to, "--key-exchange", x)
				p.say("hello")
				p.say("hello")
				senders = append(senders, p)
			}
			others := []*process{w.sender("device-1", http, "--scheme", "PSK_PROFILE", "--identity", "device-1", "--profile", "tv"), w.sender("device-2", tcp)}
			for _, p := range others {
				p.say("hello")
				p.say("hello")
			}
			w.entities("", "remove", "device-1").ok(t)
			if kind == "PostgreSQL" { // which it remembers for a second
				eventually(t, patience, "the entity is refused", func() bool { return senders[0].try("hello").Error != "" })
			}
			refused := func(when string) {
				t.Helper()
				for i, p := range senders {
					if r := p.try("hello"); r.Error == "" {
						t.Errorf("%s, session %d: %+v", when, i, r)
					}
				}
			}
			refused("removed")
			w.entities(newPSK(), "add", "device-1").ok(t)
			refused("with another key")
			for _, p := range others {
				if r := p.say("hello"); r.KeyExchange {
					t.Errorf("another entity: %+v", r)
				}
			}
			w.send("device-1", http, "hello").oneLine(t, exitRefused)
		})
	}
}

// TestDamagedRecords: whoever can write to the database can shut an entity out, but do no more, and not to others.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	s := w.serve()
	tv := []string{"--scheme", "PSK_PROFILE", "--identity", "device-1", "--profile", "tv", "hello"}
	for _, who := range []string{"server", "device-1"} { // a key that the agent itself has does not count
		w.keys(who, strings.Repeat("ab", 48), "import", "other/elsewhere").ok(t)
	}
	w.entities(newPSK(), "add", "elsewhere").ok(t)
	w.send("device-1", s, "--scheme", "PSK", "--identity", "elsewhere", "hello").oneLine(t, exitRefused, "[entity]")
	db, err := sql.Open("sqlite", "file:"+w.path("server/entities.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE mslkeep_entities SET record = zeroblob(0) WHERE identity = ?", []byte("elsewhere")); err != nil {
		t.Fatal(err)
	}
	w.send("device-1", s, "--scheme", "PSK", "--identity", "elsewhere", "hello").oneLine(t, exitRefused, "[entity]")
	var record, other []byte
	for identity, into := range map[string]*[]byte{"device-1": &record, "device-1-tv": &other} {
		if err := db.QueryRow("SELECT record FROM mslkeep_entities WHERE identity = ?", []byte(identity)).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	tampered := slices.Clone(record)
	tampered[len(tampered)-1] ^= 1
	name := slices.Clone(record)
	name[2] ^= 1
	version := slices.Clone(record)
	version[2+len("records")+3] = 9
	for what, bad := range map[string][]byte{"tampered": tampered, "swapped": other, "cut": record[:len(record)-1], "cut short": record[:1],
		"under another key": name, "under no version": version, "too long": bytes.Repeat(record, 100), "nothing": {}} {
		if _, err := db.Exec("UPDATE mslkeep_entities SET record = ? WHERE identity = ?", bad, []byte("device-1")); err != nil {
			t.Fatal(err)
		}
		r := w.send("device-1", s, "hello")
		r.oneLine(t, exitRefused, "[entity]")
		if out := w.send("device-1", s, tv...).ok(t); out != "hello" {
			t.Errorf("%s: another entity: %q", what, out)
		}
	}
	if _, err := db.Exec("UPDATE mslkeep_entities SET record = ? WHERE identity = ?", record, []byte("device-1")); err != nil {
		t.Fatal(err)
	}
	w.send("device-1", s, "hello").ok(t)
}

func TestEntitiesRefusals(t *testing.T) {
	t.Parallel()
	w := recordWorld(t, "sqlite:entities.db")
	w.write("other.toml", strings.Split(w.read("server/serve.toml"), "[entities]")[0])
	w.write("secret.toml", "[entities]\ndatabase = \"postgres://me:hunter2@127.0.0.1/x\"\n")
	w.write("open.toml", "[entities]\ndatabase = \"postgres://me@db.example.com/x\"\n")
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"entities", exitUsage, nil},
		{"entities fly --config DIR/server/serve.toml", exitUsage, []string{"fly"}},
		{"entities count", exitUsage, []string{"--config"}},
		{"entities count --config DIR/other.toml", exitConfig, []string{"[entities]"}},
		{"entities count --config DIR/secret.toml", exitConfig, []string{"passfile"}},
		{"entities count --config DIR/open.toml", exitConfig, []string{"sslmode"}},
		{"serve --config DIR/secret.toml", exitConfig, nil},
		{"entities count --database file:x", exitConfig, []string{"sqlite:PATH"}},
		{"entities import --config DIR/server/serve.toml", exitUsage, nil},
		{"entities import --config DIR/server/serve.toml DIR/missing", exitFailure, []string{"missing"}},
		{"entities import --config DIR/server/serve.toml --format xml DIR/password", exitUsage, []string{"csv"}},
		{"entities import --database sqlite:DIR/x.db DIR/password", exitUsage, []string{"--agent-config"}},
		{"entities add --config DIR/server/serve.toml --file DIR/password x", exitFailure, []string{"48 or 64 bytes"}},
		{"entities add --database sqlite:DIR/x.db --agent-config DIR/device-1/agent.toml --file DIR/password x", exitConfig, []string{"record-key"}},
		{"entities remove --config DIR/server/serve.toml", exitUsage, nil},
	} {
		r := w.mslkeep(strings.Fields(strings.ReplaceAll(c.args, "DIR", w.dir))...)
		r.oneLine(t, c.code, c.want...)
		if strings.Contains(r.err, "hunter2") || strings.Contains(r.err, worldPassword) {
			t.Errorf("a secret is in %q", r.err)
		}
	}
	if r := w.entities("", "remove", "nobody"); r.code != exitFailure || !strings.Contains(r.out, "nobody") {
		t.Errorf("%+v", r)
	}
	if files, _ := filepath.Glob(w.path("server/entities.db*")); len(files) == 0 {
		t.Error("the database is elsewhere")
	}
	if err := os.Chmod(w.path("server/entities.db"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.mslkeep("entities", "count", "--config", w.path("server/serve.toml")).oneLine(t, exitConfig, "chmod 600")
}

// TestProgress: long work says how far it is.
func TestProgress(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	p := newProgress(&said)
	p.at("done", 1, 0.5)
	if said.Len() != 0 {
		t.Errorf("at once: %q", said.String())
	}
	p.began, p.last = p.began.Add(-10*time.Second), p.last.Add(-10*time.Second)
	p.at("done", 1000, 0.5)
	line, err := bufio.NewReader(&said).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "done 1000, 100 per second, 50 %, 10s left") {
		t.Errorf("%q", line)
	}
}
