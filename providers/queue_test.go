// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// TestIdleShard: a process that had nothing to do for long is not taken for one that hangs, as soon as it is asked.
func TestIdleShard(t *testing.T) {
	s := newShard(&Connection{many: true, born: time.Now().Add(-time.Hour)}) // whose process never starts
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.do(ctx, &pb.DoRequest{Steps: []*pb.Step{{Operation: pb.Operation_MAC}}})
		done <- err
	}()
	for s.inFlight.Load() < 2 { // it waits, and so does its call
		time.Sleep(time.Millisecond)
	}
	if silent := time.Duration(s.c.age() - s.progress.Load()); silent > time.Minute {
		t.Errorf("it seems to have been silent for %v", silent)
	}
	cancel()
	if err := <-done; !errors.Is(err, Transient) {
		t.Error(err)
	}
}
