// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

const benchUsage = `Usage: mslkeep bench [FLAGS]

Measures echoes of encrypted messages on an established session, over HTTP on this machine: client,
server and both their key agents as processes of their own. In the same run it measures plain HTTP
echoes of the same data, client and server. What counts is the ratio: the machine's speed cancels out.

What the agent costs against custody in the same process is measured by: make bench

Example:
  mslkeep bench --size 1024 --seconds 3
`

// A measurement is one row of bench.
type measurement struct {
	InFlight     int     `json:"in_flight"`
	Plain        float64 `json:"plain_per_second"`
	MSL          float64 `json:"msl_per_second"`
	Ratio        float64 `json:"ratio"`
	PlainCPU     float64 `json:"plain_cpu_microseconds"` // of all processes, for one echo
	MSLCPU       float64 `json:"msl_cpu_microseconds"`
	PlainMedian  float64 `json:"plain_median_milliseconds"`
	MSLMedian    float64 `json:"msl_median_milliseconds"`
	MSLPercent99 float64 `json:"msl_p99_milliseconds"`
}

func bench(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	size := flags.Int("size", 1024, "`bytes` of data in each message")
	seconds := flags.Float64("seconds", 3, "how long to measure each row")
	asJSON := flags.Bool("json", false, "print JSON")
	plain := flags.Bool("plain-server", false, "be the plain HTTP server that bench compares with")
	if err := parse(c, flags, benchUsage, args, 0); err != nil {
		return err
	}
	if *plain {
		return plainServer(ctx, c)
	}
	if *size < 0 || *size > maxLoadBody || *seconds <= 0 {
		return usageError("--size or --seconds is out of bounds")
	}
	dir, err := os.MkdirTemp("", "mslkeep-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(c.err, "making keys, and starting processes")
	b, err := newBenchmark(ctx, dir, *size)
	if err != nil {
		return err
	}
	defer b.close()
	var rows []measurement
	for _, inFlight := range []int{1, 8, 64} {
		fmt.Fprintf(c.err, "measuring %d in flight\n", inFlight)
		m, err := b.measure(ctx, inFlight, time.Duration(*seconds*float64(time.Second)))
		if err != nil {
			return err
		}
		rows = append(rows, m)
	}
	if *asJSON {
		return printJSON(c.out, rows)
	}
	fmt.Fprintf(c.out, "echoes of %d bytes        plain HTTP                      MSL                      ratio\n", *size)
	fmt.Fprintf(c.out, "in flight     per second   CPU     median     per second   CPU     median\n")
	for _, m := range rows {
		fmt.Fprintf(c.out, "%9d   %10.0f  %4.0f us  %6.2f ms   %10.0f  %4.0f us  %6.2f ms      %.2f\n",
			m.InFlight, m.Plain, m.PlainCPU, m.PlainMedian, m.MSL, m.MSLCPU, m.MSLMedian, m.Ratio)
	}
	return nil
}

// plainServer echoes over plain HTTP until standard input ends.
func plainServer(ctx context.Context, c *cli) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(c.out).Encode(map[string]string{"url": "http://" + listener.Addr().String() + "/"}); err != nil {
		return err
	}
	s := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(data)
	}))
	go func() {
		_, _ = io.Copy(io.Discard, c.in)
		s.Close()
	}()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// A benchmark is both servers, and the clients in this process.
type benchmark struct {
	msl, plain *player
	sender     *sender
	http       *http.Client
	data       []byte
}

func newBenchmark(ctx context.Context, dir string, size int) (*benchmark, error) {
	p, err := newPlayground(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	b := &benchmark{data: bytes.Repeat([]byte("x1y2"), size/4+1)[:size]}
	if b.msl, err = p.startServer(ctx); err != nil {
		return nil, err
	}
	if b.plain, err = p.start(ctx, "bench", "--plain-server"); err == nil {
		var ready struct{ URL string }
		err = b.plain.read(&ready)
		b.plain.url = ready.URL
	}
	var cfg *config
	if err == nil {
		cfg, err = loadConfig(p.path("device-1", "send.toml"))
	}
	if err == nil {
		cfg.Send.URL = b.msl.url
		cfg.MSL.Compression = []string{} // plain HTTP does not compress either
		b.sender, err = newSender(ctx, cfg)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	b.http = newHTTPClient("http", nil)
	return b, nil
}

func (b *benchmark) close() {
	if b.sender != nil {
		b.sender.close()
	}
	for _, w := range []*player{b.msl, b.plain} {
		if w != nil {
			w.stop()
		}
	}
}

// echoPlain posts the data and checks the answer.
func (b *benchmark) echoPlain(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.plain.url, bytes.NewReader(b.data))
	if err != nil {
		return err
	}
	answer, err := b.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return b.check(answer.Body)
}

func (b *benchmark) echoMSL(ctx context.Context) error {
	answer, err := b.sender.client.Do(ctx, &msl.Request{Body: bytes.NewReader(b.data), Compression: "NONE"})
	if err != nil {
		return err
	}
	defer answer.Close()
	return b.check(answer)
}

func (b *benchmark) check(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(data, b.data) {
		err = errors.New("the answer is not what was sent")
	}
	return err
}

// measure runs both kinds of echo in turns, so that both meet the same machine.
func (b *benchmark) measure(ctx context.Context, inFlight int, d time.Duration) (m measurement, err error) {
	processes := []int{os.Getpid(), b.sender.keys.PID(), b.msl.cmd.Process.Pid, b.msl.agent, b.plain.cmd.Process.Pid}
	const turns = 4
	var plain, sealed tally
	for turn := range 2 * turns {
		t, do := &plain, b.echoPlain
		if turn%2 == 1 {
			t, do = &sealed, b.echoMSL
		}
		if err := t.add(ctx, inFlight, d/turns, processes, do); err != nil {
			return m, err
		}
	}
	m = measurement{InFlight: inFlight, Plain: plain.rate(), MSL: sealed.rate(), PlainCPU: plain.perEcho(), MSLCPU: sealed.perEcho(),
		PlainMedian: plain.quantile(0.5), MSLMedian: sealed.quantile(0.5), MSLPercent99: sealed.quantile(0.99)}
	m.Ratio = m.MSL / m.Plain
	return m, nil
}

// A tally adds up the turns of one kind of echo.
type tally struct {
	echoes  int
	elapsed time.Duration
	cpu     time.Duration
	times   []time.Duration
}

// add runs echoes for d, after a short while to warm up.
func (t *tally) add(ctx context.Context, inFlight int, d time.Duration, processes []int, do func(context.Context) error) error {
	if _, err := runFor(ctx, inFlight, d/8, do); err != nil {
		return err
	}
	before, err := cpuTime(processes)
	if err != nil {
		return err
	}
	start := time.Now()
	times, err := runFor(ctx, inFlight, d, do)
	if err != nil {
		return err
	}
	after, err := cpuTime(processes)
	t.elapsed += time.Since(start)
	t.cpu += after - before
	t.echoes += len(times)
	t.times = append(t.times, times...)
	return err
}

func (t *tally) rate() float64    { return float64(t.echoes) / t.elapsed.Seconds() }
func (t *tally) perEcho() float64 { return float64(t.cpu.Microseconds()) / float64(max(t.echoes, 1)) }

func (t *tally) quantile(q float64) float64 {
	if len(t.times) == 0 {
		return 0
	}
	slices.Sort(t.times)
	return float64(t.times[int(q*float64(len(t.times)-1))].Microseconds()) / 1000
}
