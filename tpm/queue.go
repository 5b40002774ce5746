// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/providers"
)

// A chip does one command at a time, so there is one queue in front of it, and one goroutine.

// maxWaiting is how many operations wait at most.
const maxWaiting = 256

var (
	errBusy   = errors.New("too many operations are waiting for the chip")
	errClosed = errors.New("closed")
)

// Urgency is how soon an operation's turn comes. Of those as urgent as each other, what came first is first.
type urgency uint8

const (
	useKeys    urgency = iota // somebody waits for an answer
	changeKeys                // makes or imports a key
	checkKeys                 // can wait
)

// A job is an operation that waits for the chip.
type job struct {
	ctx     context.Context
	urgency urgency
	order   uint64
	run     func(*chip) error
	done    chan error // room for one
}

// abandoned ends a job that nobody waits for any more.
func (j *job) abandoned() bool {
	err := j.ctx.Err()
	if err != nil {
		j.done <- err
	}
	return err != nil
}

// A queue holds jobs.
type queue struct {
	mu     sync.Mutex
	jobs   jobs
	count  uint64
	more   chan struct{} // room for one
	closed bool
}

type jobs []*job

func (j jobs) Len() int      { return len(j) }
func (j jobs) Swap(a, b int) { j[a], j[b] = j[b], j[a] }
func (j *jobs) Push(x any)   { *j = append(*j, x.(*job)) }
func (j jobs) Less(a, b int) bool {
	if j[a].urgency != j[b].urgency {
		return j[a].urgency < j[b].urgency
	}
	return j[a].order < j[b].order
}

func (j *jobs) Pop() any {
	old := *j
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*j = old[:len(old)-1]
	return last
}

func (q *queue) put(j *job) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errClosed
	case len(q.jobs) >= maxWaiting:
		q.jobs = slices.DeleteFunc(q.jobs, (*job).abandoned)
		heap.Init(&q.jobs)
		if len(q.jobs) >= maxWaiting {
			return errBusy
		}
	}
	q.count++
	j.order = q.count
	heap.Push(&q.jobs, j)
	select {
	case q.more <- struct{}{}:
	default:
	}
	return nil
}

// take returns the next job, or nil when the queue is closed.
func (q *queue) take() *job {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return nil
		}
		if len(q.jobs) > 0 {
			j := heap.Pop(&q.jobs).(*job)
			q.mu.Unlock()
			return j
		}
		q.mu.Unlock()
		<-q.more
	}
}

// close ends the queue. Jobs that wait fail.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for _, j := range q.jobs {
		j.done <- failure(providers.Transient, "waiting for the chip", errClosed)
	}
	q.jobs = nil
	close(q.more)
}

// do runs f when its turn comes. When ctx ends first it returns, and what f still does is for nothing: so f
// must have its own copies of what it reads.
func do[T any](ctx context.Context, p *Provider, op string, u urgency, f func(*chip) (T, error)) (T, error) {
	var none T
	result := new(T)
	j := &job{ctx: ctx, urgency: u, done: make(chan error, 1), run: func(c *chip) (err error) {
		*result, err = f(c)
		return err
	}}
	err := ctx.Err()
	if err == nil {
		err = p.queue.put(j)
	}
	if err != nil {
		return none, failure(providers.Transient, op, err)
	}
	select {
	case err := <-j.done:
		if err != nil {
			return none, coded(op, err)
		}
		return *result, nil
	case <-ctx.Done():
		return none, failure(providers.Transient, op, ctx.Err())
	}
}

// work does jobs until the queue is closed.
func (p *Provider) work() {
	c := p.chip
	for j := p.queue.take(); j != nil; j = p.queue.take() {
		if !j.abandoned() {
			j.done <- attempt(c, j)
		}
	}
	c.close()
}

// attempt runs a job, and once more if the chip has lost what was loaded. A wrong authorisation value is
// none of the errors that lead to a second attempt.
func attempt(c *chip, j *job) error {
	err := c.protect(j)
	for range 2 {
		if !isLost(err) && !isStale(err) || j.ctx.Err() != nil {
			break
		}
		c.drop()
		err = c.protect(j)
	}
	if isFull(err) && j.ctx.Err() == nil {
		c.unload(0)
		c.endPolicy()
		if err = c.protect(j); isFull(err) {
			err = c.crowded(err)
		}
	}
	if isLost(err) {
		c.drop()
		return failure(providers.Transient, "talking to the TPM", err)
	}
	return err
}

// protect runs a job. The library that reads responses may panic over what a broken chip says.
func (c *chip) protect(j *job) (err error) {
	defer func() {
		c.wipe()
		if recover() != nil {
			c.drop()
			err = failure(providers.Device, "talking to the TPM", errResponse)
		}
	}()
	c.ctx = j.ctx
	if err := c.ready(); err != nil {
		return err
	}
	return c.blame(c.plain, j.run(c))
}

// crowded says whose handles fill the chip. They are not flushed: they may be in use.
func (c *chip) crowded(full error) error {
	objects, sessions, err := c.others()
	if err != nil {
		return full
	}
	return fmt.Errorf("%w (others have left %d objects and %d sessions in the chip; tpm2_flushcontext removes them)", full, objects, sessions)
}
