// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// maxLoadBody bounds the data that every message of a load carries, in bytes.
const maxLoadBody = 64 << 20

// A loadResult is how many messages went how.
type loadResult struct {
	Messages  int     `json:"messages"`
	Failed    int     `json:"failed"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"messages_per_second"`
	Median    float64 `json:"median_milliseconds"`
	P99       float64 `json:"p99_milliseconds"`
	First     string  `json:"first_failure,omitempty"`
}

// load sends f.count messages of the same data, f.concurrency at once, and prints the result.
func (s *sender) load(ctx context.Context, c *cli, f *sendFlags, r *msl.Request) error {
	if f.count < 1 || f.concurrency < 1 {
		return usageError("--count and --concurrency must be positive")
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxLoadBody+1))
	if err != nil {
		return err
	}
	if len(data) > maxLoadBody {
		return usageError("the data of many messages may have at most %d bytes", maxLoadBody)
	}
	var progress io.Writer
	if !f.json {
		progress = c.err
	}
	result := runLoad(ctx, progress, f.count, f.concurrency, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		return s.exchange(ctx, r, data, f.oneWay)
	})
	if f.json {
		err = printJSON(c.out, result)
	} else {
		fmt.Fprintf(c.out, "%d messages in %.2f s, %.0f per second; median %.2f ms, 99%% within %.2f ms; %d failed\n",
			result.Messages, result.Seconds, result.PerSecond, result.Median, result.P99, result.Failed)
	}
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("%d of %d messages failed, the first one: %s", result.Failed, result.Messages, result.First)
	}
	return err
}

// exchange sends data as one message and drops the answer's.
func (s *sender) exchange(ctx context.Context, pattern *msl.Request, data []byte, oneWay bool) error {
	r := *pattern
	r.Body = bytes.NewReader(data)
	if oneWay {
		return s.client.Send(ctx, &r)
	}
	answer, err := s.client.Do(ctx, &r)
	if err != nil {
		return err
	}
	defer answer.Close()
	_, err = io.Copy(io.Discard, answer)
	return err
}

// runLoad calls do count times, some at once, until all are done or ctx ends. It writes its progress
// every second, if there is somewhere to.
func runLoad(ctx context.Context, progress io.Writer, count, concurrency int, do func(context.Context) error) loadResult {
	times := make([]time.Duration, count)
	var next, done, failed atomic.Int64
	var first atomic.Pointer[string]
	start := time.Now()
	stop := showProgress(progress, &done, count)
	var workers sync.WaitGroup
	for range min(concurrency, count) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(count) && ctx.Err() == nil; i = next.Add(1) - 1 {
				began := time.Now()
				if err := do(ctx); err != nil {
					failed.Add(1)
					text := err.Error()
					first.CompareAndSwap(nil, &text)
				}
				times[i] = time.Since(began)
				done.Add(1)
			}
		})
	}
	workers.Wait()
	stop()
	r := loadResult{Messages: int(done.Load()), Failed: int(failed.Load()), Seconds: time.Since(start).Seconds()}
	if text := first.Load(); text != nil {
		r.First = *text
	}
	times = slices.DeleteFunc(times, func(d time.Duration) bool { return d == 0 })
	if len(times) > 0 {
		slices.Sort(times)
		r.PerSecond = float64(r.Messages) / r.Seconds
		r.Median = float64(times[len(times)/2].Microseconds()) / 1000
		r.P99 = float64(times[len(times)*99/100].Microseconds()) / 1000
	}
	return r
}

// showProgress reports until the function it returns is called.
func showProgress(w io.Writer, done *atomic.Int64, count int) (stop func()) {
	if w == nil {
		return func() {}
	}
	ticker, quit := time.NewTicker(time.Second), make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() {
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(w, "%d of %d\n", done.Load(), count)
			case <-quit:
				return
			}
		}
	})
	return func() { ticker.Stop(); close(quit); shown.Wait() }
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
