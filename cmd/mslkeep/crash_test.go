// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// recovery is when a test gives up waiting for messages to succeed after a crash. An agent is back within a second
// on a machine that has the time; on one that tests everything else too, that says nothing.
const recovery = time.Minute

// A loadTest is a server, and 64 goroutines of this process that send to it and look at every answer.
type loadTest struct {
	t       *testing.T
	server  *process
	sender  *sender
	running sync.WaitGroup
	stop    atomic.Bool
	good    atomic.Int64 // messages that were answered with their own data
	failed  atomic.Int64 // messages that failed as they may
}

// newSender returns a sender in this process, with an agent of its own.
func (w *world) newSender(device, url string) *sender {
	w.t.Helper()
	cfg, err := loadConfig(w.path(device, "send.toml"))
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.log = new(lines)
	cfg.Send.URL = url
	cfg.Agent.Binary = filepath.Join(binaries, "mslkeep-agent")
	if cfg.Agent.SHA256, err = sum(cfg.Agent.Binary); err != nil {
		w.t.Fatal(err)
	}
	s, err := newSender(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.close)
	return s
}

func startLoad(t *testing.T, device, listen string) *loadTest {
	t.Helper()
	w := newWorld(t)
	l := &loadTest{t: t, server: w.serve("--listen", listen)}
	l.sender = w.newSender(device, l.server.url)
	for range 64 {
		l.running.Go(l.run)
	}
	t.Cleanup(func() {
		l.stop.Store(true)
		l.running.Wait()
		t.Logf("%d messages answered, %d failed", l.good.Load(), l.failed.Load())
	})
	l.proceed()
	return l
}

// run sends messages of different sizes until the test ends.
func (l *loadTest) run() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for size := 1; !l.stop.Load(); size = size*3%99_991 + 1 {
		data := bytes.Repeat([]byte{byte(size)}, size)
		answer, err := l.send(ctx, data)
		switch {
		case err == nil && bytes.Equal(answer, data):
			l.good.Add(1)
		case err == nil:
			l.t.Errorf("a message of %d bytes got another answer, of %d", size, len(answer))
		case transient(err):
			l.failed.Add(1)
		default:
			l.t.Errorf("not an error to try again after: %v", err)
			return
		}
	}
}

func (l *loadTest) send(ctx context.Context, data []byte) ([]byte, error) {
	answer, err := l.sender.client.Do(ctx, &msl.Request{Body: bytes.NewReader(data)})
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	return io.ReadAll(answer)
}

// transient tells whether the peer asks to try again, or our agent was away. The peer can say nothing when its agent goes in the
// middle of an answer, but cut that off.
func transient(err error) bool {
	if remote, ok := errors.AsType[*msl.RemoteError](err); ok {
		return remote.Response == msl.TransientFailure
	}
	if failure, ok := errors.AsType[msl.FailureError](err); ok {
		class, _ := failure.Failure()
		return class == msl.Unavailable
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// proceed waits until more messages have succeeded than were under way.
func (l *loadTest) proceed() {
	l.t.Helper()
	before := l.good.Load()
	eventually(l.t, recovery, "messages succeed", func() bool { return l.good.Load() > before+100 })
}

// crashes kills an agent several times, as soon as it works.
func (l *loadTest) crashes(agent func() int) {
	l.t.Helper()
	for range 4 {
		pid := agent()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			l.t.Fatalf("killing process %d: %v", pid, err)
		}
		eventually(l.t, recovery, "the agent ends", func() bool { return gone(pid) })
		l.proceed()
	}
}

func TestServersAgentKilled(t *testing.T) {
	for device, listen := range map[string]string{"device-1": "http://127.0.0.1:0", "device-2": "tcp://127.0.0.1:0"} {
		t.Run(device, func(t *testing.T) {
			l := startLoad(t, device, listen)
			l.crashes(func() int {
				pid, err := childAgent(l.server.pid())
				if err != nil {
					t.Fatal(err)
				}
				return pid
			})
		})
	}
}

func TestClientsAgentKilled(t *testing.T) {
	for device, listen := range map[string]string{"device-1": "ws://127.0.0.1:0", "device-2": "http://127.0.0.1:0"} {
		t.Run(device, func(t *testing.T) {
			l := startLoad(t, device, listen)
			l.crashes(l.sender.keys.PID)
		})
	}
}

// TestNoOrphans: an agent ends with the process that started it, however that ended.
func TestNoOrphans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, end := range []func(*process){
		func(p *process) { p.kill() },
		func(p *process) { p.stop() },
	} {
		s := w.serve()
		p := w.sender("device-1", s)
		client := p.say("hello").AgentPID
		if gone(client) || gone(s.agent) {
			t.Fatal("the test does not know its agents")
		}
		for _, c := range []struct {
			of    *process
			agent int
		}{{p, client}, {s, s.agent}} {
			end(c.of)
			eventually(t, recovery, "the agent is gone too", func() bool { return gone(c.agent) })
		}
	}
}
