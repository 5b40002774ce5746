// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

const (
	established = 64 // clients with a session
	newcomers   = 4  // who make one session after the other
	pace        = 20 * time.Millisecond
	outages     = 12 // at most
	soonAfter   = 2 * time.Second
)

// A load is what a system has to do while things happen to its HSM: clients with sessions, which must notice nothing,
// others that come anew, some with tokens that the agent has not seen, and somebody who forges messages.
type load struct {
	t      *testing.T
	system *system
	fleet  *fleet

	running    sync.WaitGroup
	stop       atomic.Bool
	phase      atomic.Int64 // odd while the HSM may be away
	messages   atomic.Int64 // of established sessions
	sessions   atomic.Int64 // new ones
	refused    atomic.Int64 // new ones that failed as they may
	forgeries  atomic.Int64
	genuine    atomic.Int64
	slowest    atomic.Int64 // nanoseconds that a new session took at most while nothing happened
	forgedFrom *recorded

	sleepers []*msl.Client // whose tokens are of an earlier life of the agent
}

func startLoad(t *testing.T, s *system) *load {
	t.Helper()
	l := &load{t: t, system: s, fleet: s.newFleet()}
	for range outages {
		c := l.fleet.client(t)
		if err := say(t.Context(), c, []byte("good night")); err != nil {
			t.Fatal(err)
		}
		l.sleepers = append(l.sleepers, c)
	}
	s.service.end(syscall.SIGTERM)
	s.startService()
	l.forgedFrom = l.fleet.record(t)
	for i := range established {
		c := l.fleet.client(t)
		if err := say(t.Context(), c, []byte("hello")); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		l.running.Go(func() { l.talk(c) })
	}
	for range newcomers {
		l.running.Go(l.come)
	}
	l.running.Go(l.forge)
	t.Cleanup(l.end)
	l.proceed("before anything happens")
	return l
}

// end stops everything and waits for it.
func (l *load) end() {
	l.stop.Store(true)
	l.running.Wait()
	for _, c := range l.sleepers {
		c.Close()
	}
	l.fleet.close()
}

// talk sends messages of an established session, all of which must succeed.
func (l *load) talk(c *msl.Client) {
	defer c.Close()
	for size := 1; !l.stop.Load(); size = size*3%9_991 + 1 {
		if err := l.say(c, bytes.Repeat([]byte{byte(size)}, size)); err != nil {
			l.t.Errorf("an established session: %v", err)
			return
		}
		l.messages.Add(1)
		time.Sleep(2 * pace)
	}
}

// took notes how long a new session took.
func (l *load) took(d time.Duration) {
	for {
		slowest := l.slowest.Load()
		if int64(d) <= slowest || l.slowest.CompareAndSwap(slowest, int64(d)) {
			return
		}
	}
}

func (l *load) say(c *msl.Client, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return say(ctx, c, data)
}

// come makes new sessions. They may fail only while the HSM is away, and only so that the client may try again.
func (l *load) come() {
	for ; !l.stop.Load(); time.Sleep(pace) {
		phase, began := l.phase.Load(), time.Now()
		c := l.fleet.client(l.t)
		err := l.say(c, []byte("hello"))
		c.Close()
		calm := phase%2 == 0 && phase == l.phase.Load()
		if calm {
			l.took(time.Since(began))
		}
		switch {
		case err == nil:
			l.sessions.Add(1)
		case transient(err) && !calm:
			l.refused.Add(1)
		case transient(err):
			l.t.Errorf("a new session while the HSM is there: %v", err)
		default:
			l.t.Errorf("a new session: %v", err)
			return
		}
	}
}

// forge posts messages that nobody has sent, none of which may be accepted, and between them one that somebody
// has, which must be: so it is known that these are messages.
func (l *load) forge() {
	forged := l.forgedFrom.forgeries(l.t)
	for i := 0; !l.stop.Load(); i = (i + 1) % len(forged) {
		if l.post(forged[i]) {
			l.t.Errorf("forgery %d was accepted", i)
		}
		l.forgeries.Add(1)
		if !l.post(l.forgedFrom.body) {
			l.t.Error("a genuine message was not accepted")
		}
		l.genuine.Add(1)
		time.Sleep(pace)
	}
}

func (l *load) post(body []byte) (accepted bool) {
	answer, err := l.fleet.post(body)
	if err != nil {
		l.t.Errorf("posting a message: %v", err)
	}
	return bytes.Contains(answer, []byte(`"headerdata"`))
}

// proceed waits until a number of new sessions were made, and each client could have sent something.
func (l *load) proceed(when string) {
	l.t.Helper()
	sessions, messages, forgeries := l.sessions.Load(), l.messages.Load(), l.forgeries.Load()
	eventually(l.t, when+": new sessions, messages", func() bool {
		return l.sessions.Load() >= sessions+10 && l.messages.Load() >= messages+established && l.forgeries.Load() >= forgeries+4
	})
}

// quiet does something that nobody may notice.
func (l *load) quiet(what string, do func()) {
	l.t.Helper()
	do()
	l.proceed(what)
}

// outage does something that keeps new sessions from being made, waits for the signs of it, and ends it.
func (l *load) outage(what string, begin func(), seen func() bool, end func()) {
	l.t.Helper()
	l.phase.Add(1)
	began := time.Now()
	begin()
	eventually(l.t, what+": its signs", seen)
	sleeper := l.sleepers[0]
	l.sleepers = l.sleepers[1:]
	defer sleeper.Close()
	early := l.say(sleeper, []byte("good morning"))
	if early != nil && !transient(early) {
		l.t.Errorf("%s: a token that is new to the agent: %v", what, early)
	}
	end()
	lasted := time.Since(began)
	// Within two seconds, and the time that a session takes on this machine.
	soon := lasted + soonAfter + 2*time.Duration(l.slowest.Load())
	for good := 0; good < 3; { // in a row
		c := l.fleet.client(l.t)
		err := l.say(c, []byte("are you there?"))
		c.Close()
		good++
		if err == nil && good == 1 && time.Since(began) > soon {
			l.t.Errorf("%s: the first new session %v after its end", what, time.Since(began)-lasted)
		}
		if err == nil {
			continue
		}
		if good = 0; !transient(err) || time.Since(began) > lasted+patience {
			l.t.Fatalf("%s: %v after its end: %v", what, time.Since(began)-lasted, err)
		}
	}
	if exchanged, err := exchange(l.t.Context(), sleeper, []byte("good morning")); err != nil || exchanged {
		l.t.Errorf("after: %s: a token that is new to the agent: %v, exchanged keys: %v", what, err, exchanged)
	}
	l.t.Logf("%-28s for %5.2f s; three new sessions %5.2f s after its end", what, lasted.Seconds(), (time.Since(began) - lasted).Seconds())
	l.phase.Add(1)
	l.proceed("after: " + what)
}

// refusals returns a function that tells whether some new sessions have been refused since, for a second at least.
func (l *load) refusals() func() bool {
	before, began := l.refused.Load(), time.Now()
	return func() bool { return l.refused.Load() >= before+8 && time.Since(began) > time.Second }
}
