// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testProtocol = 7

// The test binary is also the child, and the parent of a child.
func TestMain(m *testing.M) {
	switch {
	case IsChild():
		childMain()
	case len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "parent="):
		parentMain(strings.TrimPrefix(os.Args[1], "parent="))
	default:
		os.Exit(m.Run())
	}
}

// state is what a child tells of itself.
type state struct {
	PID       int
	Env       []string
	Findings  []Finding
	Dumpable  int
	Core      uint64
	Exe, Args string
	Binary    bool // descriptor 4 is open
}

func childMain() {
	findings := Harden(slices.Contains(os.Args, "dumpable"))
	if slices.Contains(os.Args, "count") {
		count := os.NewFile(FirstExtraFD, "count")
		count.Write([]byte{1})
		if info, err := count.Stat(); err == nil && info.Size() > 1 && slices.Contains(os.Args, "refused") {
			os.Exit(9)
		}
	}
	if slices.Contains(os.Args, "fail") {
		fmt.Fprintln(os.Stderr, "first line")
		fmt.Fprintln(os.Stderr, "key file damaged")
		os.Exit(1)
	}
	child, err := ServeChild(testProtocol)
	if err != nil {
		os.Exit(1)
	}
	ctx, cancel := child.Context(context.Background())
	defer cancel()
	context.AfterFunc(ctx, func() { child.Conn.Close() })
	fmt.Fprintln(child.Log, "child is up")
	s := state{PID: os.Getpid(), Env: os.Environ(), Findings: findings, Args: strings.Join(os.Args, " ")}
	s.Dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	s.Core = limit.Max
	s.Exe, _ = os.Readlink("/proc/self/exe")
	target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", binaryFD))
	s.Binary = strings.HasPrefix(target, "/memfd:")
	json.NewEncoder(child.Conn).Encode(s)
	io.Copy(io.Discard, child.Conn) // until the parent is gone
	if slices.Contains(os.Args, "stay") {
		select {}
	}
}

// parentMain starts a child that stays, shares a pipe with it, and waits to be killed.
func parentMain(path string) {
	sum, _ := HashFile(path)
	p, err := Start(context.Background(), Spec{Path: path, SHA256: sum, Protocol: testProtocol,
		Args: []string{"stay"}, Extra: []*os.File{os.NewFile(3, "pipe")}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}

func spec(t *testing.T, args ...string) Spec {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Path: path, SHA256: sum, Protocol: testProtocol, Args: args}
}

// leakCheck fails the test if goroutines of this test are left over at its end.
func leakCheck(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(3 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(end) {
				b := make([]byte, 1<<16)
				t.Fatalf("goroutines left over:\n%s", b[:runtime.Stack(b, true)])
			}
		}
	})
}

