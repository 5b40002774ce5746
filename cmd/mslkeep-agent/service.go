// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
)

const (
	// maxConnections bounds the connections that are served at once.
	maxConnections = 64
	// drainTime is how long requests under way get when the service is to end.
	drainTime = 5 * time.Second
)

// A service is the agent on a unix socket.
type service struct {
	agent *custody.Agent
	allow []int // uids
	log   *slog.Logger
	drain drain
	slots chan struct{}
}

// runService listens until ctx ends, then lets the requests under way finish.
func runService(ctx context.Context, cfg *config, o *options, findings []plugin.Finding) error {
	opened, err := open(ctx, cfg, findings, nil)
	if err != nil {
		return err
	}
	defer opened.close()
	l, err := listen(o.listen, o.allowUIDs)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	logFindings(log, findings)
	log.Info("listening", "socket", o.listen, "uids", o.allowUIDs)
	s := &service{agent: opened.Agent, allow: o.allowUIDs, log: log, slots: make(chan struct{}, maxConnections)}
	return s.run(ctx, l)
}

// run serves connections. It returns when none is left.
func (s *service) run(ctx context.Context, l *net.UnixListener) error {
	context.AfterFunc(ctx, func() { l.Close() }) // which also removes the socket
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	var failed error
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			s.log.Warn("accepting a connection", "err", err)
			time.Sleep(50 * time.Millisecond) // until a descriptor is free
			continue
		}
		if err != nil {
			failed = fmt.Errorf("accepting connections: %w", err)
			break
		}
		if !s.admitted(conn) {
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-s.slots }()
			s.serve(serving, conn)
		})
	}
	l.Close()
	s.log.Info("ending")
	s.drain.wait(drainTime)
	cancel()
	wg.Wait()
	return failed
}

// admitted checks who has connected, and takes one of the slots.
func (s *service) admitted(conn *net.UnixConn) bool {
	uid, err := plugin.PeerUID(conn)
	if err != nil || !slices.Contains(s.allow, uid) {
		s.log.Warn("refused a connection", "uid", uid, "err", err)
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.log.Warn("refused a connection: too many", "uid", uid)
		return false
	}
}

func (s *service) serve(ctx context.Context, conn net.Conn) {
	peer := s.agent.NewPeer()
	defer peer.Close()
	if err := wire.Serve(ctx, conn, &draining{peer, &s.drain}, wire.Options{Logger: s.log}); err != nil {
		s.log.Warn("connection ended", "err", err)
	}
}

// A drain counts the requests under way. Once it is closing, no more may begin.
type drain struct {
	closing atomic.Bool
	running atomic.Int64
}

// wait closes the drain and waits, not longer than limit, until nothing is under way and replies had
// time to be written.
func (d *drain) wait(limit time.Duration) {
	const tick = 20 * time.Millisecond
	d.closing.Store(true)
	idle := 0
	for began := time.Now(); idle < 3 && time.Since(began) < limit; time.Sleep(tick) {
		if d.running.Load() == 0 {
			idle++
		} else {
			idle = 0
		}
	}
}

// draining is a peer that takes no more requests once its drain is closing.
type draining struct {
	*custody.Peer
	drain *drain
}

func (p *draining) Handle(ctx context.Context, r wire.Request) (wire.Reply, error) {
	p.drain.running.Add(1)
	defer p.drain.running.Add(-1)
	if p.drain.closing.Load() {
		return nil, wire.Fail(wire.Transient, "agent is shutting down")
	}
	return p.Peer.Handle(ctx, r)
}

// listen makes the socket. Only this user can connect to it, unless other users are allowed: then anybody
// can, and is asked who it is.
func listen(path string, uids []int) (*net.UnixListener, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		err = checkFolder(filepath.Dir(path))
	}
	if err == nil {
		err = removeStale(path)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	old := unix.Umask(0o177) // the socket is born 0600
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if !slices.Equal(uids, []int{os.Geteuid()}) {
		if err := os.Chmod(path, 0o666); err != nil {
			l.Close()
			return nil, fmt.Errorf("listening on %s: %w", path, err)
		}
	}
	return l, nil
}

// checkFolder sees that nobody else can put another socket in place of ours: neither in the folder, nor
// by replacing it or a folder above.
func checkFolder(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for at := dir; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Stat(at, &st); err != nil {
			return err
		}
		sticky := at != dir && st.Mode&unix.S_ISVTX != 0
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 && !sticky {
			return fmt.Errorf("other users can change the folder %s; choose one that belongs to this user, of mode 0755 or less", at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// removeStale removes a socket on which nobody listens any more.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket == 0 {
		return errors.New("there is something else of that name")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another agent is listening there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
