// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// A shard is one process of a provider, or the next one when that has ended.
type shard struct {
	c       *Connection
	breaker breaker

	queue    queue
	inFlight atomic.Int64
	progress atomic.Int64 // when it last answered, or was asked after it had nothing to do; by Connection.age
	lost     atomic.Bool  // its last call ended without an answer
	hung     atomic.Int64 // when it was last killed because it did not answer, likewise; 0: never

	mu      sync.Mutex
	process *plugin.Process // nil: none runs
	changed chan struct{}   // closed when process changes
}

func newShard(c *Connection) *shard {
	return &shard{c: c, changed: make(chan struct{}), breaker: breaker{now: time.Now}}
}

// slowAfter is after how long without any answer a shard gets no more calls while others are free.
const slowAfter = 250 * time.Millisecond

// avoided is the weight of a shard that gets calls only if all others are no better.
const avoided = 1 << 32

// weight says how little a shard should get the next call: how many it has, unless it seems to be away.
func (s *shard) weight() int64 {
	n := s.inFlight.Load()
	if p, _ := s.current(); p == nil || s.lost.Load() || !s.breaker.ready() ||
		n > 0 && s.c.age()-s.progress.Load() > int64(slowAfter) {
		n += avoided
	}
	return n
}

// begin counts one more call, or batch that waits for one.
func (s *shard) begin() {
	if s.inFlight.Add(1) == 1 {
		s.progress.Store(s.c.age())
	}
}

// hungLately tells whether it may well hang again.
func (s *shard) hungLately() bool {
	hung := s.hung.Load()
	return hung != 0 && s.c.age()-hung < int64(aloneFor)
}

// use is what Supervise calls with each process.
func (s *shard) use(ctx context.Context, p *plugin.Process) {
	s.install(p)
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
	s.install(nil)
}

func (s *shard) install(p *plugin.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	s.lost.Store(false)
	close(s.changed)
	s.changed = make(chan struct{})
}

// lose notes that a process has not answered.
func (s *shard) lose(p *plugin.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == p { // else there is a new one already
		s.lost.Store(true)
	}
}

func (s *shard) current() (*plugin.Process, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process, s.changed
}

// started waits for the first process. first gets the error of a start that failed.
func (s *shard) started(ctx context.Context, first <-chan error) error {
	for {
		p, changed := s.current()
		if p != nil {
			return nil
		}
		select {
		case <-changed:
		case err := <-first:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wait returns the process, if it runs or is soon started again, or nil.
func (s *shard) wait(ctx context.Context) *plugin.Process {
	var timeout <-chan time.Time
	for {
		p, changed := s.current()
		if p != nil {
			return p
		}
		if timeout == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-timeout:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// A rpc makes one call. It returns the failure that is in the reply, or the error of gRPC.
type rpc func(context.Context, pb.ProviderClient, ...grpc.CallOption) (*pb.Failure, error)

// call makes a call, unless the breaker is open, and kills a provider that does not answer in time. Its
// errors are of type [*Error].
func (s *shard) call(ctx context.Context, op string, class int, do rpc) (err error) {
	if err := ctx.Err(); err != nil {
		return &Error{Code: Transient, Op: op, Err: err}
	}
	s.begin()
	defer s.inFlight.Add(-1)
	if !s.breaker.enter() {
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider has failed several times")}
	}
	o := unknown
	defer func() { s.breaker.leave(o) }()
	p := s.wait(ctx)
	if p == nil {
		if ctx.Err() == nil {
			o = faulty
		}
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider is not running")}
	}
	timed, cancel := context.WithTimeout(ctx, time.Duration(class)*s.c.cfg.Timeout)
	defer cancel()
	failure, err := do(timed, pb.NewProviderClient(p.GRPC()), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
	if err != nil {
		hung := timed.Err() != nil && ctx.Err() == nil
		err, fault := fromStatus(ctx, op, err)
		if fault {
			o = faulty
			s.lose(p)
		}
		if hung {
			s.hung.Store(s.c.age())
			s.c.log("the provider did not answer in time, and is killed: %s", op)
			go p.Kill()
		}
		return err
	}
	s.progress.Store(s.c.age())
	s.lost.Store(false)
	err = fromFailure(failure, op)
	o = worked
	if CodeOf(err) == Device {
		o = faulty
	}
	return err
}

// health has the process use its keys.
func (s *shard) health(ctx context.Context) error {
	return s.call(ctx, "checking a provider's health", slow, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.Failure, error) {
		reply, err := p.Health(ctx, &pb.HealthRequest{}, o...)
		return reply.GetFailure(), err
	})
}

// keepChecking has the process use its keys from time to time, and says when it fails.
func (s *shard) keepChecking(ctx context.Context) {
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(checkEvery):
		}
		err := s.health(ctx)
		if err != nil && ctx.Err() == nil && healthy {
			s.c.log("the provider is not healthy: %v", err)
		} else if err == nil && !healthy {
			s.c.log("the provider is healthy again")
		}
		healthy = err == nil
	}
}

// lookAgain has the process notice what another one has done to a key: it is asked for a version that is never
// there, and a provider that remembers keys looks for one that it does not know.
func (s *shard) lookAgain(ctx context.Context, name string) {
	if p, _ := s.current(); p == nil {
		return // the next one remembers nothing
	}
	err := s.call(ctx, "opening a key", quick, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.Failure, error) {
		reply, err := p.Open(ctx, &pb.OpenRequest{Name: name, Version: noVersion}, o...)
		return reply.GetFailure(), err
	})
	if !errors.Is(err, NoSuchKey) && ctx.Err() == nil {
		s.c.log("a process of the provider may know of a change to its keys late: %v", err)
	}
}
