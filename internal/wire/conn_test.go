// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// handlerFunc makes a Handler of a function.
type handlerFunc func(ctx context.Context, req Request) (Reply, error)

func (f handlerFunc) Handle(ctx context.Context, req Request) (Reply, error) { return f(ctx, req) }

// pair runs test with a client of h. It runs in a bubble, which fails if a goroutine is left over.
func pair(t *testing.T, h Handler, client, server Options, test func(t *testing.T, c *Client, agent net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(context.Background(), far, h, server) }()
		c, err := NewClient(t.Context(), near, client)
		if err != nil {
			t.Fatal(err)
		}
		test(t, c, far)
		c.Close()
		<-served
	})
}

// A gate lets no KeysRequest pass before a PublicKeyRequest has come.
type gate struct {
	once sync.Once
	open chan struct{}
}

func (g *gate) Handle(ctx context.Context, req Request) (Reply, error) {
	g.once.Do(func() { g.open = make(chan struct{}) }) // inside the test's bubble
	switch req := req.(type) {
	case *KeysRequest:
		select {
		case <-g.open:
			return &KeysReply{Keys: []Key{{Name: req.Prefix}}}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case *PublicKeyRequest:
		close(g.open)
		return &PublicKeyReply{}, nil
	}
	return &HealthReply{}, nil
}

func TestCallsAreAnsweredOutOfOrder(t *testing.T) {
	pair(t, &gate{}, Options{}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		first := make(chan error, 1)
		go func() {
			var r KeysReply
			err := c.Call(t.Context(), &KeysRequest{Prefix: "a"}, &r)
			if err == nil && r.Keys[0].Name != "a" {
				err = errors.New("another reply")
			}
			first <- err
		}()
		synctest.Wait()
		if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); err != nil {
			t.Error(err)
		}
		if err := c.Call(t.Context(), &PublicKeyRequest{}, &PublicKeyReply{}); err != nil {
			t.Error(err)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

func TestConnectionLost(t *testing.T) {
	pair(t, &gate{}, Options{MaxInFlight: 4}, Options{}, func(t *testing.T, c *Client, agent net.Conn) {
		const n = 10 // some in flight, some waiting for room
		errs := make(chan error, n)
		for range n {
			go func() { errs <- c.Call(t.Context(), &KeysRequest{}, &KeysReply{}) }()
		}
		synctest.Wait()
		agent.Close()
		for range n {
			if err := <-errs; !errors.Is(err, Transient) {
				t.Errorf("a waiting call failed with %v", err)
			}
		}
		<-c.Done()
		if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); !errors.Is(err, Transient) {
			t.Errorf("a later call failed with %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	var ended chan error
	h := handlerFunc(func(ctx context.Context, req Request) (Reply, error) {
		if _, ok := req.(*HealthRequest); ok {
			return &HealthReply{}, nil
		}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	pair(t, h, Options{}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		ended = make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Call(ctx, &KeysRequest{}, &KeysReply{}) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("the call failed with %v", err)
		}
		if err := <-ended; err != context.Canceled {
			t.Errorf("the handler's context ended with %v", err)
		}

		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := c.Call(ctx, &KeysRequest{}, &KeysReply{}); err != context.DeadlineExceeded {
			t.Errorf("the call failed with %v", err)
		}
		if err := <-ended; err == nil || time.Since(start) > time.Minute+time.Second {
			t.Errorf("the handler ended with %v after %v", err, time.Since(start))
		}
		if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); err != nil {
			t.Error(err)
		}
	})
}

func TestDefaultTimeout(t *testing.T) {
	// The handler ignores its context, so that only the client's own clock helps.
	pair(t, blockingForever{}, Options{Timeout: 8 * time.Second}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		start := time.Now()
		err := c.Call(context.Background(), &KeysRequest{}, &KeysReply{})
		if took := time.Since(start); !errors.Is(err, Canceled) || took < 8*time.Second || took > 9*time.Second {
			t.Errorf("failed with %v after %v", err, took)
		}
	})
}

type blockingForever struct{}

func (blockingForever) Handle(context.Context, Request) (Reply, error) {
	time.Sleep(time.Minute) // of the bubble's clock
	return nil, Transient
}

func TestRoom(t *testing.T) {
	pair(t, &gate{}, Options{MaxInFlight: 3}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		errs := make(chan error, 3)
		for range 2 {
			go func() { errs <- c.Call(t.Context(), &KeysRequest{}, &KeysReply{}) }()
		}
		// A call that was given up keeps its room until the agent has answered.
		ctx, cancel := context.WithCancel(t.Context())
		go func() { errs <- c.Call(ctx, &KeysRequest{}, &KeysReply{}) }()
		synctest.Wait()
		late, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := c.Call(late, &HealthRequest{}, &HealthReply{}); err != context.DeadlineExceeded {
			t.Errorf("a call beyond the room failed with %v", err)
		}
		cancel()
		if err := <-errs; err != context.Canceled {
			t.Error(err)
		}
		if err := c.Call(t.Context(), &PublicKeyRequest{}, &PublicKeyReply{}); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNobodyReads(t *testing.T) {
	near, far := conns(t)
	defer far.Close()
	go func() { // says Hello, and is never heard of again
		fr := newFrameReader(far, 1<<20, nil)
		f, _ := fr.next()
		var c coder
		m := &HelloReply{Version: Version, MaxFrame: 1 << 20, MaxInFlight: 8}
		n, _ := c.measure(m)
		far.Write(appendFrame(nil, &c, f.id, 0, m, n))
	}()
	c, err := NewClient(t.Context(), near, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			req := &SealRequest{Plain: [][]byte{make([]byte, 512<<10)}}
			if err := c.Call(ctx, req, &SealReply{}); err != context.DeadlineExceeded {
				t.Errorf("failed with %v", err)
			}
		})
	}
	wg.Wait()
}

func TestTooLarge(t *testing.T) {
	big := handlerFunc(func(context.Context, Request) (Reply, error) {
		return &SealServiceTokenReply{Token: Token{Data: make([]byte, 1<<16)}}, nil
	})
	pair(t, big, Options{}, Options{MaxFrame: 1 << 16}, func(t *testing.T, c *Client, _ net.Conn) {
		req := &SealServiceTokenRequest{Data: make([]byte, 1<<16)}
		if err := c.Call(t.Context(), req, &SealServiceTokenReply{}); !errors.Is(err, Malformed) {
			t.Errorf("a large request failed with %v", err)
		}
		if err := c.Call(t.Context(), &SealServiceTokenRequest{}, &SealServiceTokenReply{}); !errors.Is(err, Malformed) {
			t.Errorf("a large reply failed with %v", err)
		}
	})
}

func TestHandlerFaults(t *testing.T) {
	h := handlerFunc(func(_ context.Context, req Request) (Reply, error) {
		switch req.(type) {
		case *KeysRequest:
			panic("secret")
		case *HealthRequest:
			return &KeysReply{}, nil
		case *PublicKeyRequest:
			return nil, errors.New("unclassified")
		}
		return nil, &Error{Code: VerificationFailed, MSL: 7, Detail: "keydata"}
	})
	pair(t, h, Options{}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		for range 2 {
			if err := c.Call(t.Context(), &KeysRequest{}, &KeysReply{}); !errors.Is(err, Device) {
				t.Errorf("a panic became %v", err)
			}
		}
		if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); !errors.Is(err, Device) {
			t.Errorf("a wrong reply became %v", err)
		}
		if err := c.Call(t.Context(), &PublicKeyRequest{}, &PublicKeyReply{}); !errors.Is(err, Device) {
			t.Errorf("an unclassified error became %v", err)
		}
		err := c.Call(t.Context(), &SealRequest{}, &SealReply{})
		if e, ok := errors.AsType[*Error](err); !ok || *e != (Error{VerificationFailed, 7, "keydata"}) {
			t.Errorf("an error became %#v", err)
		}
	})
}

type panicking struct{}

func (panicking) Handle(_ context.Context, req Request) (Reply, error) { return nil, Denied }
func (panicking) Quick(Request) bool                                   { panic("secret") }

func TestQuickPanics(t *testing.T) {
	pair(t, panicking{}, Options{}, Options{}, func(t *testing.T, c *Client, _ net.Conn) {
		if err := c.Call(t.Context(), &HealthRequest{}, &HealthReply{}); !errors.Is(err, Denied) {
			t.Errorf("failed with %v", err)
		}
	})
}

func TestConcurrentCalls(t *testing.T) {
	c := echoProcess(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for n := range 200 {
				size := []int{1, 1000, 16 << 10, 100_000}[(i+n)%4]
				data := bytes.Repeat([]byte{byte(i), byte(n)}, size/2+1)
				ctx, cancel := context.WithCancel(t.Context())
				if n%8 == 0 {
					go cancel()
				}
				var r OpenReply
				err := c.Call(ctx, &OpenRequest{Parts: []Part{{Data: data}}}, &r)
				cancel()
				if err == context.Canceled && n%8 == 0 {
					continue
				}
				if err != nil || !bytes.Equal(r.Plain[0], data) {
					t.Errorf("caller %d: %v, or another's reply", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.out.Lock()
	defer c.out.Unlock()
	if n := len(c.queue); n > 0 {
		t.Errorf("%d callers wait still", n)
	}
}

func TestServerOfClientThatDoesNotRead(t *testing.T) {
	near, far := conns(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, far, echo{}, Options{MaxFrame: 1 << 20, MaxBytes: 1 << 20}) }()
	near.Write(rawFrame(0, 1, &HelloRequest{Version: Version}))
	near.SetWriteDeadline(time.Now().Add(time.Second))
	sent := 0
	for id := uint64(1); sent < 64<<20; id++ {
		n, err := near.Write(rawFrame(id, 1000, &OpenRequest{Parts: []Part{{Data: make([]byte, 15<<10)}}}))
		sent += n
		if err != nil {
			break
		}
	}
	if sent > 8<<20 {
		t.Errorf("the server took %d bytes and could not answer one", sent)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	near.Close()
}
