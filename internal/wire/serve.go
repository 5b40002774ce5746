// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A Handler answers the requests of one connection. Handle is called by many goroutines at once.
//
// req and the bytes in it are valid until Handle returns; what must live longer must be copied. The
// reply may share memory with req, and must not be changed after it was returned. ctx ends at the request's deadline, when the
// client gives up, or when the connection is lost.
//
// An error should be an [*Error] or a [Code]; the end of a context becomes [Canceled], and anything
// else, a panic included, becomes [Device].
type Handler interface {
	Handle(ctx context.Context, req Request) (Reply, error)
}

// A Quick is a Handler that knows which requests take it a few microseconds and never wait, such as to
// seal or open small parts. These are handled one after the other by the goroutine that reads the
// connection, and their replies written together. Their context does not end at the deadline, and what
// HandleQuick returns need be valid only until it is called again.
type Quick interface {
	Handler
	Quick(req Request) bool
	HandleQuick(ctx context.Context, req Request) (Reply, error)
}

// A Reuser is a Handler that uses the memory of large replies again. Reuse may be called, once, with a
// reply that Handle has returned, when it was written and nothing refers to it any more.
type Reuser interface {
	Handler
	Reuse(reply Reply)
}

// A server is one connection that is served.
type server struct {
	stream stream
	opts   Options
	h      Handler
	quick  Quick  // h, or nil
	reuser Reuser // h, or nil
	frames *frameReader
	socket *socket     // stream, or nil
	batch  int         // frames that were read together
	seal   SealRequest // used again for each quick request of its kind
	open   OpenRequest
	in     coder
	busy   atomic.Int32 // goroutines of requests
	wg     sync.WaitGroup

	out     *outbox // its lock also guards all below
	coder   coder
	room    room
	running map[uint64]context.CancelFunc // requests that have a goroutine of their own
	drained sync.Cond                     // out.buf has become shorter
	failed  bool
}

// Serve answers requests on conn until the connection or ctx ends, or the client violates the protocol.
// It owns conn, and closes it. It returns nil when the client closed the connection or ctx ended, and
// only after every call of h has returned.
//
// A client that floods is slowed down: requests beyond Options.MaxInFlight and MaxBytes fail with
// [Transient], and nothing is read from a client that does not read.
func Serve(ctx context.Context, conn net.Conn, h Handler, o Options) error {
	return newServer(conn, h, o).serve(ctx)
}

func newServer(conn net.Conn, h Handler, o Options) *server {
	o = o.withDefaults()
	stream := newStream(conn)
	s := &server{stream: stream, opts: o, h: h, frames: newFrameReader(stream, o.MaxFrame, &framePool), out: &outbox{stream: stream},
		room: room{number: o.MaxInFlight, bytes: o.MaxBytes}, running: make(map[uint64]context.CancelFunc)}
	s.socket, _ = stream.(*socket)
	s.out.done = s.done
	s.reuser, _ = h.(Reuser)
	s.drained.L = s.out
	s.quick, _ = h.(Quick)
	return s
}

func (s *server) serve(ctx context.Context) error {
	defer s.stream.Close()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, s.close)
	err := s.greet()
	for err == nil {
		err = s.step(ctx)
	}
	ended := ctx.Err() != nil
	cancel()
	stop()
	s.close()
	s.wg.Wait()
	if ended || err == io.EOF {
		return nil
	}
	return err
}

// done gives back the memory of what was answered.
func (s *server) done(a answer) {
	s.frames.giveBack(a.req)
	if reply, ok := a.reply.(Reply); ok && s.reuser != nil {
		s.reuser.Reuse(reply)
	}
}

// close ends the connection, and frees whoever waits for it.
func (s *server) close() {
	s.stream.shut()
	s.out.Lock()
	s.failed = true
	s.out.Unlock()
	s.drained.Broadcast()
}

// greet answers the Hello that must come first.
func (s *server) greet() error {
	f, err := s.frames.next()
	if err != nil {
		return err
	}
	req := newRequest(f.code)
	deadline, err := parse(&s.in, req, f.body)
	hello, ok := req.(*HelloRequest)
	if err != nil || !ok || deadline == 0 {
		return errProtocol
	}
	if hello.Version != Version {
		s.send(frame{id: f.id}, Fail(NotSupported, "version of the client"))
		return errVersion
	}
	s.send(frame{id: f.id}, &HelloReply{Version: Version, AgentPID: uint32(os.Getpid()),
		MaxFrame: uint32(s.opts.MaxFrame), MaxInFlight: uint32(s.opts.MaxInFlight)})
	return nil
}

