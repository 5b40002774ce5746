// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// A Spec says what to start.
type Spec struct {
	Path     string     // absolute; symlinks are followed
	SHA256   string     // of the binary, in hexadecimal; required
	Protocol uint       // version of what the two say to each other; the child must have the same
	Args     []string   // without the name of the program
	Env      []string   // variables that the child gets: NAME for the parent's value, or NAME=value
	Extra    []*os.File // the child's descriptors from FirstExtraFD on; they stay open here
	Log      io.Writer  // gets the child's standard error, a line at a time; nil discards it
	Input    io.Reader  // for Run: the child's standard input; nil is this process's
	// Terminal leaves the child in this process group, so that it may read from the terminal. Otherwise
	// it has its own, and signals from the terminal reach the parent only.
	Terminal bool
	// LongestDelay bounds the time between two attempts of Supervise to start the child again; 0 means 5 s.
	LongestDelay time.Duration
	// Refused, if not 0, is the exit code of a child whose password was refused. Supervise then waits for RefusedDelay.
	Refused int
	// StartTimeout bounds the time until the child has said that it is up; 0 means 15 s.
	StartTimeout time.Duration
}

// A Step is what Start was at when it failed.
type Step uint8

const (
	StepResolve     Step = iota + 1 // finding and opening the binary
	StepPermissions                 // checking who can change it
	StepRead                        // reading it
	StepHash                        // comparing its SHA-256
	StepSeal                        // sealing the copy
	StepLaunch                      // making the process
	StepHandshake                   // waiting until it says that it is up
	StepPing                        // its first sign of life
)

var stepTexts = [...]string{"starting", "finding the binary", "checking permissions", "reading the binary",
	"checking the hash", "sealing the binary", "launching", "waiting for the start", "first ping"}

func (s Step) String() string { return stepTexts[s] }

// ErrEnded is the Err of a [StartError] whose child ended by itself before it was up.
var ErrEnded = errors.New("ended before it was up")

// A StartError says why a child did not start.
type StartError struct {
	Path     string
	Step     Step
	Err      error
	ExitCode int    // of a child that ended by itself, with ErrEnded
	Output   string // the last line that the child wrote to its standard error, if any
}

// Error returns one line.
func (e *StartError) Error() string {
	s := fmt.Sprintf("%s: %v: %v", e.Path, e.Step, e.Err)
	if e.Err == ErrEnded {
		s = fmt.Sprintf("%s: %v with exit code %d", e.Path, e.Err, e.ExitCode)
	}
	if e.Output != "" {
		s += ": it says: " + e.Output
	}
	return strings.Join(strings.Fields(s), " ") // go-plugin's errors have several
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// A Process is a child that runs. It is safe for concurrent use.
type Process struct {
	conn   net.Conn
	client *plugin.Client
	rpc    plugin.ClientProtocol
	grpc   *grpc.ClientConn
	runner *launch
	dir    string
	closed sync.Once
}

// Start verifies the binary that spec names and runs it. It returns when the child is up. All its
// errors are of type [*StartError]. The child is killed when this process ends, however it ends;
// ctx is only for the start. The caller must call Close.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	log := &lastLine{w: spec.Log}
	p, step, err := start(ctx, spec, log)
	if err == nil {
		return p, nil
	}
	e := &StartError{Path: spec.Path, Step: step, Err: err, Output: log.String()}
	if code, ended := p.exitCode(); ended {
		e.Err, e.ExitCode = ErrEnded, code
	}
	if ctx.Err() != nil {
		e.Err = ctx.Err()
	}
	return nil, e
}

