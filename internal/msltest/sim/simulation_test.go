// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// A simulation is all there is.
type simulation struct {
	*schedule
	now     atomic.Int64 // of all clocks that are right, in Unix milliseconds
	servers []*server
	clients []*client
	hosts   []*host
	conns   sync.WaitGroup
	started int

	operations []*operation // guarded by schedule.mu, as are
	active     int
	seen       map[string]int
}

const pskClients = 6

// newSimulation makes the networks: two servers that trust no token of each other, their clients, and two networks of
// peers.
func newSimulation(t testing.TB, seed uint64) *simulation {
	s := &simulation{schedule: newSchedule(seed), seen: make(map[string]int)}
	s.now.Store(time.Unix(1_700_000_000, 0).UnixMilli())
	devices := map[string]inproc.KeySet{}
	for i := range pskClients {
		devices[pskName(i)] = randomKeys()
	}
	devices["service"+nameEnd] = randomKeys()
	device := newCustody(t, devices, 64)
	few := newCustody(t, devices, 3) // sessions, so that they are evicted all the time
	near, far := newCustody(t, devices, 64), newCustody(t, devices, 4)

	rsaServer, pskServer := msl.RSA("main"+nameEnd, "rsa-server-key"), msl.PSK("service"+nameEnd)
	one := s.addServer(t, "main", few, rsaServer, false)
	two := s.addServer(t, "second", far, pskServer, false)
	symmetric := []msl.KeyExchange{{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK"}}
	asymmetric := []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"}}
	ladder := func(scheme string) []msl.KeyExchange {
		return []msl.KeyExchange{{Scheme: scheme, Mechanism: "WRAP"}, {Scheme: scheme, Mechanism: "PSK"}}
	}
	s.addClient(device, one, msl.PSK(pskName(0)), symmetric, 10, false)
	s.addClient(few, one, msl.PSK(pskName(1)), ladder("JWK_LADDER"), 10, false)
	s.addClient(device, one, msl.PSK(pskName(2)), ladder("JWE_LADDER"), 10, true)
	s.addClient(device, one, msl.RSA("first"+nameEnd, "rsa-client-key"), asymmetric, 8, false)
	s.addClient(device, one, msl.RSA("other"+nameEnd, "rsa-client-key"), []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"}}, 8, true)
	s.addClient(device, one, msl.None("nobody"+nameEnd), []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWEJS_RSA"}}, 8, false)
	s.addClient(device, one, msl.None("someone"+nameEnd), []msl.KeyExchange{{Scheme: "DIFFIE_HELLMAN", Mechanism: "dh2048"}}, 1, true)
	s.addClient(device, two, msl.PSK(pskName(3)), symmetric, 8, true)
	s.addClient(device, two, msl.RSA("third"+nameEnd, "rsa-client-key"), asymmetric, 4, false)

	peer := s.addServer(t, "peer", far, pskServer, true)
	s.addClient(near, peer, msl.PSK(pskName(4)), symmetric, 8, true)
	s.addClient(near, peer, msl.PSK(pskName(5)), ladder("JWK_LADDER"), 8, true)
	open := s.addServer(t, "open", near, msl.None("open"+nameEnd), true)
	s.addClient(far, open, msl.RSA("fourth"+nameEnd, "rsa-client-key"), asymmetric, 4, true)
	return s
}

func pskName(i int) string { return fmt.Sprint("device-", "abcdef"[i:i+1], nameEnd) }

// common is what all configurations have.
func (s *simulation) common(c *clock, own msl.EntityAuthData, peers bool) *msl.Config {
	keys := make(map[string]*rsa.PublicKey)
	for id, pair := range inproc.Fixtures().RSAStore {
		k, err := x509.ParsePKIXPublicKey(inproc.Fixtures().KeyPairs[pair].SPKI)
		if err != nil {
			panic(err)
		}
		keys[id] = k.(*rsa.PublicKey)
	}
	return &msl.Config{
		PeerToPeer: peers, Entity: own, EntitySchemes: []string{"PSK", "RSA", "NONE"}, Clock: c.now,
		RSAPublicKeys: keys,
		RSAIdentities: map[string][]string{
			"rsa-server-key": {"main" + nameEnd},
			"rsa-client-key": {"first" + nameEnd, "other" + nameEnd, "third" + nameEnd, "fourth" + nameEnd},
		},
		ServiceTokenKeys:   map[string]string{"": "default"},
		MasterTokenRenewal: 5 * time.Minute, MasterTokenLifetime: 15 * time.Minute,
		UserIDTokenRenewal: 4 * time.Minute, UserIDTokenLifetime: 10 * time.Minute,
		Users: accounts{}, UserSchemes: []string{"EMAIL_PASSWORD", "USER_ID_TOKEN"},
		KeyExchanges: []msl.KeyExchange{
			{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK"}, {Scheme: "JWK_LADDER", Mechanism: "WRAP"}, {Scheme: "JWK_LADDER", Mechanism: "PSK"},
			{Scheme: "JWE_LADDER", Mechanism: "WRAP"}, {Scheme: "JWE_LADDER", Mechanism: "PSK"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"},
			{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWK_RSA"}, {Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWEJS_RSA"}, {Scheme: "DIFFIE_HELLMAN", Mechanism: "dh2048"},
		},
	}
}

func (s *simulation) addServer(t testing.TB, name string, a *custody.Agent, own msl.EntityAuthData, peers bool) *server {
	v := &server{sim: s, name: name, clock: &clock{sim: s}, known: make(map[string]bool), accepted: make(map[string]int)}
	v.config = s.common(v.clock, own, peers)
	if peers {
		v.config.KeyExchanges = peerExchanges(own)
	}
	v.host, v.keys = s.host(a)
	s.hosts = append(s.hosts, v.host)
	t.Cleanup(func() { v.host.peer.Close() })
	v.start()
	s.servers = append(s.servers, v)
	return v
}

// peerExchanges are what one who answers among peers offers and accepts.
func peerExchanges(own msl.EntityAuthData) []msl.KeyExchange {
	if own.Scheme != "PSK" {
		return []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA"}}
	}
	return []msl.KeyExchange{
		{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK"}, {Scheme: "JWK_LADDER", Mechanism: "WRAP"}, {Scheme: "JWK_LADDER", Mechanism: "PSK"},
	}
}

func (s *simulation) addClient(a *custody.Agent, v *server, own msl.EntityAuthData, exchanges []msl.KeyExchange, weight int, stream bool) {
	c := &client{sim: s, name: own.Identity(), server: v, weight: weight, clock: &clock{sim: s}, users: []string{"ada", "bob"}}
	v.known[c.name] = true
	c.config = s.common(c.clock, own, v.config.PeerToPeer)
	c.config.KeyExchanges = exchanges
	if v.config.PeerToPeer {
		c.config.KeyExchanges = append(exchanges, peerExchanges(v.config.Entity)...)
	}
	c.config.RemoteIdentity = v.config.Entity.Identity()
	c.host, c.keys = s.host(a)
	s.hosts = append(s.hosts, c.host)
	c.store = &store{s: s.schedule, name: c.name, gone: make(map[int64]bool)}
	if stream {
		l := &line{server: v, name: c.name}
		c.stream = &msl.StreamTransport{Dial: l.dial}
	}
	c.start()
	s.clients = append(s.clients, c)
}

// saw counts that something has happened.
func (s *simulation) saw(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[what]++
}

// caught notes a panic.
func (s *simulation) caught(where string) {
	if v := recover(); v != nil {
		s.broken("%s has panicked: %v\n%s", where, v, debug.Stack())
	}
}

// close ends everything.
func (s *simulation) close() {
	for _, v := range s.servers {
		v.stop()
	}
	s.drain()
	for _, c := range s.clients {
		c.client.Close()
		if c.stream != nil {
			c.stream.CloseIdle()
		}
	}
	for range 100 {
		for s.step() {
		}
		s.pass(time.Minute)
	}
	s.conns.Wait()
	synctest.Wait()
	for _, h := range s.hosts {
		h.peer.Close()
	}
}
