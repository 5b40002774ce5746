// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// operations are all that a client can be asked for, each to be broken off.
var operations = []struct {
	name string
	run  func(ctx context.Context, c *msl.Client) error
}{
	{"Do", func(ctx context.Context, c *msl.Client) error {
		return heard(c.Do(ctx, &msl.Request{Body: strings.NewReader("x")}))
	}},
	{"Do, once", func(ctx context.Context, c *msl.Client) error {
		return heard(c.Do(ctx, &msl.Request{Body: strings.NewReader("x"), NonReplayable: true, RequestTokens: true}))
	}},
	{"Do, with a user", func(ctx context.Context, c *msl.Client) error {
		return heard(c.Do(ctx, &msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1"), Body: strings.NewReader("x")}))
	}},
	{"Do, with much data", func(ctx context.Context, c *msl.Client) error {
		return heard(c.Do(ctx, &msl.Request{Body: bytes.NewReader(make([]byte, 600_000)), Compression: "NONE"}))
	}},
	{"Do, unread", func(ctx context.Context, c *msl.Client) error {
		answer, err := c.Do(ctx, &msl.Request{Body: bytes.NewReader(make([]byte, 600_000)), Compression: "NONE"})
		if err == nil {
			err = answer.Close()
		}
		return err
	}},
	{"Do, writing", func(ctx context.Context, c *msl.Client) error {
		return heard(c.Do(ctx, &msl.Request{Stream: func(ctx context.Context, w *msl.MessageWriter) error {
			for range 20 {
				if _, err := w.Write(make([]byte, 1000)); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			return ctx.Err()
		}}))
	}},
	{"Send", func(ctx context.Context, c *msl.Client) error {
		return c.Send(ctx, &msl.Request{Body: strings.NewReader("x")})
	}},
}

func heard(answer *msl.Response, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer)
	answer.Close()
	return err
}

// TestCancelAnywhere breaks every operation off at random instants, over every transport, with and without a session. It
// then ends, and the next one succeeds. TestMain sees whether anything of it goes on.
func TestCancelAnywhere(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(t *testing.T) (client *msl.Client, done func())
	}{
		{"http", func(t *testing.T) (*msl.Client, func()) {
			client, _ := newWorld(t).overHTTP()
			return client, func() {}
		}},
		{"tcp", func(t *testing.T) (*msl.Client, func()) {
			w := newWorld(t)
			address, stop := w.serving()
			transport := tcpTo(address)
			client, err := msl.NewClient(w.client, inproc.Agent(t), transport, nil)
			if err != nil {
				t.Fatal(err)
			}
			return client, func() { transport.CloseIdle(); _ = stop() }
		}},
		{"peers", func(t *testing.T) (*msl.Client, func()) {
			n := newNetwork(t, msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key"))
			n.start()
			return n.client, n.transport.CloseIdle
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, done := c.start(t)
			defer done()
			defer client.Close()
			for _, o := range operations {
				for i := range 25 {
					cancelAtRandom(t, o.name, func(ctx context.Context) error { return o.run(ctx, client) })
					if i%5 == 4 {
						client.Close() // its session has to be unsealed
					}
				}
				if err := heard(client.Do(t.Context(), &msl.Request{Body: strings.NewReader("afterwards")})); err != nil {
					t.Fatalf("after %s: %v", o.name, err)
				}
			}
		})
	}
}

// cancelAtRandom runs an operation that is broken off after up to 3 ms, and must not go on for long then.
func cancelAtRandom(t *testing.T, name string, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	after := time.Duration(rand.Int64N(int64(3 * time.Millisecond)))
	late := time.AfterFunc(after, cancel)
	defer late.Stop()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end, %v after it was canceled", name, 20*time.Second)
	}
}
