// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	maxFrame   = 32 << 10 // bytes of a frame; more is what some receivers refuse unless told otherwise
	readBuffer = 16 << 10
	pongFactor = 2 // of the ping interval, in which a pong must come
)

// A conn is a WebSocket as a net.Conn. A goroutine of its own reads it, so that pings are answered and its end is
// noticed while nobody waits for data.
type conn struct {
	net.Conn // the near end of a pipe: reading, its deadline, and addresses that say nothing
	far      net.Conn
	ws       *websocket.Conn

	deadline atomic.Pointer[time.Time] // for writing
	ended    atomic.Pointer[error]     // why nothing more is read
	unread   atomic.Int64              // bytes that have come and wait to be read
	writing  atomic.Int32
	moves    atomic.Int64 // counts what was read and written

	ping   *time.Timer
	every  time.Duration
	closed atomic.Bool
}

// newConn takes a WebSocket over.
func newConn(ws *websocket.Conn, ping time.Duration) *conn {
	ws.SetReadLimit(-1) // frames are streamed
	if ping <= 0 {
		ping = defaultPing
	}
	near, far := net.Pipe()
	c := &conn{Conn: near, far: far, ws: ws, every: ping}
	c.ping = time.AfterFunc(ping, c.lookAfter)
	go c.pump()
	return c
}

var errText = errors.New("msl: a WebSocket frame of text, not binary")

// pump reads until the connection ends.
func (c *conn) pump() {
	buf := make([]byte, readBuffer)
	for {
		kind, frame, err := c.ws.Reader(context.Background())
		if err == nil && kind != websocket.MessageBinary {
			err = errText // which closing tells the peer
		}
		for err == nil {
			var n int
			n, err = frame.Read(buf)
			if n > 0 {
				c.moves.Add(1)
				c.unread.Add(int64(n))
				if _, failed := c.far.Write(buf[:n]); failed != nil {
					err = failed // closed on this side
				}
			}
		}
		if err == io.EOF { // of the frame
			continue
		}
		if s := websocket.CloseStatus(err); s == websocket.StatusNormalClosure || s == websocket.StatusGoingAway {
			err = io.EOF
		}
		c.ended.Store(&err)
		c.far.Close()
		return
	}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.unread.Add(-int64(n))
	if err == io.EOF {
		if why := c.ended.Load(); why != nil {
			err = *why
		}
	}
	return n, err
}

// Write sends p as one or more frames. If it fails, part of a frame may have been sent; that counts as a byte.
func (c *conn) Write(p []byte) (written int, err error) {
	ctx := context.Background()
	if d := c.deadline.Load(); d != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, *d)
		defer cancel()
	}
	if c.ended.Load() != nil {
		return 0, net.ErrClosed
	}
	c.writing.Add(1)
	defer c.writing.Add(-1)
	for written < len(p) {
		frame := p[written:min(len(p), written+maxFrame)]
		if err = c.ws.Write(ctx, websocket.MessageBinary, frame); err != nil {
			return written + 1, err
		}
		written += len(frame)
		c.moves.Add(1)
	}
	return written, nil
}

// SetWriteDeadline sets when a Write that waits gives the connection up.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.deadline.Store(nil)
	} else {
		c.deadline.Store(&t)
	}
	return nil
}

// SetDeadline sets both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

// Idle and KeepsAlive are what a StreamTransport and a Server ask for.

func (c *conn) Idle() bool       { return c.ended.Load() == nil && c.unread.Load() == 0 }
func (c *conn) KeepsAlive() bool { return true }

// lookAfter asks the peer whether it is there, if nothing has shown that. While this side has not read what came, a pong
// could not be read either, and while it writes, a ping would have to wait.
func (c *conn) lookAfter() {
	defer func() {
		if !c.closed.Load() {
			c.ping.Reset(c.every)
		}
	}()
	moves := c.moves.Load()
	busy := func() bool { return c.unread.Load() > 0 || c.writing.Load() > 0 || c.moves.Load() != moves }
	if busy() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), pongFactor*c.every)
	defer cancel()
	if c.ws.Ping(ctx) != nil && !busy() {
		_ = c.ws.CloseNow()
	}
}

// Close ends the connection. The peer is told so beside it, for which there are seconds.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.ping.Stop()
	status, reason := websocket.StatusNormalClosure, ""
	if why := c.ended.Load(); why != nil && *why == errText {
		status, reason = websocket.StatusUnsupportedData, "binary frames only"
	}
	go c.ws.Close(status, reason)
	return c.Conn.Close()
}
