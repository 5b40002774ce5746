// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

const (
	benchRecords  = 1_000_000 // unless MSLKEEP_BENCH_RECORDS says another number; 20,000 with -short
	benchOneByOne = 64        // entities that come one after the other
	benchAtOnce   = 256       // that come with benchCallers at once
	benchBatch    = 128       // records of a request straight to Vault, as many as the provider's have at most
	benchFlights  = 4         // of those at a time, as the provider makes them
)

// BenchmarkVaultSessions imports a million records whose wrapping key is in Vault, and has entities out of them begin
// sessions, all in one run, with Vault in a process of its own on this machine and token keys in SoftHSM. It reports
//
//	imported/s        records that mslkeep entities import stores each second, through agent and provider
//	import/straight   their ratio to what Vault encrypts when batches of the same size go straight to its API, before and after
//	import-req/k      requests to Vault for a thousand records
//	MB                the size of the database
//	cold-ms           the first message of an entity whose record nobody has opened, until its answer
//	warm-ms           the first message of another session of the same entity, whose record the agent has open
//	cold/warm         their ratio: what unwrapping by Vault costs
//	message/warm      a message of an established session, as a part of that
//	one-by-one-req/k  requests to Vault for a thousand new sessions of cold entities that come one after the other
//	at-once-req/k     the same when 64 come at once, and the provider sends what waits together
//	warm-req/k        the same for new sessions of warm entities
func BenchmarkVaultSessions(b *testing.B) {
	needBackEnds(b)
	total := benchTotal(b)
	f, requests := newCountedDeployment(b)
	identity := func(sender int) string { return entityName(sender * (total / (benchOneByOne + benchAtOnce + 1))) }
	key := f.givesKeys(benchOneByOne+benchAtOnce+1, identity)
	f.writeEntities(total, key)

	straight := f.straight(total / 8)
	before := requests.Load()
	began := time.Now()
	f.run("mslkeep", "entities", "import", "--config", f.path("server/full.toml"), f.path("entities.csv"))
	took := time.Since(began)
	b.ReportMetric(float64(total)/took.Seconds(), "imported/s")
	b.ReportMetric(thousand(requests.Load()-before, total), "import-req/k")
	b.ReportMetric((straight+f.straight(total/8)).Seconds()*4/took.Seconds(), "import/straight")
	b.ReportMetric(f.databaseMB(), "MB")
	f.agent = f.serveAs("server/full.toml")

	all := f.system.newFleet()
	client := func(sender int) *msl.Client {
		own := *all
		config := *all.config
		config.Entity = msl.PSK(identity(sender))
		own.config = &config
		return own.client(b)
	}
	timed := func(c *msl.Client) time.Duration {
		began := time.Now()
		if err := say(b.Context(), c, []byte("hello")); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	timed(client(0)) // server, agents and HSM are warm
	var cold, warm, message time.Duration
	var coldRequests, warmRequests int64
	for i := range benchOneByOne {
		before := requests.Load()
		cold += timed(client(1 + i))
		between := requests.Load()
		again := client(1 + i)
		warm += timed(again)
		message += timed(again)
		coldRequests += between - before
		warmRequests += requests.Load() - between
	}
	before = requests.Load()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range benchCallers {
		callers.Go(func() {
			for i := next.Add(1); i <= benchAtOnce; i = next.Add(1) {
				c := client(benchOneByOne + int(i))
				if err := say(b.Context(), c, []byte("hello")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	callers.Wait()
	b.ReportMetric(cold.Seconds()*1e3/benchOneByOne, "cold-ms")
	b.ReportMetric(warm.Seconds()*1e3/benchOneByOne, "warm-ms")
	b.ReportMetric(cold.Seconds()/warm.Seconds(), "cold/warm")
	b.ReportMetric(message.Seconds()/warm.Seconds(), "message/warm")
	b.ReportMetric(thousand(coldRequests, benchOneByOne), "one-by-one-req/k")
	b.ReportMetric(thousand(warmRequests, benchOneByOne), "warm-req/k")
	b.ReportMetric(thousand(requests.Load()-before, benchAtOnce), "at-once-req/k")
	b.ReportMetric(0, "ns/op") // means nothing here
}

func thousand(requests int64, n int) float64 { return 1000 * float64(requests) / float64(n) }

func entityName(i int) string { return fmt.Sprintf("entity-%07d", i) }

func benchTotal(b *testing.B) int {
	b.Helper()
	text := os.Getenv("MSLKEEP_BENCH_RECORDS")
	switch {
	case text != "":
		n, err := strconv.Atoi(text)
		if err != nil || n < 1000 {
			b.Fatalf("MSLKEEP_BENCH_RECORDS is %q, not a number of at least 1000", text)
		}
		return n
	case testing.Short():
		return 20_000
	}
	return benchRecords
}

// writeEntities makes the file to import: those that send have the same key, all others one of their own.
func (f *deployment) writeEntities(total int, key string) {
	f.t.Helper()
	var text bytes.Buffer
	raw := make([]byte, 48)
	for i := range total {
		own := key
		if i%(total/(benchOneByOne+benchAtOnce+1)) != 0 {
			rand.Read(raw)
			own = hex.EncodeToString(raw)
		}
		fmt.Fprintf(&text, "%s,%s\n", entityName(i), own)
	}
	write(f.t, f.path("entities.csv"), text.String())
}

// straight has Vault encrypt as many plaintexts of a record's size, with associated data of the size, and returns how long that
// takes. The requests are made beforehand, and answers are not looked at but for their status.
func (f *deployment) straight(records int) time.Duration {
	f.t.Helper()
	plain, aad := make([]byte, 67), make([]byte, 57)
	bodies := make([]string, records/benchBatch)
	for n := range bodies {
		items := make([]string, benchBatch)
		for i := range items {
			rand.Read(plain)
			rand.Read(aad)
			items[i] = fmt.Sprintf(`{"plaintext":%q,"associated_data":%q,"key_version":1}`, base64.StdEncoding.EncodeToString(plain), base64.StdEncoding.EncodeToString(aad))
		}
		bodies[n] = `{"batch_input":[` + strings.Join(items, ",") + `]}`
	}
	began := time.Now()
	var next atomic.Int64
	var flights sync.WaitGroup
	for range benchFlights {
		flights.Go(func() {
			for n := next.Add(1); int(n) <= len(bodies); n = next.Add(1) {
				if err := f.encrypt(bodies[n-1]); err != nil {
					f.t.Error(err)
					return
				}
			}
		})
	}
	flights.Wait()
	return time.Since(began)
}

func (f *deployment) encrypt(body string) error {
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.front+"/v1/transit/encrypt/entities", strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Vault-Token", f.vault.Token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err = io.Copy(io.Discard, response.Body); err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return err
}

func (f *deployment) databaseMB() (mb float64) {
	f.t.Helper()
	files, err := filepath.Glob(f.path("server/entities.db*"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			f.t.Fatal(err)
		}
		mb += float64(info.Size()) / 1e6
	}
	return mb
}

// newCountedDeployment makes a server whose requests to Vault are counted.
func newCountedDeployment(b *testing.B) (*deployment, *atomic.Int64) {
	b.Helper()
	f := &deployment{vault: vaulttest.Start(b, vaulttest.Options{})}
	v := newFront(b, f.vault.Address)
	f.front = v.URL
	f.system = newSystem(b, 10*time.Second, "")
	f.makeHSMKeys()
	f.openVault()
	f.importRecords(func(int, []byte) {})
	return f, &v.requests
}