func stateOf(t *testing.T, conn net.Conn) state {
	t.Helper()
	var s state
	if err := json.NewDecoder(conn).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStart(t *testing.T) {
	leakCheck(t)
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("PASSED_ON", "yes")
	t.Setenv("NOT_PASSED_ON", "no")
	sp := spec(t, "an-argument")
	var log bytes.Buffer
	sp.Log = &log
	sp.Env = []string{"PASSED_ON", "SET=1", "UNSET"}
	p, err := Start(t.Context(), sp)
	if err != nil {
		t.Fatal(err)
	}
	s := stateOf(t, p.Conn())
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if info, err := os.Stat(dirs[0]); len(dirs) != 1 || err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket folder: %v, %v, %v", dirs, info.Mode(), err)
	}
	p.Close()
	select {
	case <-p.Done():
	default:
		t.Error("the child runs still")
	}
	if dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(dirs) != 0 {
		t.Errorf("left over: %v", dirs)
	}

	if s.PID != p.PID() || s.Args != sp.Path+" an-argument" || s.Binary || !strings.HasPrefix(s.Exe, "/memfd:") {
		t.Errorf("the child says %+v", s)
	}
	if s.Dumpable != 0 || s.Core != 0 {
		t.Errorf("dumpable %d, core limit %d", s.Dumpable, s.Core)
	}
	for _, f := range s.Findings {
		if !f.OK && f.Name != "memory-lock" || !f.OK && f.Detail == "" {
			t.Errorf("finding %+v", f)
		}
	}
	var names []string
	for _, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "PLUGIN_") {
			names = append(names, v)
		}
	}
	if want := []string{"PASSED_ON=yes", "SET=1"}; !slices.Equal(names[:2], want) || len(names) != 3 {
		t.Errorf("the child's environment is %v", names)
	}
	if !strings.Contains(log.String(), "child is up\n") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestKeepDumpable(t *testing.T) {
	p, err := Start(t.Context(), spec(t, "dumpable"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := stateOf(t, p.Conn())
	if s.Dumpable != 1 || s.Findings[0].OK {
		t.Errorf("dumpable %d, finding %+v", s.Dumpable, s.Findings[0])
	}
}

func TestStartRefuses(t *testing.T) {
	leakCheck(t)
	t.Setenv("TMPDIR", t.TempDir())
	good := spec(t)
	dir := t.TempDir()
	copied := func(name string, mode os.FileMode) string {
		b, err := os.ReadFile(good.Path)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode) // whatever the umask
		return path
	}
	open := copied("open/binary", 0o755)
	os.Chmod(filepath.Dir(open), 0o777)
	os.Symlink(open, filepath.Join(dir, "link"))
	syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644)
	changed := copied("changed", 0o755)
	f, _ := os.OpenFile(changed, os.O_APPEND|os.O_WRONLY, 0)
	f.Write([]byte{0})
	f.Close()

	shared := copied("group", 0o775)
	if os.Chown(shared, -1, os.Getegid()+1) != nil { // as an ordinary user: make it another refusal
		os.Chmod(shared, 0o777)
	}

	for name, tt := range map[string]struct {
		change func(*Spec)
		step   Step
		err    error
	}{
		"wrong hash":         {func(s *Spec) { s.SHA256 = strings.Repeat("0", 64) }, StepHash, ErrHashMismatch},
		"changed file":       {func(s *Spec) { s.Path = changed }, StepHash, ErrHashMismatch},
		"no hash":            {func(s *Spec) { s.SHA256 = "" }, StepHash, ErrHashMissing},
		"short hash":         {func(s *Spec) { s.SHA256 = s.SHA256[:62] }, StepHash, ErrHashMissing},
		"relative":           {func(s *Spec) { s.Path = "binary" }, StepResolve, ErrNotAbsolute},
		"missing":            {func(s *Spec) { s.Path = filepath.Join(dir, "none") }, StepResolve, os.ErrNotExist},
		"folder":             {func(s *Spec) { s.Path = dir }, StepPermissions, ErrNotRegular},
		"fifo":               {func(s *Spec) { s.Path = filepath.Join(dir, "fifo") }, StepPermissions, ErrNotRegular},
		"group-writable":     {func(s *Spec) { s.Path = shared }, StepPermissions, ErrWritable},
		"world-writable":     {func(s *Spec) { s.Path = copied("world", 0o757) }, StepPermissions, ErrWritable},
		"in an open folder":  {func(s *Spec) { s.Path = open }, StepPermissions, ErrWritable},
		"link into the same": {func(s *Spec) { s.Path = filepath.Join(dir, "link") }, StepPermissions, ErrWritable},
		"other protocol":     {func(s *Spec) { s.Protocol++ }, StepHandshake, nil},
		"fails to start":     {func(s *Spec) { s.Args = []string{"fail"} }, StepHandshake, ErrEnded},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			tt.change(&s)
			_, err := Start(t.Context(), s)
			e, ok := errors.AsType[*StartError](err)
			if !ok || e.Step != tt.step || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("got %v", err)
			}
			if tt.err == ErrEnded && (e.ExitCode != 1 || e.Output != "key file damaged" && testing.CoverMode() == "") {
				t.Errorf("the child ended with %d and %q", e.ExitCode, e.Output)
			}
		})
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(canceled, good); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// A sticky folder that everyone can write to is as good as /tmp.
func TestStartFromStickyFolder(t *testing.T) {
	s := spec(t)
	dir := t.TempDir()
	b, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	s.Path = filepath.Join(dir, "binary")
	if err := os.WriteFile(s.Path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

func TestKilledChild(t *testing.T) {
	leakCheck(t)
	p, err := Start(t.Context(), spec(t))
	if err != nil {
		t.Fatal(err)
	}
	stateOf(t, p.Conn())
	syscall.Kill(p.PID(), syscall.SIGKILL)
	<-p.Done()
	if _, err := p.Conn().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	p.Close()
	p.Close()
}

func TestChildEndsWithItsParent(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path, _ := os.Executable()
	parent := exec.Command(path, "parent="+path)
	parent.ExtraFiles = []*os.File{w}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var pid int
	line, _ := bufio.NewReader(out).ReadString('\n')
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatalf("the parent says %q", line)
	}
	parent.Process.Kill()
	parent.Wait()
	// The pipe ends when the last process that holds it does.
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("the child has survived its parent: %v", err)
	}
}

func TestSupervise(t *testing.T) {
	leakCheck(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var died time.Time
	err := Supervise(ctx, spec(t), func(ctx context.Context, p *Process) {
		if n > 0 {
			t.Logf("restart %d took %v", n, time.Since(died))
		}
		if n++; n == 4 {
			cancel()
			return
		}
		stateOf(t, p.Conn())
		syscall.Kill(p.PID(), syscall.SIGKILL)
		died = time.Now()
		p.Conn().Read(make([]byte, 1))
	})
	if n != 4 || err != nil {
		t.Errorf("ended with %v after %d starts", err, n)
	}
	bad := spec(t)
	bad.SHA256 = strings.Repeat("0", 64)
	if err := Supervise(t.Context(), bad, nil); !errors.Is(err, ErrHashMismatch) {
		t.Errorf("a first start that fails: %v", err)
	}
}

func TestServeChildWithoutParent(t *testing.T) {
	if _, err := ServeChild(testProtocol); err != ErrNoParent {
		t.Error(err)
	}
}

func TestPeerUID(t *testing.T) {
	conn, file, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer file.Close()
	if uid, err := PeerUID(conn.(*net.UnixConn)); uid != os.Getuid() || err != nil {
		t.Errorf("got %d, %v", uid, err)
	}
}
