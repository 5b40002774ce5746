// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// A Config says which provider to start.
type Config struct {
	Path     string    // of the binary, absolute
	SHA256   string    // of the binary, in hexadecimal
	Env      []string  // variables that it gets: NAME for this process's value, or NAME=value
	Settings []byte    // what its ReadSettings reads: one JSON object, without secrets; nil: {}
	Log      io.Writer // gets its standard error, a line at a time; nil discards it

	// Processes is how many processes of the provider share the work, at most [MaxProcesses]; default 1.
	Processes int

	// Timeout is how long a use of a key may take. A provider that has not answered by then is killed, and
	// started again. Default 3 s. What makes keys and checks all of them may take 20 times as long.
	Timeout time.Duration
}

// The classes of calls.
const (
	quick = 1
	slow  = 20
)

const (
	defaultTimeout = 3 * time.Second
	// patience is how long a call waits for a provider that is being started again.
	patience     = time.Second
	longestDelay = time.Second // between two attempts to start it
	checkEvery   = 30 * time.Second
	// noVersion is a version that no key has.
	noVersion = math.MaxUint32
	// maxWarnings is how many warnings and how many facts of a provider are kept.
	maxWarnings = 16
)

// MaxProcesses is how many processes one provider may have.
const MaxProcesses = 16

// A Connection is a provider in processes of its own, each of which is started again whenever it ends. A call goes
// to the process that has the fewest; one that hangs or has ended gets none as long as another is free. It is safe
// for concurrent use.
type Connection struct {
	cfg         Config
	provider    Provider
	description Description
	shards      []*shard
	changing    chan struct{} // has one element while a key is made or destroyed
	born        time.Time
	settings    *os.File
	many        bool // the provider takes the batches of several callers in one call
	stop        context.CancelFunc
	wg          sync.WaitGroup
}

