// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/msl/websocket"
)

const (
	httpIdle     = time.Minute      // how long send keeps an HTTP connection
	shutdownTime = 10 * time.Second // how long messages may take to end after a signal
)

// A textList is a list of texts, or one.
type textList []string

// UnmarshalTOML takes either.
func (l *textList) UnmarshalTOML(v any) error {
	values, ok := v.([]any)
	if !ok {
		values = []any{v}
	}
	*l = nil
	for _, v := range values {
		s, ok := v.(string)
		if !ok {
			return errors.New("must be a text or a list of texts")
		}
		*l = append(*l, s)
	}
	return nil
}

// A door is a place where serve listens.
type door struct {
	net.Listener
	endpoint
}

// listenOn opens all doors, or none.
func listenOn(c *config) (doors []door, err error) {
	switch {
	case len(c.Serve.Listen) == 0:
		return nil, configError(errors.New("there is no address to listen on"), "set listen in [serve], or --listen")
	case c.Serve.MaxConns < 0:
		return nil, configError(errors.New("max-connections is negative"), "")
	}
	for _, text := range c.Serve.Listen {
		d, err := open(c, text)
		if err != nil {
			closeAll(doors)
			return nil, err
		}
		doors = append(doors, d)
	}
	return doors, nil
}

func closeAll(doors []door) {
	for _, d := range doors {
		d.Close()
	}
}

func open(c *config, text string) (door, error) {
	e, err := parseEndpoint(text)
	network := "tcp"
	switch {
	case err != nil:
		return door{}, configError(err, "see mslkeep serve --example")
	case e.scheme == "https", e.scheme == "wss", e.scheme == "tls":
		return door{}, configError(fmt.Errorf("serve has no key for TLS, and so cannot listen on %s", text), "let something in front of it end TLS")
	case e.isHTTP() && c.MSL.PeerToPeer:
		return door{}, errOnlyStreams
	case e.scheme == "unix":
		network, e.address = "unix", c.path(e.address)
		removeStale(e.address)
	}
	l, err := net.Listen(network, e.address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return door{}, &exitError{exitFailure, fmt.Errorf("%s is taken by another process", text), "choose another with --listen"}
	case err != nil:
		return door{}, err
	case network == "unix":
		e.url = "unix:" + e.address
	case e.scheme == "tcp":
		e.url = "tcp://" + l.Addr().String()
	default:
		e.url = e.scheme + "://" + l.Addr().String() + "/"
	}
	return door{l, e}, nil
}

// removeStale removes the socket of a process that has gone.
func removeStale(path string) {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
}

func urls(doors []door) []string {
	var out []string
	for _, d := range doors {
		out = append(out, d.url)
	}
	return out
}

// serveAll serves all doors until ctx ends or one of them fails, and then lets messages end.
func (c *config) serveAll(ctx context.Context, doors []door, s *msl.Server, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { log.Info("stopping") })()
	failed := make([]error, len(doors))
	var all sync.WaitGroup
	for i, d := range doors {
		all.Go(func() {
			failed[i] = c.serveOne(ctx, d, s, log)
			cancel(failed[i])
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (c *config) serveOne(ctx context.Context, d door, s *msl.Server, log *slog.Logger) error {
	switch d.scheme {
	case "tcp", "unix":
		return s.Serve(ctx, d.Listener)
	case "ws":
		sockets := &websocket.Handler{Server: s, Origins: c.Serve.Origins, MaxConns: c.Serve.MaxConns}
		var open sync.WaitGroup
		defer open.Wait()
		h := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			open.Add(1)
			defer open.Done()
			sockets.ServeHTTP(w, r)
		}))
		h.BaseContext = func(net.Listener) context.Context { return ctx }
		return serveHTTP(ctx, d.Listener, h, log)
	}
	h := newHTTPServer(s)
	h.Protocols = new(http.Protocols)
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	return serveHTTP(ctx, d.Listener, h, log)
}

// serveHTTP serves until ctx ends, then lets requests finish.
func serveHTTP(ctx context.Context, l net.Listener, s *http.Server, log *slog.Logger) error {
	s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := s.Shutdown(stop)
	if err != nil {
		s.Close()
	}
	<-done
	return err
}

// newHTTPServer bounds what clients may do to a server.
func newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
}

// addList is a flag that may be repeated, or hold several texts separated by commas. The first use replaces what the
// file says.
func addList(to *textList) func(string) error {
	fresh := true
	return func(s string) error {
		if fresh {
			*to, fresh = nil, false
		}
		*to = append(*to, strings.Split(s, ",")...)
		return nil
	}
}
