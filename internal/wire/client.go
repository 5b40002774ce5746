// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync"
	"time"
)

// A Client sends requests over one connection. It is safe for concurrent use.
//
// Requests are pipelined and answered in any order. They are bounded in number and bytes: a Call
// beyond the bounds waits. When the connection is lost, every Call that waits fails with [Transient],
// and so does every later one.
type Client struct {
	stream stream
	opts   Options
	hello  HelloReply
	frames *frameReader
	done   chan struct{}
	wg     sync.WaitGroup

	sweeper *time.Timer
	idle    sync.Pool // of *call

	out      *outbox // its lock also guards all below
	coder    coder
	calls    callTable
	room     room
	queue    []*admission // callers that wait for room
	sweeping bool
	turns    turns
	err      error // why the client is at its end
}

// A pending request occupies its room until the agent has answered it, even when its caller has left,
// in which case call is nil.
type pending struct {
	id      uint64
	call    *call
	size    int
	expires time.Time // zero if the caller's context has a deadline
}

// A call is a caller that waits. done gets one value, after frame or err was set.
type call struct {
	done  chan struct{}
	buf   []byte // for the body of frame
	frame frame
	err   error
	coder coder
}

var (
	errLost = Fail(Transient, "agent connection lost")

	// ErrNotSent is the error of a Call that came after the connection was lost: another connection may
	// carry its request. It is [Transient].
	ErrNotSent = Fail(Transient, "no connection to the agent")
)

// NewClient exchanges Hello on conn, which it owns from now on and closes if it fails. The deadline of
// ctx, or Options.Timeout, holds for the exchange only.
func NewClient(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	o = o.withDefaults()
	stream := newStream(conn)
	c := &Client{stream: stream, opts: o, frames: newFrameReader(stream, o.MaxFrame, &recycled), out: &outbox{stream: stream},
		done: make(chan struct{})}
	c.idle.New = func() any { return &call{done: make(chan struct{}, 1)} }
	if err := c.greet(ctx); err != nil {
		stream.Close()
		return nil, err
	}
	c.opts.MaxFrame = min(o.MaxFrame, int(c.hello.MaxFrame))
	c.room = room{number: min(o.MaxInFlight, int(c.hello.MaxInFlight)), bytes: o.MaxBytes}
	if c.turns.socket, _ = c.stream.(*socket); c.turns.socket != nil {
		c.turns.socket.nowait, c.turns.most = true, leadTime
	}
	c.sweeper = time.AfterFunc(math.MaxInt64, c.sweep)
	c.wg.Go(c.read)
	return c, nil
}

func (c *Client) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, c.stream.shut)
	err := c.exchangeHello(ctx)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("greeting the agent: %w", err)
	}
	return nil
}

func (c *Client) exchangeHello(ctx context.Context) error {
	m := &HelloRequest{Version: Version}
	size, _ := c.coder.measure(m)
	c.out.frame(&c.coder, 0, c.millis(ctx), m, size, false)
	if _, err := c.out.flush(true); err != nil {
		return errLost
	}
	f, err := c.frames.next()
	if err != nil {
		return errLost
	}
	k := call{frame: f}
	if err := k.result(&c.hello); err != nil {
		return err
	}
	h := &c.hello
	if h.Version != Version || h.MaxFrame < headerSize+64 || h.MaxInFlight == 0 {
		return Fail(NotSupported, "version of the agent")
	}
	return nil
}

// Hello returns what the agent said when the connection was opened.
func (c *Client) Hello() HelloReply { return c.hello }

// Done is closed when the connection is lost or closed.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close fails every Call that waits, and returns when nothing of the client runs any more.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	c.wg.Wait()
	return nil
}

// Call sends req and fills reply, which must be the zero value of the type that answers req. Fields of
// bytes in reply share memory of their own, which nothing else uses, and may be given to Recycle; req may be
// reused at once.
//
// When ctx ends, Call tells the agent, and returns ctx.Err() at once. All other errors are of type
// [*Error].
func (c *Client) Call(ctx context.Context, req Request, reply Reply) error {
	return c.CallInto(ctx, nil, req, reply)
}

