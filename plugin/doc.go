// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugin starts child processes that are trusted because their bytes are: it verifies a
// binary against a pinned SHA-256, runs exactly the bytes that it hashed, supervises the process, and
// hardens it from within. It knows nothing of keys or of what the two processes say to each other.
//
// The parent calls [Start], or [Supervise] to have the child started again whenever it ends. Both go
// through hashicorp/go-plugin for the handshake, the protocol version and the sign of life (gRPC under
// mutual TLS). What parent and child really say travels on a private socketpair whose ends are
// [Process.Conn] and [Child.Conn], or, where the child may be written in any language, on that gRPC:
// [Process.GRPC] and [ServeGRPC].
//
// The main function of a child opens what it needs before it tells the parent that it is up, so that
// a failure is reported by the parent's Start:
//
//	func main() {
//		findings := plugin.Harden(false) // before any secret is read
//		keys, err := openKeys()
//		if err != nil {
//			fmt.Fprintln(os.Stderr, "agent:", err) // the parent shows the last line in its StartError
//			os.Exit(1)
//		}
//		child, err := plugin.ServeChild(protocol)
//		if err != nil {
//			fmt.Fprintln(os.Stderr, "agent:", err)
//			os.Exit(1)
//		}
//		// From here on, logs go to child.Log. Serve returns when the parent is gone.
//		ctx, stop := child.Context(context.Background())
//		defer stop()
//		serve(ctx, child.Conn, keys, findings)
//	}
//
// A child has these descriptors: standard input is the parent's, standard output belongs to go-plugin,
// standard error goes to [Spec.Log], 3 is the socketpair, 4 its own binary (closed by ServeChild), and
// from 5 on there are [Spec.ExtraFiles].
//
// The package needs Linux: memfd, pdeathsig, prctl.
package plugin

import (
	"context"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// Descriptors of a child.
const (
	connFD   = 3
	binaryFD = 4
	// FirstExtraFD is the descriptor of the first of Spec.ExtraFiles in the child.
	FirstExtraFD = 5
)

// handshake is not a secret: it keeps people from running a child by hand, and old ones from new ones.
func handshake(protocol uint) plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  protocol,
		MagicCookieKey:   "MSLKEEP_CHILD",
		MagicCookieValue: "7d2a6f4be1c94c6f8f0b52f1f0a3d9c1",
	}
}

// A service is what the child serves beside go-plugin's health and shutdown. In the parent it is nothing.
type service struct {
	plugin.NetRPCUnsupportedPlugin
	register func(*grpc.Server)
}

var _ plugin.GRPCPlugin = service{}

func (s service) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	s.register(server)
	return nil
}

func (service) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}
