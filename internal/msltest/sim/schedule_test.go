// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// A kind says at what sort of point a goroutine waits, and so what may befall it there.
type kind uint8

const (
	atCall     kind = iota // a call of an agent
	atRequest              // a message is on its way to a server that answers one message at a time
	atResponse             // and its answer is
	atWrite                // bytes are written to a connection
	atDial                 // a connection is made
	atClose                // an exchange ends
	atArrival              // a message reaches a server
)

// A fate is what the schedule decides to happen at a point.
type fate struct {
	what  happening
	where float64 // in what is being sent, from 0 to 1
	which uint64  // of several
}

type happening uint8

const (
	nothing   happening = iota
	failure             // the operation fails
	loss                // it seems to succeed, but nothing of it arrives
	cut                 // the rest does not arrive
	corrupted           // a byte is changed
	repeated            // it arrives twice
	misled              // it arrives at another server
	replaced            // something arrives in its place that was sent before
)

var happenings = [...]string{"goes on", "fails", "is lost", "is cut", "is corrupted", "is repeated", "is misled", "is replaced"}

// A point is where a goroutine waits until the schedule lets it go on.
type point struct {
	label   string // which it is, so that the order among those that came at once does not matter
	kind    kind
	proceed chan fate
}

// A schedule decides what happens next. Its owner is the goroutine of the test; others only wait at points.
type schedule struct {
	rng   *rand.Rand
	calm  bool // nothing bad happens
	trace trace

	mu     sync.Mutex
	points []*point
	errs   []error // invariants that do not hold
}

func newSchedule(seed uint64) *schedule {
	return &schedule{rng: rand.New(rand.NewPCG(seed, 0x6d736c)), trace: trace{sum: fnv.New64a()}}
}

// wait waits at a point.
func (s *schedule) wait(label string, k kind) fate {
	p := &point{label, k, make(chan fate)}
	s.mu.Lock()
	s.points = append(s.points, p)
	s.mu.Unlock()
	return <-p.proceed
}

// broken notes that an invariant does not hold.
func (s *schedule) broken(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 20 {
		s.errs = append(s.errs, fmt.Errorf(format, args...))
	}
}

func (s *schedule) failed() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errs
}

// step lets a goroutine that waits go on until it, and whatever that sets going, waits again. It reports
// false if there is none.
func (s *schedule) step() bool {
	s.mu.Lock()
	if len(s.points) == 0 {
		s.mu.Unlock()
		return false
	}
	slices.SortStableFunc(s.points, func(a, b *point) int { return strings.Compare(a.label, b.label) })
	i := s.rng.IntN(len(s.points))
	p := s.points[i]
	s.points = slices.Delete(s.points, i, i+1)
	s.mu.Unlock()
	f := s.fate(p.kind)
	s.trace.note("%s %s", p.label, happenings[f.what])
	p.proceed <- f
	synctest.Wait()
	return true
}

// pass lets time pass, for whatever waits for that.
func (s *schedule) pass(d time.Duration) {
	s.trace.note("%v passes", d)
	time.Sleep(d)
	synctest.Wait()
}

// odds are in how many of 1000 cases something happens at a point.
type odds struct {
	what happening
	in   int
}

var oddsAt = [...][]odds{
	atCall:     {{failure, 1}},
	atRequest:  {{failure, 8}, {loss, 8}, {cut, 8}, {corrupted, 12}, {repeated, 20}, {misled, 4}},
	atResponse: {{loss, 8}, {cut, 8}, {corrupted, 12}, {replaced, 8}},
	atWrite:    {{failure, 4}, {loss, 4}, {cut, 4}, {corrupted, 6}},
	atDial:     {{failure, 10}},
	atClose:    {},
	atArrival:  {},
}

func (s *schedule) fate(k kind) fate {
	f := fate{where: s.rng.Float64(), which: s.rng.Uint64()}
	if s.calm {
		return f
	}
	n := s.rng.IntN(1000)
	for _, o := range oddsAt[k] {
		if n -= o.in; n < 0 {
			f.what = o.what
			break
		}
	}
	return f
}

// one reports true in one of n cases.
func (s *schedule) one(n int) bool { return s.rng.IntN(n) == 0 }

// A trace is what has happened, of which the last lines are kept.
type trace struct {
	sum   hash.Hash64
	lines []string
	count int
	full  io.Writer // gets all lines, if not nil
	ended bool
}

const traceLines = 400

func (t *trace) note(format string, args ...any) {
	if t.ended {
		return
	}
	line := fmt.Sprintf(format, args...)
	t.sum.Write([]byte(line))
	if len(t.lines) == 2*traceLines {
		t.lines = append(t.lines[:0], t.lines[traceLines:]...)
	}
	t.lines = append(t.lines, line)
	if t.full != nil {
		fmt.Fprintln(t.full, line)
	}
	t.count++
}

func (t *trace) last() string { return strings.Join(t.lines[max(0, len(t.lines)-traceLines):], "\n") }

type labelKey struct{}

func labelled(ctx context.Context, label string) context.Context {
	return context.WithValue(ctx, labelKey{}, label)
}

func labelOf(ctx context.Context) string {
	label, _ := ctx.Value(labelKey{}).(string)
	return label
}
