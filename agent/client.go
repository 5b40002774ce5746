// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent is the protocol process's side of the key agent: custody of all keys, in another
// process. A [Client] is what package msl asks for in msl.ClientKeys and msl.ServerKeys. It holds
// handles, and no key ever.
//
// [Start] runs the agent as a child process and starts it again if it ends; [Dial] connects to one that
// runs as a service. Both hide that: a call that is under way when the agent ends fails with
// msl.Unavailable, the next one waits up to two seconds for the agent to be back, and sessions and
// entity contexts whose handles went with it are opened again when they are next used, once.
package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/plugin"
)

var (
	_ msl.ClientKeys = (*Client)(nil)
	_ msl.ServerKeys = (*Client)(nil)
)

// A Caller carries requests to an agent. [wire.Client] and [wire.Direct] do.
type Caller interface {
	Call(ctx context.Context, req wire.Request, reply wire.Reply) error
}

// A Client is an agent, to be used by the protocol. It is safe for concurrent use. Its errors are of
// type [*Error], except that a context that ends gives its own error.
type Client struct {
	caller Caller
	link   *link // nil if made by New
	stop   context.CancelFunc
	wg     sync.WaitGroup
	opened openedTokens
	find   FindRecord // or nil
}

// Config says which agent to start.
type Config struct {
	Path   string     // of the binary, absolute
	SHA256 string     // of the binary, in hexadecimal; required
	Args   []string   // without the name of the program
	Env    []string   // variables that the agent gets: NAME for this process's value, or NAME=value
	Extra  []*os.File // the agent's descriptors from plugin.FirstExtraFD on
	Log    io.Writer  // gets the agent's standard error; nil discards it

	// Terminal lets the agent read from the terminal: a passphrase, or a key to import. Signals from the
	// terminal then reach it, too; once it is up it ignores SIGINT.
	Terminal bool
}

// Start runs an agent that ends with this process, or with Close, and is started again if it ends
// otherwise. ctx is for the first start only. A first start that fails gives a [*plugin.StartError].
func Start(ctx context.Context, cfg Config) (*Client, error) {
	spec := plugin.Spec{Path: cfg.Path, SHA256: cfg.SHA256, Protocol: wire.Version, Args: cfg.Args,
		Env: cfg.Env, Extra: cfg.Extra, Log: cfg.Log, Terminal: cfg.Terminal}
	return connected(ctx, func(ctx context.Context, use func(net.Conn) error) error {
		return plugin.Supervise(ctx, spec, func(_ context.Context, p *plugin.Process) { use(p.Conn()) })
	})
}

// Dial connects to an agent that listens on a unix socket, "unix:PATH", and connects again whenever the
// connection is lost. ctx is for the first connection only.
func Dial(ctx context.Context, address string) (*Client, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok || path == "" {
		return nil, errors.New("agent: address is not unix:PATH")
	}
	return connected(ctx, func(ctx context.Context, use func(net.Conn) error) error {
		return keepDialing(ctx, path, use)
	})
}

// New returns a client of an agent that c reaches. Close does not close c.
func New(c Caller) *Client { return &Client{caller: c, opened: openedTokens{seed: maphash.MakeSeed()}} }

// connected runs keep, which calls use with each connection, until the client is closed. It returns
// after the first connection, or the first failure.
func connected(ctx context.Context, keep func(ctx context.Context, use func(net.Conn) error) error) (*Client, error) {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &link{changed: make(chan struct{})}
	c := New(l)
	c.link, c.stop = l, stop
	first := make(chan error, 1)
	tell := func(err error) {
		select {
		case first <- err:
		default:
		}
	}
	c.wg.Go(func() {
		tell(keep(run, func(conn net.Conn) error { return l.use(run, conn, tell) }))
	})
	var err error
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// keepDialing returns an error if the first attempt fails.
func keepDialing(ctx context.Context, path string, use func(net.Conn) error) error {
	const shortest, longest = 50 * time.Millisecond, time.Second
	delay := time.Duration(0)
	for first := true; ; first = false {
		began := time.Now()
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			err = use(conn)
		}
		switch {
		case err != nil && first:
			return fmt.Errorf("agent: %w", err)
		case err == nil && time.Since(began) > longest:
			delay = 0
		default: // could not connect, or not for long
			delay = min(max(2*delay, shortest), longest)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		}
	}
}

// Close ends the connection, and the agent if Start has started it. Calls under way fail. It returns
// when nothing of the client runs any more.
func (c *Client) Close() error {
	if c.link == nil {
		return nil
	}
	c.stop()
	c.link.close()
	c.wg.Wait()
	return nil
}

// call asks the agent, and describes its failure.
func (c *Client) call(ctx context.Context, op string, req wire.Request, reply wire.Reply) error {
	return failed(op, c.caller.Call(ctx, req, reply))
}

// callInto is Call with the bytes of a small reply in the memory of buf, where that is possible.
func (c *Client) callInto(ctx context.Context, buf []byte, req wire.Request, reply wire.Reply) error {
	if into, ok := c.caller.(interface {
		CallInto(ctx context.Context, buf []byte, req wire.Request, reply wire.Reply) error
	}); ok {
		return into.CallInto(ctx, buf, req, reply)
	}
	return c.caller.Call(ctx, req, reply)
}
