// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package websocket carries messages over WebSockets (RFC 6455). A WebSocket is a connection like any other here: a
// [Dialer] makes them for a [msl.StreamTransport], and a [Handler] hands them to a [msl.Server]. Messages follow
// one another on it, both ways, in binary frames whose boundaries mean nothing. What was authenticated stays so by the
// session's tokens, which every message shows, and not by the connection.
//
// A message each way that is never complete for long, written by [msl.Request.Stream] and by a handler that flushes, carries
// application data as it comes.
package websocket

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/mslkeep/mslkeep/msl"
)

const (
	defaultConns = 4096
	defaultPing  = 30 * time.Second
)

// A Handler answers the messages of WebSockets that HTTP clients open, at any path. It needs HTTP/1.1.
type Handler struct {
	// Server answers the messages. How long a message may take when the server stops is its affair; how long a peer
	// may be silent is not, because pings tell whether it is there.
	Server *msl.Server

	// Origins are the hosts of the pages that may connect, beside those of the host that is connected to: patterns of
	// path.Match, with a scheme if they contain "://". They concern browsers only, since other clients can say what
	// they like.
	Origins []string

	// MaxConns is how many WebSockets there may be at once. Zero means 4096. Others are told 503.
	MaxConns int

	// Ping is how long a connection is silent before its peer is asked whether it is there. Zero means 30 seconds.
	Ping time.Duration

	conns atomic.Int64
}

// ServeHTTP serves a connection until its peer or the context of r ends it, as [msl.Server.ServeConn] does. A
// context of the http.Server (BaseContext) that ends when it is to stop is what stops its WebSockets in good order:
// http.Server.Shutdown does not know of them.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limit := int64(h.MaxConns)
	if limit == 0 {
		limit = defaultConns
	}
	defer h.conns.Add(-1)
	if h.conns.Add(1) > limit {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: h.Origins})
	if err != nil {
		return // the client was told
	}
	_ = h.Server.ServeConn(r.Context(), newConn(ws, h.Ping)) // Server.Failed was told
}

// A Dialer makes connections for a [msl.StreamTransport].
type Dialer struct {
	// URL begins with ws: or wss:.
	URL string

	// Client makes the HTTP request that opens a connection. Nil means http.DefaultClient.
	Client *http.Client

	// Ping is how long a connection is silent before its peer is asked whether it is there. Zero means 30 seconds.
	Ping time.Duration
}

// Dial connects. The connection outlives ctx.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	ws, answer, err := websocket.Dial(ctx, d.URL, &websocket.DialOptions{HTTPClient: d.Client})
	switch {
	case err == nil:
		return newConn(ws, d.Ping), nil
	case answer != nil:
		return nil, errors.New("msl: the HTTP server answered " + answer.Status + ", and opened no WebSocket")
	}
	return nil, err
}
