// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// ticksPerSecond is the unit of times in /proc/PID/stat, which Linux fixes for all its users.
const ticksPerSecond = 100

// cpuTime adds up the CPU time that processes have used.
func cpuTime(pids []int) (time.Duration, error) {
	var total time.Duration
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("/proc/%d/stat makes no sense", pid)
		}
		var user, system int64
		if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
			return 0, err
		}
		total += time.Duration(user+system) * (time.Second / ticksPerSecond)
	}
	return total, nil
}

// runFor calls do in several goroutines until d has passed, and returns how long each call took.
func runFor(ctx context.Context, goroutines int, d time.Duration, do func(context.Context) error) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var first error
	var workers sync.WaitGroup
	end := time.Now().Add(d)
	for range goroutines {
		workers.Go(func() {
			var times []time.Duration
			var err error
			for began := time.Now(); began.Before(end) && err == nil; {
				err = do(ctx)
				now := time.Now()
				times = append(times, now.Sub(began))
				began = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, times...)
			if first == nil {
				first = err
			}
		})
	}
	workers.Wait()
	return all, first
}
