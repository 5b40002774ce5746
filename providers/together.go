// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// A call through the pipe costs more than what a token needs in the device. So when some calls are under way, what
// comes in the meantime waits for one of them to return, and then goes together in one call.
const (
	callsAtOnce   = 4        // before anything waits
	batchesAtOnce = 16       // in one call
	quickSteps    = 4        // of a batch that may go with others
	quickBytes    = 64 << 10 // of its input
)

// A queue holds the batches that wait to go together.
type queue struct {
	mu      sync.Mutex
	running int // calls that serve the queue
	waiting []*waiter
}

// A waiter is a batch that waits, and the caller with it. Neither reply nor error means that the provider's answer
// makes no sense.
type waiter struct {
	ctx   context.Context
	req   *pb.DoRequest
	reply *pb.DoReply
	err   error
	done  chan struct{} // closed when reply or err is there
}

// do does a batch. A reply may come with an error, of which the results tell.
func (s *shard) do(ctx context.Context, req *pb.DoRequest) (*pb.DoReply, error) {
	if !s.c.many || !isQuick(req) {
		return s.doAlone(ctx, req)
	}
	q := &s.queue
	q.mu.Lock()
	if q.running < callsAtOnce {
		q.running++
		q.mu.Unlock()
		defer func() {
			if next := q.take(); next != nil {
				go s.serve(next)
			}
		}()
		return s.doAlone(ctx, req)
	}
	w := &waiter{ctx: ctx, req: req, done: make(chan struct{})}
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	select {
	case <-w.done:
		return w.reply, w.err
	case <-ctx.Done():
		return nil, &Error{Code: Transient, Op: opUse, Err: ctx.Err()}
	}
}

// isQuick tells whether others may wait for a batch: it has no operation of a key pair, and is small.
func isQuick(req *pb.DoRequest) bool {
	size := 0
	for _, step := range req.Steps {
		switch step.Operation {
		case pb.Operation_SIGN, pb.Operation_DECRYPT_RSA, pb.Operation_AGREE:
			return false
		}
		size += len(step.Input) + len(step.Aad)
	}
	return len(req.Steps) <= quickSteps && size <= quickBytes
}

// take returns what goes in the next call, or nil: then the queue has one call less that serves it.
func (q *queue) take() (next []*waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, w := range q.waiting {
		if len(next) == batchesAtOnce {
			break
		}
		if n++; w.ctx.Err() == nil { // else nobody waits any more
			next = append(next, w)
		}
	}
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	if next == nil {
		q.running--
	}
	return next
}

// serve makes calls until nothing waits.
func (s *shard) serve(next []*waiter) {
	for ; next != nil; next = s.queue.take() {
		ctx := context.WithoutCancel(next[0].ctx) // who gives up must not take the others along
		if len(next) == 1 {
			next[0].reply, next[0].err = s.doAlone(ctx, next[0].req)
		} else {
			s.doMany(ctx, next)
		}
		for _, w := range next {
			close(w.done)
		}
	}
}

func (s *shard) doMany(ctx context.Context, batches []*waiter) {
	req := new(pb.DoManyRequest)
	for _, w := range batches {
		req.Batches = append(req.Batches, w.req)
	}
	var reply *pb.DoManyReply
	err := s.call(ctx, opUse, quick, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (worst *pb.Failure, err error) {
		if reply, err = p.DoMany(ctx, req, o...); err != nil {
			return nil, err
		}
		for _, r := range reply.Batches {
			if worst = worstOf(r); worst == nil {
				break // the device works
			}
		}
		return worst, nil
	})
	if reply != nil && len(reply.Batches) != len(batches) {
		reply, err = nil, &Error{Code: Device, Op: opUse, Err: errors.New("the provider did not answer for each batch")}
	}
	for i, w := range batches {
		if w.err = err; reply != nil {
			w.reply = reply.Batches[i]
		}
	}
}

func (s *shard) doAlone(ctx context.Context, req *pb.DoRequest) (reply *pb.DoReply, err error) {
	err = s.call(ctx, opUse, quick, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (_ *pb.Failure, err error) {
		if reply, err = p.Do(ctx, req, o...); err != nil {
			return nil, err
		}
		return worstOf(reply), nil
	})
	return reply, err
}

// worstOf returns a failure of the device among the results, or nil.
func worstOf(r *pb.DoReply) *pb.Failure {
	for _, result := range r.Results {
		if CodeOf(fromFailure(result.Failure, opUse)) == Device {
			return result.Failure
		}
	}
	return nil
}
