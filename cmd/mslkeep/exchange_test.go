// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"syscall"
	"testing"
)

// The groups of the agents: one of RFC 3526, and the first of RFC 2409, which is too small unless it is allowed.
const worldGroups = `allow = ["RSA", "JWK_RSAES", "DIFFIE_HELLMAN/old"]
[[dh-groups]]
id = "good"
group = "modp2048"
[[dh-groups]]
id = "old"
p = """
  FFFFFFFF FFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1 29024E08 8A67CC74 020BBEA6 3B139B22 514A0879 8E3404DD
  EF9519B3 CD3A431B 302B0A6D F25F1437 4FE1356D 6D51C245 E485B576 625E7EC6 F44C42E9 A63A3620 FFFFFFFF FFFFFFFF"""
g = "2"
`

const everyExchange = `"SYMMETRIC_WRAPPED/PSK", "JWE_LADDER/WRAP", "JWE_LADDER/PSK", "JWK_LADDER/WRAP", "JWK_LADDER/PSK", "DIFFIE_HELLMAN/good",
"DIFFIE_HELLMAN/old", "ASYMMETRIC_WRAPPED/JWE_RSA", "ASYMMETRIC_WRAPPED/JWK_RSA", "ASYMMETRIC_WRAPPED/JWEJS_RSA", "ASYMMETRIC_WRAPPED/RSA", "ASYMMETRIC_WRAPPED/JWK_RSAES"`

// exchangingWorld is a world whose agents allow every key exchange, and whose server issues master tokens that
// may be renewed at once, so that every message renews its own.
func exchangingWorld(t *testing.T) *world {
	w := newWorld(t)
	w.logKeys()
	for _, who := range []string{"server", "device-1", "device-2", "device-3"} {
		name := who + "/agent.toml"
		w.write(name, w.read(name)+worldGroups)
	}
	w.edit("server/serve.toml", "[msl]\n", "[msl]\nmaster-token-renewal = \"1ms\"\nkey-exchanges = ["+everyExchange+"]\n")
	return w
}

// TestEveryKeyExchange has each key exchange as the only one that is offered, by every kind of entity that can
// use it, for the first master token, and to renew it.
func TestEveryKeyExchange(t *testing.T) {
	t.Parallel()
	w := exchangingWorld(t)
	s := w.serve()
	protocol, agents := []*process{s}, []int{s.agent}
	for _, x := range []struct{ exchange, devices, refused string }{
		{"SYMMETRIC_WRAPPED/PSK", "device-1", "device-2"},
		{"JWE_LADDER/PSK", "device-1", "device-2"},
		{"JWK_LADDER/PSK", "device-1", "device-2"},
		{"JWE_LADDER/WRAP", "", "device-1 device-2"}, // there is nothing to go on from
		{"DIFFIE_HELLMAN/good", "device-1 device-2 device-3", ""},
		{"DIFFIE_HELLMAN/old", "device-1 device-2", ""},
		{"DIFFIE_HELLMAN/none", "", "device-1 device-2"},
		{"ASYMMETRIC_WRAPPED/JWE_RSA", "device-1 device-2", ""},
		{"ASYMMETRIC_WRAPPED/JWK_RSA", "device-1 device-2", ""},
		{"ASYMMETRIC_WRAPPED/JWEJS_RSA", "device-1 device-2", ""},
		{"ASYMMETRIC_WRAPPED/RSA", "device-1 device-2", ""},
		{"ASYMMETRIC_WRAPPED/JWK_RSAES", "device-1 device-2", ""},
	} {
		for _, device := range strings.Fields(x.devices) {
			p := w.sender(device, s, "--key-exchange", x.exchange)
			for i := range 3 {
				r := p.say("hello")
				if !r.KeyExchange || !r.Encrypted || i > 0 && !r.MasterToken {
					t.Errorf("%s by %s, message %d: %+v", x.exchange, device, i, r)
				}
				if i == 0 {
					agents = append(agents, r.AgentPID)
				}
			}
			protocol = append(protocol, p)
		}
		for _, device := range strings.Fields(x.refused) {
			if r := w.send(device, s, "--key-exchange", x.exchange, "hello"); r.code == 0 {
				t.Errorf("%s by %s: %s", x.exchange, device, r.out)
			}
		}
	}
	w.scan(protocol, agents...)
}

// TestLadder goes on with a ladder after a restart of the client, and after one of its agent. No wrapping key is
// in a protocol process.
func TestLadder(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"JWE_LADDER", "JWK_LADDER"} {
		t.Run(scheme, func(t *testing.T) {
			w := exchangingWorld(t)
			s := w.serve()
			store := []string{"--store", w.path("device-1/store"), "--key-exchange"}
			first := w.sender("device-1", s, append(store, scheme+"/WRAP,"+scheme+"/PSK")...)
			for range 3 {
				if r := first.say("hello"); !r.KeyExchange {
					t.Errorf("%+v", r)
				}
			}
			first.stop()
			// The pre-shared key is not offered any more.
			next := w.sender("device-1", s, append(store, scheme+"/WRAP")...)
			device := 0
			for range 3 {
				r := next.say("hello")
				if !r.KeyExchange || !r.MasterToken {
					t.Errorf("after the client's restart: %+v", r)
				}
				device = r.AgentPID
			}
			w.scan([]*process{s, next}, s.agent, device)
			if err := syscall.Kill(device, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, recovery, "messages succeed", func() bool { r := next.try("hello"); return r.Error == "" && r.KeyExchange })
			if r := next.say("hello"); !r.KeyExchange || r.AgentPID == device {
				t.Errorf("after the agent's restart: %+v", r)
			}
			next.stop()
			// A ladder of the other scheme is none to go on from.
			other := strings.NewReplacer("JWE", "JWK", "JWK", "JWE").Replace(scheme)
			if r := w.send("device-1", s, append(store, other+"/WRAP", "hello")...); r.code == 0 {
				t.Errorf("%s went on from %s: %s", other, scheme, r.out)
			}
			if log := w.read("device-1/key.log"); strings.Count(log, "wrap_device-1 ") < 3 {
				t.Error("the scan has not looked for wrapping keys")
			}
		})
	}
}

// TestLadderOfAnotherServer falls back to the pre-shared key when wrapdata is of no use any more.
func TestLadderOfAnotherServer(t *testing.T) {
	t.Parallel()
	w := exchangingWorld(t)
	s := w.serve()
	p := w.sender("device-1", s, "--key-exchange", "JWK_LADDER/WRAP,JWK_LADDER/PSK")
	p.say("hello")
	address := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/")
	s.stop()
	w.edit("server/agent.toml", "\"token-keys\"", "\"other-keys\"")
	execute(t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("server/agent.toml")).ok(t)
	w.serve("--listen", address)
	if r := p.say("hello"); !r.KeyExchange {
		t.Errorf("%+v", r)
	}
	if r := p.say("hello"); !r.KeyExchange || !r.MasterToken {
		t.Errorf("%+v", r)
	}
}
