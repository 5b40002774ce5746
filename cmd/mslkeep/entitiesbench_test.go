// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// benchEntities is how many entities BenchmarkEntities imports.
const benchEntities = 1_000_000

// BenchmarkEntities imports a million entities, has some of them send to a server that finds them there, and compares with
// one whose key is in the server's agent. All of it is one run, with the software provider; it reports
//
//	imported/s  entities that import stored each second, and MB, the size of the database
//	cold-ms     the first message of an entity whose record nobody has opened: lookup, unsealing, key exchange, new tokens
//	warm-ms     the same when the agent has the record open
//	agent-ms    the same when the key is in the server's agent instead
//	record-us   what one of the messages that follow takes, of an entity with a record
//	key-us      of one whose key is in the agent
//	record/key  the median of their ratios: what looking at the database on each message costs
func BenchmarkEntities(b *testing.B) {
	const some = 8 // entities that send
	w := newWorld(b)
	w.write("server/agent.toml", w.read("server/agent.toml")+"record-key = \"records\"\n")
	execute(b.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(b)
	w.write("server/serve.toml", w.read("server/serve.toml")+"[entities]\ndatabase = \"sqlite:entities.db\"\n")
	key := newPSK()
	for i := range some {
		w.keys("device-1", key, "import", fmt.Sprintf("psk/entity-%07d", i*(benchEntities/some))).ok(b)
	}
	makeEntities(b, w.path("entities"), key)

	began := time.Now()
	p := start(b, nil, "mslkeep", "entities", "import", "--config", w.path("server/serve.toml"), "--json", w.path("entities"))
	all := decoded[imported](b, readAll(b, p.out))
	if p.wait() != 0 || all.Imported != benchEntities {
		b.Fatalf("%+v: %s", all, p.said)
	}
	b.ReportMetric(benchEntities/time.Since(began).Seconds(), "imported/s")
	b.ReportMetric(float64(size(b, w.path("server/entities.db")))/1e6, "MB")

	s := w.serve()
	// first returns how long the first message of an entity takes, and its sender.
	first := func(identity string) (*sender, time.Duration) {
		w.write("device-1/send.toml", deviceFile("PSK", identity, ""))
		d := w.newSender("device-1", s.url)
		return d, w.messages(b, d, 1)
	}
	var cold, warm, inAgent time.Duration
	var record *sender
	first("device-1") // the server itself is warm
	for i := range some {
		identity := fmt.Sprintf("entity-%07d", i*(benchEntities/some))
		var t time.Duration
		_, t = first(identity)
		cold += t
		record, t = first(identity)
		warm += t
		_, t = first("device-1")
		inAgent += t
	}
	agent, _ := first("device-1")
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 / some }
	b.ReportMetric(ms(cold), "cold-ms")
	b.ReportMetric(ms(warm), "warm-ms")
	b.ReportMetric(ms(inAgent), "agent-ms")
	const turns, messages = 20, 300 // in turns, so that both meet the same machine
	var byRecord, byKey time.Duration
	w.messages(b, record, messages)
	w.messages(b, agent, messages)
	var ratios []float64
	for turn := range turns {
		var r, k time.Duration
		if turn%2 == 0 {
			r, k = w.messages(b, record, messages), w.messages(b, agent, messages)
		} else {
			k, r = w.messages(b, agent, messages), w.messages(b, record, messages)
		}
		byRecord, byKey, ratios = byRecord+r, byKey+k, append(ratios, r.Seconds()/k.Seconds())
	}
	slices.Sort(ratios)
	b.ReportMetric(byRecord.Seconds()*1e6/(turns*messages), "record-us")
	b.ReportMetric(byKey.Seconds()*1e6/(turns*messages), "key-us")
	b.ReportMetric(ratios[turns/2], "record/key")
	b.ReportMetric(0, "ns/op") // means nothing here
}

// messages sends some messages, one after the other, and returns how long that took.
func (w *world) messages(b *testing.B, s *sender, n int) time.Duration {
	b.Helper()
	data := bytes.Repeat([]byte("x"), 1024)
	began := time.Now()
	for range n {
		answer, err := s.client.Do(b.Context(), &msl.Request{Body: bytes.NewReader(data), Compression: "NONE"})
		if err != nil {
			b.Fatal(err)
		}
		got, err := io.ReadAll(answer)
		if err != nil || !bytes.Equal(got, data) {
			b.Fatalf("%d bytes, %v", len(got), err)
		}
		answer.Close()
	}
	return time.Since(began)
}

// makeEntities makes the file to import: those that send have the same key, all others one of their own.
func makeEntities(b *testing.B, path, key string) {
	b.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewWriter(f)
	raw := make([]byte, 48)
	for i := range benchEntities {
		text := key
		if i%(benchEntities/8) != 0 {
			rand.Read(raw)
			text = hex.EncodeToString(raw)
		}
		fmt.Fprintf(out, "entity-%07d,%s\n", i, text)
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

func readAll(b *testing.B, r io.Reader) string {
	b.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// size adds up the sizes of a database's files.
func size(b *testing.B, path string) (n int64) {
	b.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
