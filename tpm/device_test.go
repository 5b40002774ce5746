// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// TestCharacter: a device of the kernel, as a socket that keeps messages apart. Behind it is a chip.
func TestCharacter(t *testing.T) {
	s := newTPM(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	chip, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer unix.Close(fds[1])
		defer chip.Close()
		buffer := make([]byte, maxResponse)
		for {
			n, err := retried(func() (int, error) { return unix.Read(fds[1], buffer) })
			if err != nil || n == 0 {
				return
			}
			if _, err := chip.Write(buffer[:n]); err != nil {
				return
			}
			response, err := frame(chip)
			if err != nil {
				return
			}
			if bytes.Equal(response[6:10], []byte{0, 0, 1, 0x43}) {
				response = response[:4] // which the chip never does
			}
			if _, err := retried(func() (int, error) { return unix.Write(fds[1], response) }); err != nil {
				return
			}
		}
	})
	d := &character{fds[0]}
	random := []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8} // TPM2_GetRandom
	for range 3 {
		response, err := d.exchange(random, time.Now().Add(10*time.Second))
		if err != nil || len(response) != 20 {
			t.Fatalf("%x, %v", response, err)
		}
	}
	if response, err := d.exchange([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, time.Now().Add(10*time.Second)); err == nil {
		t.Errorf("a response that is cut off: %x", response)
	}
	if err := unix.Shutdown(fds[1], unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	if _, err := d.exchange(random, time.Now()); err == nil {
		t.Error("a device that does not answer")
	}
	d.Close()
	wg.Wait()
}

// TestStream: a socket that does not answer in time, or with what is no response, ends an exchange.
func TestStream(t *testing.T) {
	random := []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8} // TPM2_GetRandom
	for what, answer := range map[string][]byte{
		"nothing": nil, "half a header": {0x80, 1, 0, 0, 0}, "half a response": {0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0},
		"a size below the header's": {0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0}, "a size above all": {0x80, 1, 0x7f, 0, 0, 0, 0, 0, 0, 0},
	} {
		near, far := net.Pipe()
		go func() {
			io.ReadFull(far, make([]byte, len(random)))
			far.Write(answer)
		}()
		began := time.Now()
		if response, err := (stream{near}).exchange(random, began.Add(50*time.Millisecond)); err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("%s: %x after %v", what, response, time.Since(began))
		}
		near.Close()
		far.Close()
	}
}

// TestTCP: swtpm's other channel.
func TestTCP(t *testing.T) {
	s := newTPM(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		chip, err := net.Dial("unix", s.socket)
		if err != nil {
			return
		}
		wg.Go(func() {
			io.Copy(conn, chip)
			conn.Close()
		})
		io.Copy(chip, conn)
		chip.Close()
	})
	config := s.config(t)
	config.Device = "swtpm:tcp:" + l.Addr().String()
	p := open(t, config)
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
	p.Close()
	l.Close()
	wg.Wait()
}

// TestNotStarted: a simulated chip that nobody has started up is started up.
func TestNotStarted(t *testing.T) {
	bus := newBus(t, newTPM(t))
	started := false
	bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) {
		if cc == tpm2.TPMCCStartup {
			started = true
			return refusal(tpm2.TPMRCSuccess), true
		}
		if !started {
			return refusal(tpm2.TPMRCInitialize), true
		}
		return nil, true
	})
	if err := open(t, bus.config(t)).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestQueue: what is more urgent comes first, then what came first, and nothing after the queue is closed.
func TestQueue(t *testing.T) {
	q := queue{more: make(chan struct{}, 1)}
	put := func(ctx context.Context, u urgency) (*job, error) {
		j := &job{ctx: ctx, urgency: u, done: make(chan error, 1)}
		return j, q.put(j)
	}
	var want []*job
	for _, u := range []urgency{checkKeys, useKeys, changeKeys, useKeys, checkKeys} {
		j, err := put(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, j)
	}
	for _, i := range []int{1, 3, 2, 0, 4} {
		if q.take() != want[i] {
			t.Errorf("job %d came at another time", i)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	abandoned, _ := put(ctx, useKeys)
	for range maxWaiting - 1 {
		if _, err := put(t.Context(), useKeys); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := put(t.Context(), useKeys); err != errBusy {
		t.Errorf("a full queue: %v", err)
	}
	cancel()
	last, err := put(t.Context(), useKeys)
	if err != nil {
		t.Errorf("a queue with jobs that nobody waits for: %v", err)
	}
	if err := <-abandoned.done; err == nil {
		t.Error("a job that nobody waits for was done")
	}
	q.close()
	if err := <-last.done; err == nil {
		t.Error("a job was done by a queue that is closed")
	}
	if q.take() != nil {
		t.Error("a job comes out of a queue that is closed")
	}
	if _, err := put(t.Context(), useKeys); err != errClosed {
		t.Errorf("a closed queue: %v", err)
	}
}
