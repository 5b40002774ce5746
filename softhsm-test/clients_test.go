// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// A fleet makes clients in this process, which have one agent.
type fleet struct {
	keys   *agent.Client
	config *msl.Config
	http   *http.Transport
	url    string
	dir    string        // for stores, if there are any
	waits  *atomic.Int64 // nanoseconds, for answers to sessions' first messages
}

// RoundTrip measures how long the server takes to answer.
func (f *fleet) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	defer func() { f.waits.Add(int64(time.Since(began))) }()
	return f.http.RoundTrip(r)
}

// newFleet starts the device's agent.
func (s *system) newFleet() *fleet {
	s.t.Helper()
	return s.startFleet(s.path("device/agent.toml"))
}

// startFleet starts an agent.
func (s *system) startFleet(config string) *fleet {
	s.t.Helper()
	text, err := os.ReadFile(s.path("server.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	path := tool(s.t, "mslkeep-agent")
	keys, err := agent.Start(s.t.Context(), agent.Config{Path: path, SHA256: sum(s.t, path), Args: []string{"--config", config}})
	if err != nil {
		s.t.Fatal(err)
	}
	f := &fleet{keys: keys, waits: new(atomic.Int64), http: &http.Transport{MaxIdleConnsPerHost: 128}, url: s.url, config: &msl.Config{
		Entity: msl.PSK("device"), RemoteIdentity: "server", RSAPublicKeys: map[string]*rsa.PublicKey{"server": public.(*rsa.PublicKey)},
		ServiceTokenKeys: map[string]string{"": "default"},
	}}
	s.t.Cleanup(f.close)
	return f
}

func (f *fleet) close() {
	f.http.CloseIdleConnections()
	f.keys.Close()
}

// client makes a client that has no tokens yet.
func (f *fleet) client(t testing.TB) *msl.Client {
	t.Helper()
	return f.through(t, &msl.HTTPTransport{URL: f.url, RoundTripper: f.http})
}

func (f *fleet) through(t testing.TB, transport msl.Transport) *msl.Client {
	t.Helper()
	c, err := msl.NewClient(f.config, f.keys, transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// errEcho means that the server took one message for another.
var errEcho = errors.New("the answer is not what was sent")

// say sends a message, whose data must come back.
func say(ctx context.Context, c *msl.Client, data []byte) error {
	_, err := exchange(ctx, c, data)
	return err
}

// exchange is say, and tells whether keys were exchanged.
func exchange(ctx context.Context, c *msl.Client, data []byte) (exchanged bool, err error) {
	answer, err := c.Do(ctx, &msl.Request{Body: bytes.NewReader(data)})
	if err != nil {
		return false, err
	}
	defer answer.Close()
	got, err := io.ReadAll(answer)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%w: %d bytes for %d", errEcho, len(got), len(data))
	}
	return answer.Exchanged, err
}

// transient tells whether an error is the server's word that it may succeed later.
func transient(err error) bool {
	remote, ok := errors.AsType[*msl.RemoteError](err)
	return ok && remote.Response == msl.TransientFailure
}