// start returns a process that has ended, if it made one, when it fails.
func start(ctx context.Context, spec Spec, log io.Writer) (p *Process, step Step, err error) {
	binary, step, err := verified(spec.Path, spec.SHA256)
	if err != nil {
		return nil, step, err
	}
	defer binary.Close()
	conn, childConn, err := socketpair()
	if err != nil {
		return nil, StepLaunch, err
	}
	defer childConn.Close()
	p = &Process{conn: conn, runner: newLaunch(spec, childConn, binary)}
	defer func() {
		if err != nil {
			p.Kill()
		}
	}()
	// go-plugin makes its folder in here. It would leave its own behind if the launch failed.
	if p.dir, err = os.MkdirTemp("", "mslkeep-"); err != nil {
		return p, StepLaunch, err
	}
	timeout := spec.StartTimeout
	if timeout == 0 {
		timeout = 15 * time.Second
	}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake(spec.Protocol),
		Plugins:          plugin.PluginSet{"service": service{}},
		RunnerFunc:       p.runner.prepare,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     timeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		Stderr:           log,
		Logger:           hclog.NewNullLogger(),
	})
	stop := context.AfterFunc(ctx, func() { p.runner.Kill(ctx) })
	defer stop()
	if _, err := p.client.Start(); err != nil {
		if !p.runner.launched() {
			return p, StepLaunch, err
		}
		return p, StepHandshake, err
	}
	if p.rpc, err = p.client.Client(); err != nil {
		return p, StepHandshake, err
	}
	if c, ok := p.rpc.(*plugin.GRPCClient); ok {
		p.grpc = c.Conn
	}
	if err := p.rpc.Ping(); err != nil {
		return p, StepPing, err
	}
	if ctx.Err() != nil {
		return p, StepPing, ctx.Err()
	}
	return p, 0, nil
}

func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	here, there := os.NewFile(uintptr(fds[0]), "conn"), os.NewFile(uintptr(fds[1]), "child conn")
	defer here.Close()
	conn, err := net.FileConn(here)
	if err != nil {
		there.Close()
		return nil, nil, err
	}
	return conn, there, nil
}

// Conn returns this end of the socketpair. The caller may close it; the child then ends.
func (p *Process) Conn() net.Conn { return p.conn }

// GRPC returns the connection on which the child serves what it gave to [ServeGRPC]. It is closed with the
// process.
func (p *Process) GRPC() *grpc.ClientConn { return p.grpc }

// PID returns the child's process id.
func (p *Process) PID() int { return p.runner.pid() }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.runner.ended }

// exitCode returns the exit code of a child that ended by itself.
func (p *Process) exitCode() (code int, ended bool) {
	if p == nil || !p.runner.launched() {
		return 0, false
	}
	<-p.Done()
	state := p.runner.cmd.ProcessState
	return state.ExitCode(), state.Exited()
}

// Ping asks the child for a sign of life, and waits for it until ctx ends.
func (p *Process) Ping(ctx context.Context) error {
	answer := make(chan error, 1)
	go func() { answer <- p.rpc.Ping() }() // ends at the latest with the child
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close closes the connection, gives the child two seconds to end, and kills it. It returns when the
// child has ended and nothing of it is left.
func (p *Process) Close() error {
	p.conn.Close()
	select {
	case <-p.Done():
	case <-time.After(2 * time.Second):
	}
	p.Kill()
	return nil
}

// Kill ends the child at once. It returns when nothing of it is left.
func (p *Process) Kill() {
	p.closed.Do(func() {
		p.conn.Close()
		p.runner.Kill(context.Background())
		if p.client != nil {
			p.client.Kill()
		}
		if p.dir != "" {
			os.RemoveAll(p.dir)
		}
	})
}

// lastLine passes whole lines on, and remembers the last one.
type lastLine struct {
	w    io.Writer
	mu   sync.Mutex
	line []byte // the one that has begun
	last string
}

const (
	longestLine = 64 << 10 // bytes; longer ones are split
	longestLast = 2 << 10  // room for a child's child's words within those of the child
)

// Write gets pieces of lines, as go-plugin splits them.
func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		l.line = append(l.line, rest[:n]...)
		rest = rest[n:]
		if l.line[len(l.line)-1] == '\n' || len(l.line) >= longestLine {
			l.flush()
		}
	}
	return len(b), nil
}

func (l *lastLine) flush() {
	if text := bytes.TrimSpace(l.line); len(text) > 0 {
		l.last = string(text[:min(len(text), longestLast)])
	}
	if l.w != nil {
		_, _ = l.w.Write(l.line) // a log that fails must not stop the child
	}
	l.line = l.line[:0]
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.flush()
	}
	return l.last
}
