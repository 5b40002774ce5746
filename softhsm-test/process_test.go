// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen soon. It is long because machines can be slow.
const patience = time.Minute

// A process runs until its test ends, at the latest.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  *bufio.Reader
	said *lines // on standard error
	done chan struct{}
}

// lines collects what a process says.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t testing.TB, path string, args ...string) *process {
	t.Helper()
	return startReading(t, nil, path, args...)
}

// startReading is start, with something to read.
func startReading(t testing.TB, in io.Reader, path string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), said: new(lines), done: make(chan struct{})}
	if in != nil {
		p.cmd.Stdin, p.cmd.WaitDelay = in, time.Second // for reading from in when nobody writes any more
	}
	p.cmd.Stderr = p.said
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.out = w, bufio.NewReader(out)
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait() // an exit status means nothing here
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		out.Close()
		if text := p.said.String(); strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") {
			t.Errorf("%s: %s", path, text)
		}
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// line reads a line that the process prints.
func (p *process) line() string {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("it printed %q, then %v; it said: %s", line, err, p.said)
	}
	return line
}

// end sends a signal, and waits until the process has ended.
func (p *process) end(sig syscall.Signal) {
	p.cmd.Process.Signal(sig) // fails if it has ended
	late := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.done
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// children returns the process ids of a process's children.
func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(field)
			pids = append(pids, child)
		}
	}
	return pids
}

// gone tells whether a process has ended, though perhaps nobody has waited for it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// descriptors counts those that a process has open. It returns 0 if this user may not know.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if errors.Is(err, os.ErrPermission) {
		t.Logf("descriptors are not counted: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// copyFile puts a copy of a program in place of whatever is there.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", b, 0o700)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
