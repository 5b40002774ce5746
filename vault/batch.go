// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

const (
	maxItems   = 128       // of one request
	maxBody    = 768 << 10 // bytes of one request, unless one item alone is larger
	maxFlights = 4         // requests for one use of one key at a time
)

// An outcome is Vault's answer to one item of a request.
type outcome struct {
	Plaintext  []byte `json:"plaintext"`
	Ciphertext string `json:"ciphertext"`
	HMAC       string `json:"hmac"`
	Signature  string `json:"signature"`
	Valid      bool   `json:"valid"`
	Error      string `json:"error"`
}

// An item is one use of a key that waits for its outcome.
type item struct {
	ctx  context.Context
	body []byte // a JSON object
	done chan struct{}

	outcome outcome
	err     error // of the whole request
}

// A queue gathers what is to be done at one endpoint with one key. What comes while nothing is under way goes
// to Vault at once; what comes in the meantime waits for the window, and goes in one request.
type queue struct {
	p          *Provider
	op         string
	path       string
	parameters string // of the whole request, in JSON, beginning with a comma

	mu      sync.Mutex
	waiting []*item
	size    int // bytes of what waits
	flights int
	armed   bool
}

// queue returns the queue of an endpoint. Its parameters are part of what it is.
func (p *Provider) queue(op, path, parameters string) *queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := path + parameters
	q := p.queues[id]
	if q == nil {
		q = &queue{p: p, op: op, path: path, parameters: parameters}
		p.queues[id] = q
	}
	return q
}

// do has items done, each of which is a JSON object, and returns them in that order.
func (q *queue) do(ctx context.Context, bodies [][]byte) []*item {
	ctx, cancel := q.p.early(ctx)
	defer cancel()
	items := make([]*item, len(bodies))
	for n, body := range bodies {
		items[n] = &item{ctx: ctx, body: body, done: make(chan struct{})}
	}
	if ctx.Err() == nil {
		q.add(items)
	}
	for n, i := range items {
		select {
		case <-i.done:
		case <-ctx.Done():
			items[n] = &item{err: failure(providers.Transient, q.op, ctx.Err())} // the other may be written to yet
		}
	}
	return items
}

func (q *queue) add(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, items...)
	for _, i := range items {
		q.size += len(i.body)
	}
	for len(q.waiting) > 0 {
		full := q.flights < maxFlights && (len(q.waiting) >= maxItems || q.size >= maxBody)
		if !full && !(q.flights == 0 && !q.armed) && q.p.config.Window >= 0 {
			break
		}
		q.launch()
	}
	if len(q.waiting) > 0 && !q.armed {
		q.armed = true
		time.AfterFunc(time.Duration(q.p.config.Window), q.due)
	}
}

// due ends a window.
func (q *queue) due() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	if q.flights < maxFlights && len(q.waiting) > 0 {
		q.launch()
	} // otherwise, who lands launches
}

// launch sends what waits, as far as it fits; mu is held.
func (q *queue) launch() {
	n, size := 0, 0
	for n < len(q.waiting) && n < maxItems && (n == 0 || size+len(q.waiting[n].body) <= maxBody) {
		size += len(q.waiting[n].body)
		n++
	}
	items := q.waiting[:n:n]
	q.waiting, q.size = q.waiting[n:], q.size-size
	q.flights++
	go q.fly(items)
}

// land makes room for the next request.
func (q *queue) land() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flights--
	if len(q.waiting) > 0 && !q.armed {
		q.launch()
	}
}

func (q *queue) fly(items []*item) {
	defer q.land()
	wanted := items[:0:0]
	for _, i := range items {
		if i.ctx.Err() == nil {
			wanted = append(wanted, i)
		} else {
			i.err = failure(providers.Transient, q.op, i.ctx.Err())
			close(i.done)
		}
	}
	if len(wanted) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(q.p.run)
	defer cancel()
	gone := leaving(wanted, cancel)
	defer gone()
	outcomes, err := q.send(ctx, wanted)
	for n, i := range wanted {
		if i.err = err; err == nil {
			i.outcome = outcomes[n]
		}
		close(i.done)
	}
}

// leaving calls cancel when all contexts have ended. The caller calls stop.
func leaving(items []*item, cancel func()) (stop func()) {
	var contexts []context.Context // those who come together have one
	for n, i := range items {
		if n == 0 || i.ctx != items[n-1].ctx {
			contexts = append(contexts, i.ctx)
		}
	}
	var mu sync.Mutex
	left := len(contexts)
	stops := make([]func() bool, len(contexts))
	for n, ctx := range contexts {
		stops[n] = context.AfterFunc(ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		})
	}
	return func() {
		for _, s := range stops {
			s()
		}
	}
}

func (q *queue) send(ctx context.Context, items []*item) ([]outcome, error) {
	size := len(q.parameters) + 80
	for _, i := range items {
		size += len(i.body) + 1
	}
	body := append(make([]byte, 0, size), `{"batch_input":[`...)
	for n, i := range items {
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, i.body...)
	}
	body = append(append(append(body, ']'), q.parameters...), '}')
	var out struct {
		Results []outcome `json:"batch_results"`
	}
	err := q.p.call(ctx, q.op, request{method: "POST", path: q.path, body: body, again: true, partial: true}, &out)
	if err == nil && len(out.Results) != len(items) {
		err = failure(providers.Device, q.op, errAnswer)
	}
	return out.Results, err
}
