// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"
)

// A launch runs a child for go-plugin.
type launch struct {
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser
	process        atomic.Pointer[os.Process]
	ended          chan struct{} // closed when the child has ended
}

func newLaunch(spec Spec, conn, binary *os.File) *launch {
	cmd := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", binaryFD), // of the child, once it has its descriptors
		Args:       append([]string{spec.Path}, spec.Args...),
		Env:        allowed(spec.Env),
		Stdin:      os.Stdin,
		ExtraFiles: append([]*os.File{conn, binary}, spec.Extra...),
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:   !spec.Terminal,
			Pdeathsig: syscall.SIGKILL,
		},
	}
	return &launch{cmd: cmd, ended: make(chan struct{})}
}

func allowed(names []string) []string {
	env := []string{}
	for _, name := range names {
		if strings.Contains(name, "=") {
			env = append(env, name)
		} else if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// prepare takes from go-plugin the variables that its side of the child needs.
func (l *launch) prepare(_ hclog.Logger, cmd *exec.Cmd, _ string) (_ runner.Runner, err error) {
	l.cmd.Env = append(l.cmd.Env, cmd.Env...)
	if l.stdout, err = l.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if l.stderr, err = l.cmd.StderrPipe(); err != nil {
		return nil, err
	}
	return l, nil
}

// Start makes the process from a thread that lives as long as the child does, since the kernel sends
// the parent-death signal when the thread that made the child ends.
func (l *launch) Start(context.Context) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
		// Inherited by all threads of the child. If it fails, the child's Harden reports so.
		_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		err := l.cmd.Start()
		if err == nil {
			l.process.Store(l.cmd.Process)
		}
		started <- err
		if err == nil {
			<-l.ended
		}
	}()
	return <-started
}

// Wait is called once, by go-plugin.
func (l *launch) Wait(context.Context) error {
	defer close(l.ended)
	return l.cmd.Wait()
}

// Kill may be called at any time.
func (l *launch) Kill(context.Context) error {
	if p := l.process.Load(); p != nil {
		_ = p.Kill() // an error means that it has ended
	}
	return nil
}

func (l *launch) launched() bool { return l.process.Load() != nil }

func (l *launch) pid() int {
	if p := l.process.Load(); p != nil {
		return p.Pid
	}
	return 0
}

// The rest is what go-plugin wants to know.

func (l *launch) Stdout() io.ReadCloser           { return l.stdout }
func (l *launch) Stderr() io.ReadCloser           { return l.stderr }
func (l *launch) Name() string                    { return l.cmd.Args[0] }
func (l *launch) ID() string                      { return strconv.Itoa(l.pid()) }
func (l *launch) Diagnose(context.Context) string { return "" }

func (l *launch) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (l *launch) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
