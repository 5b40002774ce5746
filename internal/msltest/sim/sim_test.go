// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "simulate this seed only; 0: those that the test has")
	seedsFlag     = flag.Int("seeds", 0, "simulate seeds 1 to this one, with progress")
	traceFlag     = flag.String("trace-file", "", "write all steps to this file")
	exchangesFlag = flag.Int("exchanges", 10_000, "operations per seed")
)

// An outcome is how a simulation ended.
type outcome struct {
	sum     uint64
	steps   int
	failed  []error
	last    string
	results map[string]int
}

func simulate(t *testing.T, seed uint64, exchanges int, progress func(int)) (o outcome) {
	t.Helper()
	inproc.Provider(t, nil)                         // what is made once only takes no randomness of the seed then
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // of two goroutines that one step has set going, the first is first
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t, seed)
		synctest.Wait()
		if *traceFlag != "" {
			f, err := os.Create(*traceFlag)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s.trace.full = f
		}
		o.failed = s.run(exchanges, progress)
		o.sum, o.steps, o.last = s.trace.sum.Sum64(), s.trace.count, s.trace.last()
		o.results = s.results()
	})
	return o
}

func (s *simulation) results() map[string]int {
	n := make(map[string]int)
	for _, o := range s.operations {
		key := "succeeded"
		if o.err != nil {
			key = fmt.Sprintf("%.90s", o.err)
		}
		n[key]++
	}
	return n
}

func TestSimulation(t *testing.T) {
	switch {
	case *seedFlag != 0:
		simulateOne(t, *seedFlag, *exchangesFlag)
	case *seedsFlag != 0:
		for seed := range uint64(*seedsFlag) {
			simulateOne(t, seed+1, *exchangesFlag)
		}
	default:
		simulateOne(t, 1, *exchangesFlag)
	}
}

func simulateOne(t *testing.T, seed uint64, exchanges int) {
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		began := time.Now()
		o := simulate(t, seed, exchanges, func(n int) {
			if *seedsFlag != 0 {
				fmt.Fprintf(os.Stderr, "\rseed %d: %d of %d", seed, n, exchanges)
			}
		})
		for k, n := range o.results {
			t.Logf("%5d %s", n, k)
		}
		t.Logf("seed %d: %v, %d steps, trace %x, in %v", seed, o.results, o.steps, o.sum, time.Since(began).Round(time.Millisecond))
		for _, err := range o.failed {
			t.Error(err)
		}
		if len(o.failed) > 0 {
			t.Logf("run it again with -run TestSimulation -seed %d -exchanges %d; the last steps:\n%s", seed, exchanges, o.last)
		}
	})
}