// CallInto is Call with the bytes of a small reply in the memory of buf, if that is large enough.
func (c *Client) CallInto(ctx context.Context, buf []byte, req Request, reply Reply) error {
	if reply.code() != req.answer() {
		return Fail(Malformed, "reply is not of the request")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	k := c.idle.Get().(*call)
	size, ok := k.coder.measure(req)
	if !ok || headerSize+deadlineSize+size > c.opts.MaxFrame {
		c.idle.Put(k)
		return Fail(Malformed, "request too large")
	}
	k.buf = buf
	id, lead, err := c.send(ctx, k, req, size)
	if err != nil {
		k.reset()
		c.idle.Put(k)
		return err
	}
	if lead {
		c.lead(ctx, k)
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		c.abandon(id, k)
		return ctx.Err()
	}
	err = k.result(reply)
	k.reset()
	c.idle.Put(k)
	switch {
	case err == errProtocol:
		c.fail(err)
		return errLost
	case err != nil && err.(*Error).Code == Canceled && ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

func (k *call) reset() { k.buf, k.frame, k.err = nil, frame{}, nil }

// result fills reply from the frame that answered the call.
func (k *call) result(reply Reply) error {
	switch {
	case k.err != nil:
		return k.err
	case k.frame.code == reply.code():
		if k.coder.decode(k.frame.body, reply) {
			return nil
		}
	case k.frame.code == errorReply:
		e := new(Error)
		if k.coder.decode(k.frame.body, e) {
			return e
		}
	}
	return errProtocol
}

// send registers k and sends the frame of req. If lead is true, the caller is to read.
func (c *Client) send(ctx context.Context, k *call, req Request, size int) (id uint64, lead bool, err error) {
	size += headerSize + deadlineSize
	var expires time.Time
	if _, ok := ctx.Deadline(); !ok {
		expires = time.Now().Add(c.opts.Timeout)
	}
	c.out.Lock()
	if err := c.admit(ctx, size); err != nil {
		c.out.Unlock()
		return 0, false, err
	}
	id = c.calls.add(pending{call: k, size: size, expires: expires})
	// Who flushes does not return before the frame was written, or copied.
	c.out.frame(&c.coder, id, c.millis(ctx), req, size-headerSize-deadlineSize, !c.out.flushing)
	if !c.sweeping && !expires.IsZero() {
		c.sweeping = true
		c.sweeper.Reset(c.opts.Timeout / 8)
	}
	lead = c.enter(size)
	flush := c.out.claim()
	c.out.Unlock()
	if flush {
		c.flush(lead)
	}
	return id, lead, nil
}

// millis returns the time that is left until the deadline of ctx, or Options.Timeout.
func (c *Client) millis(ctx context.Context) uint32 {
	left := c.opts.Timeout
	if d, ok := ctx.Deadline(); ok {
		left = time.Until(d)
	}
	// Rounded up, so that the caller, which is closer to its own clock, gives up first.
	return uint32(min(max(left.Milliseconds()+1, 1), math.MaxUint32))
}

// flush writes what it can without waiting for the agent, and leaves the rest to a goroutine, so that a
// caller can always give up.
func (c *Client) flush(alone bool) {
	if !alone {
		runtime.Gosched() // others who are about to append make the batch larger
	}
	rest, err := c.out.flush(false)
	if err != nil {
		c.fail(err)
	}
	if !rest {
		return
	}
	c.out.Lock()
	defer c.out.Unlock()
	if c.err == nil { // else Close may be waiting for wg already
		c.wg.Go(func() {
			if _, err := c.out.flush(true); err != nil {
				c.fail(err)
			}
		})
	}
}

func (c *Client) deliver(f frame) error {
	c.out.Lock()
	defer c.out.Unlock()
	p := c.calls.find(f.id)
	if p == nil {
		if c.err != nil {
			return c.err
		}
		return errProtocol
	}
	k, size := p.call, p.size
	c.calls.remove(p)
	c.release(size)
	if k != nil {
		if f.own == nil && len(f.body) <= cap(k.buf) {
			// No field has so much capacity that Recycle would take the memory, which is the caller's.
			f.body = append(k.buf[:0:len(f.body)], f.body...)
		} else {
			f.body = f.keep()
		}
		k.frame = f
		k.done <- struct{}{}
	}
	return nil
}

// abandon gives up a call. Its request keeps its room until it is answered.
func (c *Client) abandon(id uint64, k *call) {
	c.out.Lock()
	p := c.calls.find(id)
	if p == nil || p.call != k { // answered, or failed, at the last moment
		c.out.Unlock()
		<-k.done
		k.reset()
		c.idle.Put(k)
		return
	}
	c.disown(p)
	flush := c.out.claim()
	c.out.Unlock()
	k.reset()
	c.idle.Put(k)
	if flush {
		c.flush(false)
	}
}

// disown is called with the lock.
func (c *Client) disown(p *pending) {
	p.call = nil
	c.out.buf = appendCancel(c.out.buf, p.id)
}

// sweep gives up the calls whose context has no deadline when their time is over. One timer for all of
// them costs a call nothing.
func (c *Client) sweep() {
	c.out.Lock()
	now, more := time.Now(), false
	for i := range c.calls.slots {
		p := &c.calls.slots[i]
		switch {
		case p.call == nil || p.expires.IsZero(): // a vacant slot has no call, either
		case p.expires.After(now):
			more = true
		default:
			p.call.err = Fail(Canceled, "no answer in time")
			p.call.done <- struct{}{}
			c.disown(p)
		}
	}
	c.sweeping = more && c.err == nil
	if c.sweeping {
		c.sweeper.Reset(c.opts.Timeout / 8)
	}
	flush := c.out.claim()
	c.out.Unlock()
	if flush {
		c.flush(false)
	}
}

// fail ends the client: every caller gets a transient error, once.
func (c *Client) fail(err error) {
	c.out.Lock()
	defer c.out.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.stream.shut()
	c.sweeper.Stop()
	for _, p := range c.calls.slots {
		if p.call != nil {
			p.call.err = errLost
			p.call.done <- struct{}{}
		}
	}
	c.calls = callTable{last: c.calls.last}
	for _, a := range c.queue {
		close(a.ready)
	}
	c.queue = nil
}
