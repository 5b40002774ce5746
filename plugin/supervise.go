// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// RefusedDelay is how long Supervise does not start a child again whose password was refused: devices and services lock
// for good, or for a quarter of an hour, whoever is wrong several times in a short while.
const RefusedDelay = 16 * time.Minute

const (
	firstDelay   = 50 * time.Millisecond
	longestDelay = 5 * time.Second
	pingEvery    = 5 * time.Second
	pingTimeout  = 5 * time.Second
)

// Supervise keeps a child running until ctx ends: it starts it, calls use with it, and starts it again
// when use has returned, which it should do when the child's connection is lost. A child that does not
// answer pings is killed. The first restart is immediate, the next ones wait 50 ms and twice as long
// each time, up to Spec.LongestDelay, with jitter; a child that has lived that long starts the count anew. Failures to
// start again are written to Spec.Log.
//
// Supervise returns a [*StartError] if the very first start fails, and else nil, when ctx has ended and
// the child with it.
func Supervise(ctx context.Context, spec Spec, use func(context.Context, *Process)) error {
	var delay time.Duration
	longest := spec.LongestDelay
	if longest == 0 {
		longest = longestDelay
	}
	for first := true; ; first = false {
		began := time.Now()
		p, err := Start(ctx, spec)
		switch {
		case err == nil:
			attend(ctx, p, use)
		case first:
			return err
		case ctx.Err() == nil && spec.Log != nil:
			fmt.Fprintf(spec.Log, "cannot start again: %v\n", err)
		}
		if err == nil && time.Since(began) > longest {
			delay = 0
		}
		if ctx.Err() != nil {
			return nil // before a pause that is none could be over, too
		}
		pause := jittered(delay)
		if failed, ok := errors.AsType[*StartError](err); ok && spec.Refused != 0 && failed.Err == ErrEnded && failed.ExitCode == spec.Refused {
			pause = RefusedDelay
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		delay = longer(delay, longest)
	}
}

// jittered is half of a delay to all of it, so that children that ended together do not start together.
func jittered(delay time.Duration) time.Duration { return delay/2 + rand.N(delay/2+1) }

// longer is the delay after one.
func longer(delay, longest time.Duration) time.Duration {
	return min(max(2*delay, firstDelay), longest)
}

// attend calls use, and pings the child while it runs.
func attend(ctx context.Context, p *Process, use func(context.Context, *Process)) {
	used := make(chan struct{})
	pinging := make(chan struct{})
	go func() {
		defer close(pinging)
		for {
			select {
			case <-used:
				return
			case <-p.Done():
				return
			case <-time.After(pingEvery):
			}
			ping, cancel := context.WithTimeout(ctx, pingTimeout)
			err := p.Ping(ping)
			cancel()
			if err != nil && ctx.Err() == nil {
				p.Kill()
				return
			}
		}
	}()
	use(ctx, p)
	close(used)
	p.Close()
	<-pinging
}
