// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"testing/synctest"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// patience is how long nothing may happen in an operation that nobody holds up.
const patience = 15 * time.Minute

// run has clients carry out so many operations, with a calm period now and then, until an invariant does not hold.
func (s *simulation) run(exchanges int) []error {
	for s.started < exchanges && len(s.failed()) == 0 {
		if s.started%500 == 499 {
			s.calmDown()
		}
		switch n := s.rng.IntN(1000); {
		case n < 10:
			s.mischief()
		case n < 80 || s.idle() && n < 500:
			s.begin()
		case s.step():
		default:
			s.pass(time.Duration(s.rng.Int64N(int64(20 * time.Second))))
		}
	}
	if len(s.failed()) == 0 {
		s.calmDown()
	}
	s.calm = true
	s.trace.ended = true
	s.close()
	return s.failed()
}

func (s *simulation) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active == 0
}

// begin begins an operation of a client that has time.
func (s *simulation) begin() {
	var free []*client
	for _, c := range s.clients {
		if c.active < maxActive {
			for range c.weight {
				free = append(free, c)
			}
		}
	}
	if len(free) == 0 {
		s.step()
		return
	}
	s.start(s.newOperation(free[s.rng.IntN(len(free))]))
}

func (s *simulation) start(o *operation) {
	s.now.Add(s.rng.Int64N(3000))
	if s.one(20) {
		s.now.Add(s.rng.Int64N(10 * 60_000))
	}
	s.trace.note("%s begins at %d", o, s.now.Load())
	s.started++
	s.mu.Lock()
	s.active++
	o.client.active++
	s.mu.Unlock()
	go o.run()
	synctest.Wait()
}

// mischief does something bad to somebody.
func (s *simulation) mischief() {
	c, v := s.clients[s.rng.IntN(len(s.clients))], s.servers[s.rng.IntN(len(s.servers))]
	n := s.rng.IntN(15)
	s.trace.note("mischief %d: %s, %s", n, c.name, v.name)
	switch n {
	case 0: // a clock jumps
		c.clock.offset.Store(s.jump())
	case 1:
		v.clock.offset.Store(s.jump())
	case 2: // a client starts anew
		if c.active == 0 {
			c.start()
		}
	case 3: // a server starts anew, and has forgotten what was not to be replayed
		s.restart(v)
	case 4: // an agent starts anew
		s.hosts[s.rng.IntN(len(s.hosts))].forget()
	case 5: // or goes away, or comes back
		s.hosts[s.rng.IntN(len(s.hosts))].setAway(s.one(2))
	case 6:
		c.store.fail(s.one(2))
	case 7:
		s.revoke(c, v)
	case 8:
		s.replay(v)
	case 9:
		c.snapshot()
	case 10, 11, 12, 13: // somebody loses patience
		s.cancelOne()
	case 14:
		if c.stream != nil {
			c.stream.CloseIdle()
		}
	}
	synctest.Wait()
}

func (s *simulation) jump() int64 {
	switch s.rng.IntN(3) {
	case 0:
		return 0
	case 1:
		return s.rng.Int64N(20*60_000) - 10*60_000
	}
	return s.rng.Int64N(4*24*3600_000) - 2*24*3600_000
}

// restart starts a server anew. Its clock may be wrong, but not have gone back since: nothing would tell it which tokens are from
// before.
func (s *simulation) restart(v *server) {
	if back := v.clock.latest.Load() - v.clock.now().UnixMilli(); back > 0 {
		v.clock.offset.Add(back)
	}
	v.start()
}

// revoke revokes a token that a client has.
func (s *simulation) revoke(c *client, v *server) {
	state, err := c.store.MemoryStore.Load(context.Background())
	if err != nil || len(state.MasterToken) == 0 {
		return
	}
	token, err := msl.ParseMasterToken(state.MasterToken)
	if err != nil {
		return
	}
	serial := token.SerialNumber
	for _, user := range c.users {
		if u, err := msl.ParseUserIDToken(state.UserIDTokens[user], token); err == nil && s.one(2) {
			serial = u.SerialNumber
		}
	}
	c.server.policy.revoke(serial)
}

// replay sends a server again what was sent to it before.
func (s *simulation) replay(v *server) {
	n := s.rng.IntN(1 << 16)
	if len(v.requests) > 0 {
		request := v.requests[n%len(v.requests)]
		s.conns.Go(func() { v.answer(fmt.Sprint("replay ", s.started), request) })
	}
	if len(v.recordings) > 0 {
		recorded := v.recordings[n%len(v.recordings)].Bytes()
		there, back := newFlow(), newFlow()
		there.add(recorded)
		there.finish(errReset)
		v.serve(fmt.Sprint("replayed line ", s.started), &conn{s, fmt.Sprint("replay ", s.started, " <"), there, back, nil})
	}
}

func (s *simulation) cancelOne() {
	if active := s.unfinished(); len(active) > 0 {
		active[s.rng.IntN(len(active))].cancel()
	}
}

func (s *simulation) unfinished() (active []*operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.operations[max(0, len(s.operations)-1000):] {
		if !o.done {
			active = append(active, o)
		}
	}
	return active
}

// drain lets all operations end.
func (s *simulation) drain() {
	for waited := time.Duration(0); !s.idle(); {
		if s.step() {
			waited = 0
			continue
		}
		if waited > patience {
			for _, o := range s.unfinished() {
				s.broken("%s does not end", o)
				o.cancel()
			}
			waited = 0
		}
		s.pass(10 * time.Second)
		waited += 10 * time.Second
	}
}

// calmDown ends all mischief, and expects of all clients that they succeed.
func (s *simulation) calmDown() {
	s.trace.note("calm")
	s.calm = true
	s.drain()
	for s.step() {
	}
	for _, h := range s.hosts {
		h.setAway(false)
	}
	for _, c := range s.clients {
		c.store.fail(false)
		tries := 1
		if c.config.PeerToPeer {
			tries = 4 // each side may have lost what it knew of the other, and learn so by an error message
		}
		var o *operation
		for range tries {
			o = s.calmOperation(c)
			s.start(o)
			s.drain()
			if o.err == nil {
				break
			}
		}
		if o.err != nil {
			s.broken("when all is calm, %s fails: %w", o, o.err)
		} else if o.heard == "" && !o.oneWay && o.encrypted() {
			s.broken("when all is calm, %s hears nothing", o)
		}
	}
	s.calm = false
	s.mu.Lock()
	for _, o := range s.operations {
		if o.done {
			o.text = o.text[:min(len(o.text), 40)]
		}
	}
	s.mu.Unlock()
}
