// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers with what it was sent. Small parts are quick.
type echo struct{}

func (echo) Handle(_ context.Context, req Request) (Reply, error) {
	switch req := req.(type) {
	case *OpenRequest:
		plain := make([][]byte, len(req.Parts))
		for i := range plain {
			plain[i] = req.Parts[i].Data
		}
		return &OpenReply{Plain: plain, FailedPart: -1}, nil
	case *HealthRequest:
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return &HealthReply{Findings: []Finding{{Detail: fmt.Sprint(u.Utime.Nano() + u.Stime.Nano())}}}, nil
	}
	return nil, NotSupported
}

func (echo) Quick(req Request) bool {
	open, ok := req.(*OpenRequest)
	return ok && len(open.Parts[0].Data) <= 16<<10
}

const echoEnv = "WIRE_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(echoEnv) == "" {
		os.Exit(m.Run())
	}
	conn, err := net.FileConn(os.NewFile(3, "socket"))
	if err == nil {
		err = Serve(context.Background(), conn, echo{}, Options{})
	}
	if err != nil {
		os.Exit(1)
	}
}

func socketpair(t testing.TB) (parent, child *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "parent"), os.NewFile(uintptr(fds[1]), "child")
}

func conns(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fa, fb := socketpair(t)
	defer fa.Close()
	defer fb.Close()
	a, err := net.FileConn(fa)
	if err != nil {
		t.Fatal(err)
	}
	b, err = net.FileConn(fb)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// echoProcess serves echo in another process.
func echoProcess(t testing.TB) *Client {
	t.Helper()
	parent, child := socketpair(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{echoEnv + "=1"}
	cmd.ExtraFiles = []*os.File{child}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	conn, err := net.FileConn(parent)
	parent.Close()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(t.Context(), conn, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func agentCPU(b *testing.B, c *Client) time.Duration {
	var r HealthReply
	if err := c.Call(context.Background(), &HealthRequest{}, &r); err != nil {
		b.Fatal(err)
	}
	var d time.Duration
	fmt.Sscan(r.Findings[0].Detail, (*int64)(&d))
	return d
}

func BenchmarkCall(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		for _, inFlight := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("size=%d/inflight=%d", size, inFlight), func(b *testing.B) {
				benchmarkCall(b, size, inFlight)
			})
		}
	}
}

func benchmarkCall(b *testing.B, size, inFlight int) {
	c := echoProcess(b)
	// As the context of an HTTP request: it can be cancelled and has no deadline.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var left atomic.Int64
	left.Store(int64(b.N))
	times := make([]time.Duration, 0, b.N)
	there := agentCPU(b, c)
	here := cpu()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			data := make([]byte, size)
			for left.Add(-1) >= 0 {
				start := time.Now()
				var r OpenReply
				err := c.Call(ctx, &OpenRequest{Parts: []Part{{Data: data}}}, &r)
				if err != nil || len(r.Plain[0]) != size {
					b.Error(err)
					return
				}
				if inFlight == 1 {
					times = append(times, time.Since(start))
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-here).Microseconds())/float64(b.N), "cpu-here-µs/op")
	b.ReportMetric(float64((agentCPU(b, c)-there).Microseconds())/float64(b.N), "cpu-there-µs/op")
	if inFlight == 1 {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, "p50-µs")
	}
}
