// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// A call through the pipe costs more than what a token needs in the device. So while a call is under way, what comes
// in the meantime waits for it to return, or until there is enough for another, and then goes together.
const (
	callsAtOnce   = 2
	worthCall     = 16                   // batches that need not wait for a call to return
	batchesAtOnce = 32                   // in one call
	longCall      = 2 * time.Millisecond // then nothing waits for it: the device is not quick
	longAtOnce    = 8                    // calls under way, even so
	quickSteps    = 4                    // of a batch that may go with others
	quickBytes    = 64 << 10             // of its input
	aloneFor      = time.Minute          // no batch goes with others after the process has hung
)

// A queue holds the batches that wait to go together.
type queue struct {
	mu      sync.Mutex
	running int // calls that serve the queue
	long    int // those of them that take long
	waiting []*waiter
}

// A waiter is a batch that waits, and the caller with it.
type waiter struct {
	ctx   context.Context
	req   *pb.DoRequest
	own   []byte // the memory of what req holds
	reply *pb.DoReply
	err   error
	done  chan struct{} // closed when reply or err is there
}

// do does a batch. A reply may come with an error, of which the results tell.
func (s *shard) do(ctx context.Context, req *pb.DoRequest) (*pb.DoReply, error) {
	if !s.c.many || !isQuick(req) || s.hungLately() {
		return s.doAlone(ctx, req)
	}
	w := &waiter{ctx: ctx, req: req, own: detach(req), done: make(chan struct{})}
	s.begin()
	defer s.inFlight.Add(-1)
	q := &s.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	if q.wantsCall() {
		q.running++
		go s.serve()
	}
	q.mu.Unlock()
	select {
	case <-w.done:
		return w.reply, w.err
	case <-ctx.Done():
		return nil, &Error{Code: Transient, Op: opUse, Err: ctx.Err()}
	}
}

// detach copies the data of a batch: a caller that gives up may use its memory for something else while the call is made.
func detach(req *pb.DoRequest) []byte {
	size := 0
	for _, s := range req.Steps {
		size += len(s.Iv) + len(s.Input) + len(s.Aad) + len(s.Mac)
	}
	data := make([]byte, 0, size)
	for _, s := range req.Steps {
		for _, field := range []*[]byte{&s.Iv, &s.Input, &s.Aad, &s.Mac} {
			n := len(data)
			data = append(data, *field...)
			*field = data[n:len(data):len(data)]
		}
	}
	return data
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

// wantsCall tells whether what waits should have one more call.
func (q *queue) wantsCall() bool {
	n := q.running - q.long
	return q.running < longAtOnce && (n == 0 || n < callsAtOnce && len(q.waiting) >= worthCall)
}

// take returns what goes in the next call, or nil: then the queue has one call less that serves it.
func (q *queue) take() (next []*waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	if !q.wantsCall() {
		return nil
	}
	n := 0
	for _, w := range q.waiting {
		if len(next) == batchesAtOnce {
			break
		}
		if n++; w.ctx.Err() == nil {
			next = append(next, w)
		} else { // nobody waits any more
			secret.Wipe(w.own)
		}
	}
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	if next != nil {
		q.running++
	}
	return next
}

// serve makes calls until nothing waits, or another call will do. Before each it lets those run who may have more.
func (s *shard) serve() {
	for {
		runtime.Gosched()
		next := s.queue.take()
		if next == nil {
			return
		}
		returned := s.watch()
		if ctx := next[0].ctx; len(next) == 1 {
			next[0].reply, next[0].err = s.doAlone(ctx, next[0].req)
		} else {
			s.doMany(context.WithoutCancel(ctx), next) // who gives up must not take the others along
		}
		returned()
		for _, w := range next {
			secret.Wipe(w.own)
			close(w.done)
		}
	}
}

// watch has nothing wait for a call that takes long.
func (s *shard) watch() (returned func()) {
	q, over, isLong := &s.queue, false, false
	timer := time.AfterFunc(longCall, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if over {
			return
		}
		isLong = true
		q.long++
		if len(q.waiting) > 0 && q.wantsCall() {
			q.running++
			go s.serve()
		}
	})
	return func() {
		timer.Stop()
		q.mu.Lock()
		defer q.mu.Unlock()
		if over = true; isLong {
			q.long--
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
