// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

const (
	benchOneByOne = 64  // entities that come one after the other
	benchAtOnce   = 256 // that come with benchCallers at once
)

// BenchmarkVaultSessions has entities with records begin sessions, in one run, with Vault in a process of its own on this
// machine and token keys in SoftHSM. It reports
//
//	cold-ms           the first message of an entity whose record nobody has opened, until its answer
//	warm-ms           the first message of another session of the same entity, whose record the agent has open
//	cold/warm         their ratio: what unwrapping by Vault costs
//	message/warm      a message of an established session, as a part of that
//	one-by-one-req/k  requests to Vault for a thousand new sessions of cold entities that come one after the other
//	at-once-req/k     the same when 64 come at once, and the provider sends what waits together
//	warm-req/k        the same for new sessions of warm entities
func BenchmarkVaultSessions(b *testing.B) {
	needBackEnds(b)
	f, requests := newCountedDeployment(b)
	all := f.system.newFleet()
	client := func(i int) *msl.Client {
		own := *all
		config := *all.config
		config.Entity = msl.PSK(fmt.Sprintf("device-%04d", i))
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
	timed(client(records - 1)) // server, agents and HSM are warm
	var cold, warm, message time.Duration
	var coldRequests, warmRequests int64
	for i := range benchOneByOne {
		before := requests.Load()
		cold += timed(client(i))
		between := requests.Load()
		again := client(i)
		warm += timed(again)
		message += timed(again)
		coldRequests += between - before
		warmRequests += requests.Load() - between
	}
	before := requests.Load()
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
	thousand := func(requests int64, sessions int) float64 { return 1000 * float64(requests) / float64(sessions) }
	b.ReportMetric(cold.Seconds()*1e3/benchOneByOne, "cold-ms")
	b.ReportMetric(warm.Seconds()*1e3/benchOneByOne, "warm-ms")
	b.ReportMetric(cold.Seconds()/warm.Seconds(), "cold/warm")
	b.ReportMetric(message.Seconds()/warm.Seconds(), "message/warm")
	b.ReportMetric(thousand(coldRequests, benchOneByOne), "one-by-one-req/k")
	b.ReportMetric(thousand(warmRequests, benchOneByOne), "warm-req/k")
	b.ReportMetric(thousand(requests.Load()-before, benchAtOnce), "at-once-req/k")
	b.ReportMetric(0, "ns/op") // means nothing here
}

// newCountedDeployment makes a server whose requests to Vault are counted, and gives a device the keys of all entities that
// the benchmark needs.
func newCountedDeployment(b *testing.B) (*deployment, *atomic.Int64) {
	b.Helper()
	f := &deployment{vault: vaulttest.Start(b, vaulttest.Options{})}
	to, err := url.Parse(f.vault.Address)
	if err != nil {
		b.Fatal(err)
	}
	requests := new(atomic.Int64)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(front.Close)
	f.front = front.URL
	f.system = newSystem(b, 10*time.Second, "")
	f.makeHSMKeys()
	f.openVault()
	path := tool(b, "mslkeep-agent")
	device, err := agent.Start(b.Context(), agent.Config{Path: path, SHA256: sum(b, path), Args: []string{"--config", f.path("device/agent.toml"), "--manage"}})
	if err != nil {
		b.Fatal(err)
	}
	defer device.Close()
	f.importRecords(func(i int, key []byte) {
		if i > benchOneByOne+benchAtOnce && i != records-1 {
			return
		}
		write(b, f.path("psk"), hex.EncodeToString(key))
		if _, err := device.ImportKey(b.Context(), fmt.Sprintf("psk/device-%04d", i), "keyset", f.path("psk"), "hex"); err != nil {
			b.Fatal(err)
		}
	})
	f.agent = f.serveAs("server/full.toml")
	return f, requests
}
