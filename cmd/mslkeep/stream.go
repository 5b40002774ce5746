// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

const (
	// idleTime is how long a connection may be silent, while a message is on its way or between two.
	idleTime = 2 * time.Minute
	// maxConns is how many connections are served at once. Further ones wait to be accepted.
	maxConns = 4096
)

// streamAddress returns where connections lead that carry messages without HTTP: tcp://HOST:PORT, or unix:PATH.
func streamAddress(url string) (network, address string, ok bool) {
	if address, ok = strings.CutPrefix(url, "tcp://"); ok {
		return "tcp", strings.TrimSuffix(address, "/"), true
	}
	address, ok = strings.CutPrefix(url, "unix:")
	return "unix", address, ok
}

// transport returns what leads to the peer of send.
func (c *config) transport() (msl.Transport, error) {
	network, address, ok := streamAddress(c.Send.URL)
	switch {
	case ok && network == "unix":
		address = c.path(address)
	case ok:
	case c.MSL.PeerToPeer:
		return nil, configError(fmt.Errorf("%s cannot carry messages between peers", c.Send.URL), "use tcp://HOST:PORT or unix:PATH")
	default:
		return &msl.HTTPTransport{URL: c.Send.URL, Client: newHTTPClient()}, nil
	}
	return &msl.StreamTransport{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}, nil
}

// A patientConn is a connection whose peer is not waited for longer than idleTime.
type patientConn struct {
	net.Conn
	mu       sync.Mutex
	stopping bool
}

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.extend(c.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(idleTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *patientConn) extend(set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return io.EOF // as if the peer had ended it
	}
	return set(time.Now().Add(idleTime))
}

// stop lets the message under way be answered, and nothing be read any more.
func (c *patientConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// serveStreams serves connections until ctx ends, then lets messages that have arrived be answered.
func serveStreams(ctx context.Context, listener net.Listener, s *msl.Server, log *slog.Logger) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		log.Info("stopping")
		listener.Close()
		time.AfterFunc(shutdownTime, cancel)
	})
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		slots <- struct{}{}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			cancel()
			return err
		}
		conns.Go(func() {
			defer func() { <-slots }()
			c := &patientConn{Conn: conn}
			defer context.AfterFunc(ctx, c.stop)()
			if err := s.ServeConn(work, c); err != nil {
				log.Debug("connection ended", "error", err)
			}
		})
	}
}
