// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "simulate this seed only")
	seedsFlag     = flag.Uint64("seeds", 0, "simulate the seeds from 1 to this one")
	exchangesFlag = flag.Int("exchanges", 0, "operations per seed; 0: as many as there is time for")
	traceFlag     = flag.String("trace-file", "", "write all steps to this `file`")
)

// exchanges is how many operations a seed has if nothing else is asked for.
func exchanges() int {
	switch {
	case *exchangesFlag > 0:
		return *exchangesFlag
	case testing.Short():
		return 500
	case raceEnabled: // all takes ten times as long
		return 2000
	}
	return 10_000
}

// An outcome is how a simulation ended.
type outcome struct {
	sum     uint64
	steps   int
	failed  []error
	last    string
	results map[string]int
}

func simulate(t *testing.T, seed uint64, exchanges int) (o outcome) {
	t.Helper()
	inproc.Provider(t, nil)                         // what is made once only takes no randomness of the seed then
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // of two goroutines that one step has set going, the first is first
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t, seed)
		if *traceFlag != "" {
			f, err := os.Create(*traceFlag)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s.trace.full = f
		}
		o.failed = s.run(exchanges)
		o.sum, o.steps, o.last, o.results = s.trace.sum.Sum64(), s.trace.count, s.trace.last(), s.results()
	})
	return o
}

// results says how many operations ended how.
func (s *simulation) results() map[string]int {
	n := s.seen
	for _, o := range s.operations {
		if o.err == nil {
			n["succeeded"]++
		} else {
			n["failed"]++
			n[fmt.Sprintf("failed: %.100s", o.err)]++
		}
	}
	return n
}

// TestSimulation simulates one seed, or those that the flags name. No invariant may be broken.
func TestSimulation(t *testing.T) {
	first, last := uint64(1), max(1, *seedsFlag)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulateOne(t, seed, exchanges()) })
	}
}

func simulateOne(t *testing.T, seed uint64, exchanges int) {
	began := time.Now()
	o := simulate(t, seed, exchanges)
	if *seedFlag != 0 {
		for _, key := range slices.Sorted(maps.Keys(o.results)) {
			t.Logf("%6d %s", o.results[key], key)
		}
	}
	t.Logf("seed %d: %d succeeded, %d failed in %d steps, in %v", seed, o.results["succeeded"], o.results["failed"], o.steps, time.Since(began).Round(time.Millisecond))
	if o.results["succeeded"] < o.results["failed"] {
		t.Error("most operations failed: this shows nothing")
	}
	for _, what := range mustBeSeen {
		if exchanges >= 5000 && o.results[what] == 0 && len(o.failed) == 0 {
			t.Errorf("there was no %s", what)
		}
	}
	for _, err := range o.failed {
		t.Error(err)
	}
	if len(o.failed) > 0 {
		t.Logf("to run it again: go test ./internal/msltest/sim -run TestSimulation -seed %d -exchanges %d\nthe last steps:\n%s", seed, exchanges, o.last)
	}
}

// mustBeSeen is what happens in every long simulation, or it does not show what it should.
var mustBeSeen = []string{
	"SYMMETRIC_WRAPPED", "ASYMMETRIC_WRAPPED", "JWK_LADDER", "JWE_LADDER", "DIFFIE_HELLMAN", "EMAIL_PASSWORD", "USER_ID_TOKEN",
	"non-replayable id: MESSAGE_REPLAYED", "non-replayable id: MESSAGE_REPLAYED_UNRECOVERABLE",
	"MASTERTOKEN_UNTRUSTED", "MASTERTOKEN_IDENTITY_REVOKED", "USERIDTOKEN_REVOKED", "MESSAGE_EXPIRED_NOT_RENEWABLE",
}

// TestDeterministic: a seed does the same each time, to the last step.
func TestDeterministic(t *testing.T) {
	n := min(1000, exchanges()/4)
	first, again := simulate(t, 1234, n), simulate(t, 1234, n)
	if first.sum != again.sum || first.steps != again.steps {
		t.Errorf("%d steps with the sum %x, then %d with %x", first.steps, first.sum, again.steps, again.sum)
	}
}
