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
)

// A Connection is a provider in a process of its own, which is started again whenever it ends. It is safe
// for concurrent use.
type Connection struct {
	cfg         Config
	provider    Provider
	description Description
	breaker     breaker
	stop        context.CancelFunc
	wg          sync.WaitGroup

	mu      sync.Mutex
	process *plugin.Process // nil: none runs
	changed chan struct{}   // closed when process changes
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
	settings, err := settingsFile(cfg.Settings)
	if err != nil {
		return nil, err
	}
	spec := plugin.Spec{Path: cfg.Path, SHA256: cfg.SHA256, Protocol: Protocol, Env: cfg.Env, Log: cfg.Log,
		Extra: []*os.File{settings}, LongestDelay: longestDelay}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Connection{cfg: cfg, stop: stop, changed: make(chan struct{}), breaker: breaker{now: time.Now}}
	first := make(chan error, 1)
	c.wg.Go(func() {
		defer settings.Close()
		first <- plugin.Supervise(run, spec, c.use)
	})
	if err := c.describe(ctx, first); err != nil {
		c.Close()
		return nil, err
	}
	c.wg.Go(func() { c.keepChecking(run) })
	return c, nil
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

// describe waits for the first process and asks what it can do. first gets the error of a start that failed.
func (c *Connection) describe(ctx context.Context, first <-chan error) error {
	for {
		p, changed := c.current()
		if p != nil {
			break
		}
		select {
		case <-changed:
		case err := <-first:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var reply *pb.DescribeReply
	err := c.call(ctx, "asking what a provider can do", slow, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (f *pb.Failure, err error) {
		reply, err = p.Describe(ctx, &pb.DescribeRequest{}, o...)
		return reply.GetFailure(), err
	})
	if err != nil {
		return err
	}
	c.description = Description{Name: clip(reply.Name), Version: clip(reply.Version), MaxData: int(min(max(reply.MaxData, 0), math.MaxInt32)),
		Generates: named[KeyType](reply.GenerateTypes), Imports: named[KeyType](reply.ImportTypes)}
	c.provider = withAbilities(&remote{c}, abilities{reply.Generates, reply.Imports, reply.Rotates, reply.Destroys})
	return nil
}

// Provider returns the provider. It has the capabilities that the process has advertised, and so have its
// keys. After Close, all of its calls fail as Transient.
func (c *Connection) Provider() Provider { return c.provider }

// PID returns the process id of the provider, or 0 while there is none.
func (c *Connection) PID() int {
	if p, _ := c.current(); p != nil {
		return p.PID()
	}
	return 0
}

// Close ends the provider, which gets two seconds.
func (c *Connection) Close() error {
	c.stop()
	c.wg.Wait()
	return nil
}

// use is what Supervise calls with each process.
func (c *Connection) use(ctx context.Context, p *plugin.Process) {
	c.install(p)
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
	c.install(nil)
}

func (c *Connection) install(p *plugin.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.process = p
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Connection) current() (*plugin.Process, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process, c.changed
}

// wait returns the process, if it runs or is soon started again, or nil.
func (c *Connection) wait(ctx context.Context) *plugin.Process {
	var timeout <-chan time.Time
	for {
		p, changed := c.current()
		if p != nil {
			return p
		}
		if timeout == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-timeout:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// A rpc makes one call. It returns the failure that is in the reply, or the error of gRPC.
type rpc func(context.Context, pb.ProviderClient, ...grpc.CallOption) (*pb.Failure, error)

// call makes a call, unless the breaker is open, and kills a provider that does not answer in time. Its
// errors are of type [*Error].
func (c *Connection) call(ctx context.Context, op string, class int, do rpc) (err error) {
	if err := ctx.Err(); err != nil {
		return &Error{Code: Transient, Op: op, Err: err}
	}
	if !c.breaker.enter() {
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider has failed several times")}
	}
	o := unknown
	defer func() { c.breaker.leave(o) }()
	p := c.wait(ctx)
	if p == nil {
		if ctx.Err() == nil {
			o = faulty
		}
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider is not running")}
	}
	timed, cancel := context.WithTimeout(ctx, time.Duration(class)*c.cfg.Timeout)
	defer cancel()
	failure, err := do(timed, pb.NewProviderClient(p.GRPC()), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
	if err != nil {
		hung := timed.Err() != nil && ctx.Err() == nil
		err, fault := fromStatus(ctx, op, err)
		if fault {
			o = faulty
		}
		if hung {
			c.log("the provider did not answer in time, and is killed: %s", op)
			go p.Kill()
		}
		return err
	}
	err = fromFailure(failure, op)
	o = worked
	if CodeOf(err) == Device {
		o = faulty
	}
	return err
}

// keepChecking has the provider use its keys from time to time, and says when it fails.
func (c *Connection) keepChecking(ctx context.Context) {
	r := &remote{c}
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(checkEvery):
		}
		err := r.Health(ctx)
		if err != nil && ctx.Err() == nil && healthy {
			c.log("the provider is not healthy: %v", err)
		} else if err == nil && !healthy {
			c.log("the provider is healthy again")
		}
		healthy = err == nil
	}
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
