// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

func TestMain(m *testing.M) {
	code := msltest.Main(m)
	inproc.RemoveBinaries()
	os.Exit(code)
}

// custodies are where the keys may be: in agents of their own, as always, or, for comparison, here.
var custodies = []struct {
	name  string
	start func(testing.TB) *agent.Client
}{{"in-process", inproc.Agent}, {"agents", inproc.Child}}

// cpu returns the CPU time used so far by this process and by agents.
func cpu(b *testing.B, agents ...*agent.Client) time.Duration {
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		b.Fatal(err)
	}
	total := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	for _, a := range agents {
		if a.PID() == 0 {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		var user, system time.Duration
		fmt.Sscan(fields[11]+" "+fields[12], (*int64)(&user), (*int64)(&system))
		total += (user + system) * (time.Second / 100)
	}
	return total
}

// run calls do b.N times, some at once, and reports its CPU time beside what is usual.
func run(b *testing.B, inFlight int, agents []*agent.Client, do func() error) {
	b.ReportAllocs()
	before := cpu(b, agents...)
	b.ResetTimer()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu(b, agents...)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkEcho is an echo of 1 KiB on an established session, client and server in this process,
// without a transport, over HTTP, TCP and WebSockets.
func BenchmarkEcho(b *testing.B) {
	text := strings.Repeat("x1y2", 256)
	for _, transport := range []string{"memory", "HTTP", "tcp", "ws"} {
		for _, custody := range custodies {
			for _, inFlight := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%s/%d", transport, custody.name, inFlight), func(b *testing.B) {
					w := newWorld(b)
					w.client.Capabilities = &msl.Capabilities{Formats: []string{"JSON"}}
					w.forget = true
					keys := [2]*agent.Client{custody.start(b), custody.start(b)}
					w.keys = keys[0]
					w.newClient(nil).Close()
					var t msl.Transport = w
					switch transport {
					case "HTTP":
						s := httptest.NewServer(w.server)
						defer s.Close()
						t = &msl.HTTPTransport{URL: s.URL, RoundTripper: &http.Transport{MaxIdleConnsPerHost: 256}}
					case "tcp", "ws":
						t = w.newWire(transport).transport
					}
					client, err := msl.NewClient(w.client, keys[1], t, nil)
					if err != nil {
						b.Fatal(err)
					}
					echo := func() error {
						got, _, err := say(client, msl.Request{}, text)
						if err == nil && got != text {
							err = io.ErrUnexpectedEOF
						}
						return err
					}
					if err := echo(); err != nil {
						b.Fatal(err)
					}
					run(b, inFlight, keys[:], echo)
				})
			}
		}
	}
}

// establish returns a session that the agent has issued to itself.
func establish(b *testing.B, keys *agent.Client) *msl.Session {
	request, err := keys.BeginExchange(b.Context(), "ASYMMETRIC_WRAPPED", "JWE_RSA", "bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	hour := time.Now().Add(time.Hour).Unix()
	issued, err := keys.IssueMasterToken(b.Context(), &msl.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: request.KeyData(),
		Identity: "bench", RenewalWindow: hour, Expiration: hour})
	if err != nil {
		b.Fatal(err)
	}
	return issued.Session
}

// BenchmarkChunk seals and opens payload chunks of 64 KiB of data, several at once, as a long message does.
func BenchmarkChunk(b *testing.B) {
	plain := bytes.Repeat([]byte("0123456789abcdef"), 88<<10/16) // the encoding of 64 KiB
	for _, custody := range custodies {
		for _, op := range []string{"seal", "open"} {
			b.Run(op+"/"+custody.name, func(b *testing.B) {
				keys := custody.start(b)
				ctx := context.Background()
				session := establish(b, keys)
				parts, err := session.Seal(ctx, [][]byte{plain})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(64 << 10)
				memory := session.CryptoContext.(interface{ Recycle([]byte) }) // msl does so, too
				run(b, 8, []*agent.Client{keys}, func() error {
					if op == "seal" {
						parts, err := session.Seal(ctx, [][]byte{plain})
						if err == nil {
							memory.Recycle(parts[0].Data)
						}
						return err
					}
					plain, err := session.Open(ctx, parts)
					if err == nil {
						memory.Recycle(plain[0])
					}
					return err
				})
			})
		}
	}
}