// Connect starts a provider. ctx is for the first start only; what goes wrong there is a
// [*plugin.StartError], or says why the provider does not answer. The caller calls Close.
func Connect(ctx context.Context, cfg Config) (*Connection, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Settings == nil {
		cfg.Settings = []byte("{}")
	}
	if cfg.Log != nil {
		cfg.Log = &lockedWriter{w: cfg.Log}
	}
	cfg.Processes = max(cfg.Processes, 1)
	if cfg.Processes > MaxProcesses {
		return nil, fmt.Errorf("a provider can have %d processes at most", MaxProcesses)
	}
	settings, err := settingsFile(cfg.Settings)
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Connection{cfg: cfg, changing: make(chan struct{}, 1), born: time.Now(), settings: settings, stop: stop}
	spec := plugin.Spec{Path: cfg.Path, SHA256: cfg.SHA256, Protocol: Protocol, Env: cfg.Env, Log: cfg.Log,
		Extra: []*os.File{settings}, LongestDelay: longestDelay, Refused: int(CauseSecretRefused)}
	for range cfg.Processes { // one after the other: a wrong PIN is tried once
		if err := c.add(ctx, run, spec); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// add starts one more process. It is described if it is the first.
func (c *Connection) add(ctx, run context.Context, spec plugin.Spec) error {
	s := newShard(c)
	c.shards = append(c.shards, s)
	first := make(chan error, 1)
	c.wg.Go(func() { first <- plugin.Supervise(run, spec, s.use) })
	err := s.started(ctx, first)
	if err == nil && len(c.shards) == 1 {
		err = c.learn(ctx)
	}
	if err == nil {
		c.wg.Go(func() { s.keepChecking(run) })
	}
	return err
}

// settingsFile makes the file that a provider's ReadSettings reads.
func settingsFile(b []byte) (*os.File, error) {
	if len(b) > maxSettings {
		return nil, errors.New("a provider's settings are too long")
	}
	fd, err := unix.MemfdCreate("settings", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "settings")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// learn asks what the provider can do.
func (c *Connection) learn(ctx context.Context) error {
	reply, err := c.describe(ctx)
	if err != nil {
		return err
	}
	c.description, c.many = describedBy(reply), reply.Many
	c.provider = withAbilities(&remote{c}, abilities{reply.Generates, reply.Imports, reply.Rotates, reply.Destroys})
	return nil
}

func (c *Connection) describe(ctx context.Context) (reply *pb.DescribeReply, err error) {
	err = c.call(ctx, "asking what a provider can do", slow, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (f *pb.Failure, err error) {
		reply, err = p.Describe(ctx, &pb.DescribeRequest{}, o...)
		return reply.GetFailure(), err
	})
	return reply, err
}

func describedBy(r *pb.DescribeReply) Description {
	return Description{Name: clip(r.Name), Version: clip(r.Version), MaxData: int(min(max(r.MaxData, 0), math.MaxInt32)),
		Generates: named[KeyType](r.GenerateTypes), Imports: named[KeyType](r.ImportTypes), Random: r.Random,
		Warnings: clipAll(r.Warnings), Facts: clipAll(r.Facts)}
}

func clipAll(texts []string) (out []string) {
	for _, s := range texts[:min(len(texts), maxWarnings)] {
		out = append(out, clip(s))
	}
	return out
}

// Provider returns the provider. It has the capabilities that the process has advertised, and so have its
// keys. After Close, all of its calls fail as Transient.
func (c *Connection) Provider() Provider { return c.provider }

// Description is what the provider said of itself at its first start. To ask it again costs its device as much as that did.
func (c *Connection) Description() Description { return c.description }

// PID returns the process id of the provider, of its first process if it has several, or 0 while there is none.
func (c *Connection) PID() int { return c.PIDs()[0] }

// PIDs returns the ids of the provider's processes; 0 stands for one that is not there now.
func (c *Connection) PIDs() []int {
	pids := make([]int, len(c.shards))
	for i, s := range c.shards {
		if p, _ := s.current(); p != nil {
			pids[i] = p.PID()
		}
	}
	return pids
}

// Close ends the provider, which gets two seconds.
func (c *Connection) Close() error {
	c.stop()
	c.wg.Wait()
	return c.settings.Close()
}

// age is for how long the connection has been there, in nanoseconds.
func (c *Connection) age() int64 { return int64(time.Since(c.born)) }

// call makes a call to the process that is best for it.
func (c *Connection) call(ctx context.Context, op string, class int, do rpc) error {
	return c.best().call(ctx, op, class, do)
}

func (c *Connection) best() *shard {
	if len(c.shards) == 1 {
		return c.shards[0]
	}
	best, least := c.shards[0], c.shards[0].weight()
	for _, s := range c.shards[1:] {
		if w := s.weight(); w < least {
			best, least = s, w
		}
	}
	return best
}

// change makes a call that changes what keys there are. When it returns, all processes know.
func (c *Connection) change(ctx context.Context, op, name string, do rpc) error {
	select {
	case c.changing <- struct{}{}:
		defer func() { <-c.changing }()
	case <-ctx.Done():
		return &Error{Code: Transient, Op: op, Err: ctx.Err()}
	}
	changer := c.best()
	err := changer.call(ctx, op, slow, do)
	var others sync.WaitGroup
	for _, s := range c.shards {
		if s != changer {
			others.Go(func() { s.lookAgain(context.WithoutCancel(ctx), name) }) // which has a deadline of its own
		}
	}
	others.Wait()
	return err
}

// health is that of all processes.
func (c *Connection) health(ctx context.Context) error {
	errs := make([]error, len(c.shards))
	var checks sync.WaitGroup
	for i, s := range c.shards {
		checks.Go(func() { errs[i] = s.health(ctx) })
	}
	checks.Wait()
	for i, err := range errs {
		if err != nil && len(errs) > 1 {
			return &Error{Code: CodeOf(err), Op: fmt.Sprintf("process %d of %d", i+1, len(errs)), Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Connection) log(format string, args ...any) {
	if c.cfg.Log != nil {
		fmt.Fprintf(c.cfg.Log, format+"\n", args...)
	}
}

// A lockedWriter is written to by the process's log, its supervisor, and the connection.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
