// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// ErrNoParent says that a process was not started by [Start].
var ErrNoParent = errors.New("not started by another program of this project")

// A Child is this process's relation to the parent that started it.
type Child struct {
	// Conn is this end of the socketpair. It reads EOF when the parent is gone or wants this process to
	// end.
	Conn net.Conn
	// Log is the standard error. Use it from now on, since go-plugin replaces os.Stdout and os.Stderr.
	Log *os.File

	done chan struct{}
}

// IsChild reports whether this process was started by [Start].
func IsChild() bool {
	h := handshake(0)
	return os.Getenv(h.MagicCookieKey) == h.MagicCookieValue
}

// ServeChild tells the parent that this process is up, and answers its pings from then on. It must be
// called once, by a process that [Start] has started. See the package's example.
func ServeChild(protocol uint) (*Child, error) {
	return ServeGRPC(protocol, func(*grpc.Server) {}, grpc.MaxRecvMsgSize(64<<10))
}

// ServeGRPC is ServeChild for a process that also serves what register adds, to the parent's
// [Process.GRPC]. The options come after go-plugin's own.
func ServeGRPC(protocol uint, register func(*grpc.Server), options ...grpc.ServerOption) (*Child, error) {
	if !IsChild() {
		return nil, ErrNoParent
	}
	unix.Close(binaryFD)
	unix.CloseOnExec(connFD)
	file := os.NewFile(connFD, "parent")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return nil, err
	}
	c := &Child{Conn: conn, Log: os.Stderr, done: make(chan struct{})}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	go func() {
		defer close(c.done)
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: handshake(protocol),
			Plugins:         plugin.PluginSet{"service": service{register: register}},
			Logger:          log,
			GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
				return grpc.NewServer(append(o, options...)...)
			},
		})
	}()
	return c, nil
}

// Context returns a context that ends with ctx, or when the parent asks this process to end.
func (c *Child) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// PeerUID returns the user who has opened the other end of a unix socket connection.
func PeerUID(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return int(cred.Uid), nil
}
