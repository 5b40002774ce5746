// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of this package run the built binaries, as processes of their own.

// patience is how long a test waits for what must happen soon. It is long because machines can be slow.
const patience = 30 * time.Second

// binaries is the folder of what TestMain has built, model that of a world (world_test.go).
var binaries, model string

// holdKey, if set, makes this test binary a process that holds the first key of the log that it names.
const holdKey = "MSLKEEP_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdKey); path != "" {
		hold(path)
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mslkeep-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries, model = filepath.Join(dir, "bin"), filepath.Join(dir, "model")
	err = errors.Join(os.Setenv("TMPDIR", dir), // for what killed processes leave behind
		os.Mkdir(binaries, 0o755), os.Mkdir(model, 0o700))
	for _, step := range []func() error{build, makeModel} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "before the tests:", err)
		return 1
	}
	return m.Run()
}

// openFolders opens all folders of the repository, once, because go test repeats an old result only if
// nothing that a test has opened is new, and would not know that the agent has changed.
var openFolders = sync.OnceValue(func() error {
	return filepath.WalkDir("../..", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	})
})

// build builds the binaries as the Makefile does.
func build() error {
	compile := func(args ...string) error {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", binaries + "/"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	}
	if err := compile("../mslkeep-agent", "../mslkeep-scan", "../mslkeep-enrol", "../mslkeep-provider-tpm"); err != nil {
		return err
	}
	agent, err := sum(filepath.Join(binaries, "mslkeep-agent"))
	if err != nil {
		return err
	}
	scan, err := sum(filepath.Join(binaries, "mslkeep-scan"))
	if err != nil {
		return err
	}
	enrol, err := sum(filepath.Join(binaries, "mslkeep-enrol"))
	if err != nil {
		return err
	}
	return compile("-ldflags", "-X main.agentSHA256="+agent+" -X main.scanSHA256="+scan+" -X main.enrolSHA256="+enrol, ".")
}

// A result is how a command ended.
type result struct {
	code     int
	out, err string
}

// execute runs a binary to its end.
func execute(ctx context.Context, stdin io.Reader, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, name), args...)
	cmd.Stdin = stdin
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return result{-1, "", err.Error()}
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), said.String()}
}

// ok returns the output of a command that must have succeeded.
func (r result) ok(t testing.TB) string {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.err)
	}
	return r.out
}

// A process runs until it is stopped, at the latest when its test ends.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	said   *lines // on standard error
	url    string // of a server, the first
	urls   []string
	agent  int // process id of the agent that it started with
	waited sync.Once
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

// start starts a binary. prepare may change how.
func start(t testing.TB, prepare func(*exec.Cmd), name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	p := &process{t: t, cmd: cmd, said: new(lines)}
	cmd.Stderr = p.said
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if prepare != nil {
		prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process at once. It must not have panicked before.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.waited.Do(func() { _ = p.cmd.Wait() })
	if said := p.said.String(); strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
		p.t.Errorf("it has panicked: %s", said)
	}
}

// stop lets the process end, and returns its exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.in.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	return p.wait()
}

// wait waits until the process has ended by itself.
func (p *process) wait() int {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	p.waited.Do(func() { _ = p.cmd.Wait() })
	return p.cmd.ProcessState.ExitCode()
}

// skip reads n bytes of what the process prints.
func (p *process) skip(n int64) {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if got, err := io.CopyN(io.Discard, p.out, n); err != nil {
		p.t.Fatalf("%d of %d bytes, then %v; it said: %s", got, n, err, p.said)
	}
}

// line reads a line that the process prints.
func (p *process) line() string {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("it printed %q, then %v; it said: %s", line, err, p.said)
	}
	return strings.TrimSuffix(line, "\n")
}

// decode reads a line of JSON.
func (p *process) decode(v any) {
	p.t.Helper()
	if line := p.line(); json.Unmarshal([]byte(line), v) != nil {
		p.t.Fatalf("%q is not what it should print; it said: %s", line, p.said)
	}
}

// try has a send --lines --json send one message.
func (p *process) try(text string) report {
	p.t.Helper()
	if _, err := io.WriteString(p.in, text+"\n"); err != nil {
		p.t.Fatalf("%v; it said: %s", err, p.said)
	}
	var r report
	p.decode(&r)
	return r
}

// say does so and must succeed.
func (p *process) say(text string) report {
	p.t.Helper()
	r := p.try(text)
	if r.Error != "" || r.Bytes != int64(len(text)) {
		p.t.Fatalf("%.40q: answered %d bytes, %s", text, r.Bytes, r.Error)
	}
	return r
}

// eventually polls until ok.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// gone tells whether a process has ended, though perhaps nobody has waited for it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// oneLine checks that a command failed with a line as the rules want it, which mentions all of want.
func (r result) oneLine(t testing.TB, code int, want ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d: %s", r.code, code, r.err)
	}
	line, rest, ended := strings.Cut(r.err, "\n")
	if !ended || rest != "" || !strings.HasPrefix(line, "mslkeep: ") || r.out != "" || len(line) > 500 {
		t.Errorf("not one line:\n%s%s", r.out, r.err)
	}
	for _, w := range want {
		if !strings.Contains(line, w) {
			t.Errorf("%q is not in: %s", w, line)
		}
	}
}

// peakMemory is the most that a process ever had in memory, in bytes.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, _ = fmt.Sscan(rest, &kib)
	return kib << 10
}