// step reads a frame and does what it says.
func (s *server) step(ctx context.Context) error {
	s.batch++
	if !s.frames.ready() {
		s.flush() // the replies to all quick requests that were read together
		if s.socket != nil {
			s.socket.linger = s.batch == 1 && s.busy.Load() == 0
		}
		s.batch = 0
	}
	f, err := s.frames.next()
	if err != nil {
		return err
	}
	if f.code == cancelCode {
		if len(f.body) != 0 {
			return errProtocol
		}
		s.out.Lock()
		defer s.out.Unlock()
		if cancel := s.running[f.id]; cancel != nil {
			cancel()
		}
		return nil
	}
	req := s.request(f)
	deadline, err := parse(&s.in, req, f.body)
	switch {
	case req == nil:
		s.append(frame{id: f.id}, Fail(NotSupported, "request"))
	case err != nil:
		s.append(frame{id: f.id}, err.(*Error))
	case f.code == helloRequest || deadline == 0:
		return errProtocol
	case s.isQuick(req):
		s.append(frame{id: f.id}, s.handle(ctx, req, s.quick.HandleQuick))
	default:
		if f.own == nil {
			req = newRequest(f.code)
			_, _ = parse(&s.in, req, f.keep())
		}
		return s.start(ctx, f, req, deadline)
	}
	return nil
}

// isQuick asks the handler. A panic means no.
func (s *server) isQuick(req Request) (quick bool) {
	defer func() { _ = recover() }()
	return s.quick != nil && s.quick.Quick(req)
}

// request returns a request of the frame's kind, or nil. One that is to be quick was used before.
func (s *server) request(f frame) Request {
	switch {
	case f.own == nil && f.code == sealRequest:
		s.seal = SealRequest{Plain: s.seal.Plain[:0]}
		return &s.seal
	case f.own == nil && f.code == openRequest:
		s.open = OpenRequest{Parts: s.open.Parts[:0]}
		return &s.open
	}
	return newRequest(f.code)
}

// parse fills a request, which is nil if there is none with its code.
func parse(c *coder, req Request, body []byte) (deadline uint32, err error) {
	if req == nil || len(body) < deadlineSize {
		return 0, Fail(Malformed, "request")
	}
	if !c.decode(body[deadlineSize:], req) {
		return 0, Fail(Malformed, "request")
	}
	return binary.BigEndian.Uint32(body), nil
}

// start handles a request in a goroutine of its own.
func (s *server) start(ctx context.Context, f frame, req Request, deadline uint32) error {
	size := headerSize + len(f.body)
	s.out.Lock()
	_, twice := s.running[f.id]
	ok := !twice && s.room.take(size)
	var cancel context.CancelFunc
	if ok {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(deadline)*time.Millisecond)
		s.running[f.id] = cancel
	}
	s.out.Unlock()
	if twice {
		return errProtocol
	}
	if !ok {
		s.append(frame{id: f.id}, Fail(Transient, "too many requests"))
		return nil
	}
	s.busy.Add(1)
	s.wg.Go(func() {
		defer s.busy.Add(-1)
		reply := s.handle(ctx, req, s.h.Handle)
		cancel()
		s.out.Lock()
		delete(s.running, f.id)
		s.out.Unlock()
		s.send(f, reply)
		s.out.Lock()
		s.room.release(size)
		s.out.Unlock()
	})
	return nil
}

// handle calls the handler, and returns what is to be sent. A panic fails one request and not the agent.
func (s *server) handle(ctx context.Context, req Request, by func(context.Context, Request) (Reply, error)) (m message) {
	defer func() {
		if recover() != nil {
			// What was panicked with may tell secrets. The stack does not.
			s.opts.Logger.Error("panic in a request handler", "stack", string(debug.Stack()))
			m = Fail(Device, "panic")
		}
	}()
	reply, err := by(ctx, req)
	if err != nil {
		return asError(err)
	}
	if reply == nil || reply.code() != req.answer() {
		return Fail(Device, "no reply of the request")
	}
	return reply
}

// send appends a reply and sees to it that it is written.
func (s *server) send(f frame, m message) {
	s.append(f, m)
	s.flush()
}

// append appends the reply to f. It waits while the client does not read what is there already. If f has
// memory of its own, that and the reply stay as they are until the reply was written.
func (s *server) append(f frame, m message) {
	s.out.Lock()
	size, ok := s.coder.measure(m)
	if !ok || headerSize+size > s.opts.MaxFrame {
		m = Fail(Malformed, "reply too large")
		size, _ = s.coder.measure(m)
	}
	for s.out.waits() > s.opts.MaxBytes && !s.failed {
		if !s.out.claim() {
			s.drained.Wait()
			continue
		}
		s.out.Unlock()
		s.drain()
		s.out.Lock()
	}
	if !s.failed {
		s.out.frame(&s.coder, f.id, 0, m, size, f.own != nil)
		if f.own != nil {
			s.out.own = append(s.out.own, answer{f, m})
		}
	}
	s.out.Unlock()
}

// flush writes what was appended, unless somebody does so already.
func (s *server) flush() {
	s.out.Lock()
	flush := s.out.claim()
	s.out.Unlock()
	if flush {
		s.drain()
	}
}

// drain is called by the flusher.
func (s *server) drain() {
	_, err := s.out.flush(true)
	s.drained.Broadcast()
	if err != nil {
		s.close()
	}
}
