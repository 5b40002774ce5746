// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// pushes has the server push texts, after an answer or in its place.
func pushes(answer bool, texts ...string) handler {
	return func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
		if answer {
			if err := echo(ctx, w, m); err != nil {
				return err
			}
		}
		for _, text := range texts {
			var err error
			if w, err = w.Push(); err != nil {
				return err
			}
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestPush: after an answer, or in its place, a server sends as many messages as it likes (§8.6, behaviour 120).
func TestPush(t *testing.T) {
	for _, c := range []struct {
		name   string
		entity msl.EntityAuthData
		answer bool
		texts  []string
	}{
		{"one in place of an answer", msl.PSK("psk-client"), false, []string{"news"}},
		{"several in place of an answer", msl.PSK("psk-client"), false, []string{"news", "more news", "no news"}},
		{"after an answer", msl.PSK("psk-client"), true, []string{"news", "more news"}},
		{"after an answer that brought the session", msl.RSA("rsa-client", "rsa-client-key"), true, []string{"news", "more news"}},
		{"secret ones to one that cannot read them yet", msl.RSA("rsa-client", "rsa-client-key"), false, []string{"news", "more news"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.client.Entity = c.entity
			w.handler = pushes(c.answer, c.texts...)
			client := w.newClient(nil)
			defer client.Close()
			for range 3 {
				r := msl.Request{AcceptPush: true, Body: strings.NewReader("tell me")}
				answer, err := client.Do(t.Context(), &r)
				if err != nil {
					t.Fatal(err)
				}
				var heard []string
				ids := make(map[int64]bool)
				for err = nil; err == nil; err = answer.Next(t.Context()) {
					data, err := io.ReadAll(answer)
					if err != nil || !answer.Encrypted {
						t.Fatalf("%q, encrypted %v: %v", data, answer.Encrypted, err)
					}
					heard = append(heard, string(data))
					ids[answer.ID] = true
				}
				want := c.texts
				if c.answer {
					want = append([]string{"tell me"}, want...)
				}
				if err != io.EOF || fmt.Sprint(heard) != fmt.Sprint(want) || len(ids) != len(want) {
					t.Errorf("heard %q with %d ids: %v", heard, len(ids), err)
				}
				answer.Close()
			}
		})
	}
}

// TestPushIsNoAnswer: a client takes a pushed message only if it said so.
func TestPushIsNoAnswer(t *testing.T) {
	w := newWorld(t)
	w.handler = pushes(false, "news")
	client := w.newClient(nil)
	defer client.Close()
	if _, _, err := say(client, msl.Request{}, "x"); !errors.Is(err, msl.UnexpectedResponseMessageID) {
		t.Errorf("got %v", err)
	}
}

// TestPushIssuesNothing: a pushed message has the tokens of the request, and no new ones.
func TestPushIssuesNothing(t *testing.T) {
	w := newWorld(t)
	w.handler = pushes(false, "news")
	client := w.newClient(nil)
	defer client.Close()
	answer, err := client.Do(t.Context(), &msl.Request{AcceptPush: true, Body: strings.NewReader("x")})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	if answer.KeyResponse != nil || answer.Renewable {
		t.Error("a pushed message brought a master token")
	}
}

// TestSend: a one-way message gets the tokens that it needs first, and nothing is read after its data (§8.1).
func TestSend(t *testing.T) {
	for _, c := range []struct {
		entity   msl.EntityAuthData
		request  msl.Request
		messages int // of the first, and then 1 each
	}{
		{msl.PSK("psk-client"), msl.Request{}, 1},
		{msl.PSK("psk-client"), msl.Request{NonReplayable: true}, 2},
		{msl.PSK("psk-client"), msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}, 1},
		{msl.RSA("rsa-client", "rsa-client-key"), msl.Request{}, 2},
		{msl.RSA("rsa-client", "rsa-client-key"), msl.Request{Protection: msl.IntegrityProtected}, 1},
		{msl.None("somebody"), msl.Request{}, 2},
	} {
		t.Run(fmt.Sprintf("%s/%d", c.entity.Scheme, c.messages), func(t *testing.T) {
			w := newWorld(t)
			w.client.Entity = c.entity
			heard := make(chan string, 1)
			w.handler = handler(func(_ context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
				rw.Silent = true
				data, err := io.ReadAll(m)
				heard <- string(data) + " " + m.User
				return err
			})
			client := w.newClient(nil)
			defer client.Close()
			for i, messages := range []int{c.messages, 1, 1} {
				if c.messages == 1 && i > 0 && c.entity.Scheme == "PSK" {
					w.advance(48 * time.Hour)
				}
				r := c.request
				r.Body = strings.NewReader("data")
				if err := client.Send(t.Context(), &r); err != nil {
					t.Fatal(err)
				}
				want := "data "
				if r.User != "" {
					want += "user1"
				}
				if got := <-heard; got != want {
					t.Errorf("heard %q", got)
				}
				w.expectRequests(messages, "a one-way message")
			}
		})
	}
}

// TestSendRecovers: where a transport brings an error message to a one-way message nevertheless, the
// client does what it asks for.
func TestSendRecovers(t *testing.T) {
	w := newWorld(t)
	policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
	w.config.Policy = policy
	var got atomic.Int32
	w.handler = handler(func(_ context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		rw.Silent = true
		_, err := io.Copy(io.Discard, m)
		got.Add(1)
		return err
	})
	w.newClient(nil).Close()
	server := httptest.NewServer(w.server)
	defer server.Close()
	client, err := msl.NewClient(w.client, inproc.Agent(t), &msl.HTTPTransport{URL: server.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	send := func(body io.Reader) error {
		return client.Send(t.Context(), &msl.Request{Body: body, NonReplayable: true})
	}
	if err := send(strings.NewReader("gets tokens first")); err != nil {
		t.Fatal(err)
	}
	policy.master.Store(uint32(msl.MasterTokenIdentityRevoked))
	if err := send(strings.NewReader("short")); err != nil {
		t.Error(err)
	}
	if err := send(bytes.NewReader(make([]byte, 1<<20))); err != nil {
		t.Error(err)
	}
	if got.Load() != 3 {
		t.Errorf("%d messages arrived", got.Load())
	}
	w.config.Policy = nil
	policy.master.Store(uint32(msl.MessageFormatError))
	if err := send(strings.NewReader("refused")); !errors.Is(err, msl.MessageFormatError) {
		t.Errorf("got %v", err)
	}
}

// TestExcludeAndDelete: what an answer leaves out stays with the client, and what it deletes does not (§8.15,
// behaviour 113).
func TestExcludeAndDelete(t *testing.T) {
	w := newWorld(t)
	var step atomic.Int32
	seen := make(chan string, 10)
	all := []msl.NewServiceToken{{Name: "a"}, {Name: "a", BoundToEntity: true}, {Name: "a", BoundToUser: true}}
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		var have strings.Builder
		for _, st := range m.ServiceTokens {
			fmt.Fprintf(&have, "%s ", st.Value)
		}
		seen <- strings.TrimSpace(have.String())
		rw.ServiceTokens = nil
		switch n := step.Add(1); n {
		case 1: // new ones of every binding; of the same name they differ all the same
			for i, token := range all {
				token.Data = []byte{'1' + byte(i)}
				rw.ServiceTokens = append(rw.ServiceTokens, token)
			}
		case 3: // left out: kept by the client
			for _, token := range all {
				token.Exclude = true
				rw.ServiceTokens = append(rw.ServiceTokens, token)
			}
		case 4: // replaced, one; deleted, another
			rw.ServiceTokens = []msl.NewServiceToken{{Name: "a", Data: []byte("new")}, {Name: "a", BoundToUser: true}}
		}
		return echo(ctx, rw, m)
	})
	client := w.newClient(nil)
	defer client.Close()
	r := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
	for i, want := range []string{"", "1 2 3", "1 2 3", "1 2 3", "new 2"} {
		answer := w.mustSay(client, r, "x")
		if got := <-seen; got != want {
			t.Errorf("message %d carried %q, not %q", i+1, got, want)
		}
		if i == 2 && len(answer.ServiceTokens) != 0 {
			t.Errorf("%d tokens were not left out", len(answer.ServiceTokens))
		}
	}
	r.ServiceTokens = []msl.NewServiceToken{{Name: "a", Exclude: true}}
	w.mustSay(client, r, "x")
	if got := <-seen; got != "2" {
		t.Errorf("the request that leaves one out carried %q", got)
	}
	r.ServiceTokens = nil
	w.mustSay(client, r, "x")
	if got := <-seen; got != "new 2" && got != "2 new" {
		t.Errorf("afterwards the request carried %q", got)
	}
}

// TestWaiters: while one message gets the tokens that many wait for, no other asks for them, and all go on when
// it is done; if it fails, another takes its place (§8.7).
func TestWaiters(t *testing.T) {
	for _, fails := range []bool{false, true} {
		w := newWorld(t)
		w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
		client := w.newClient(nil)
		const waiters = 8
		var first sync.Once
		held, reached := make(chan struct{}), make(chan struct{})
		w.meddle = func(_ int, request []byte) (r []byte, err error) {
			r = request
			first.Do(func() {
				close(reached)
				<-held
				if fails {
					err = errors.New("cut")
				}
			})
			return r, err
		}
		var all sync.WaitGroup
		var failed atomic.Int32
		for i := range waiters {
			all.Go(func() {
				if got, _, err := say(client, msl.Request{}, fmt.Sprint(i)); err != nil || got != fmt.Sprint(i) {
					failed.Add(1)
				}
			})
		}
		<-reached
		close(held)
		all.Wait()
		want, bad := 1+waiters, int32(0)
		if fails {
			want, bad = 2+waiters-1, 1 // the one that was cut off, the next handshake, and all others
		}
		if got := w.count(); got != want || failed.Load() != bad {
			t.Errorf("%d messages, %d failed; the first failed: %v", got, failed.Load(), fails)
		}
		client.Close()
	}
}

// TestWaiterGivesUp: whoever waits for another message's tokens does so no longer than its context lasts (§8.11).
func TestWaiterGivesUp(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	client := w.newClient(nil)
	defer client.Close()
	held, reached := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.meddle = func(_ int, request []byte) ([]byte, error) {
		once.Do(func() { close(reached); <-held })
		return request, nil
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := say(client, msl.Request{}, "owner")
		done <- err
	}()
	<-reached
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := client.Do(ctx, &msl.Request{Body: strings.NewReader("waiter")})
		waiting <- err
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the waiter: %v", err)
	}
	close(held)
	if err := <-done; err != nil {
		t.Errorf("the owner: %v", err)
	}
}

// TestNetworks: a process takes part in three networks at once, two of trusted services and one of peers, as
// client and as server, and nothing of one gets into another.
func TestNetworks(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	b.keys = inproc.OtherIssuer(t)
	seen := func(name string) handler {
		return func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
			for _, st := range m.ServiceTokens {
				if st.Name != name {
					t.Errorf("network %s got a service token of network %s", name, st.Name)
				}
			}
			w.ServiceTokens = []msl.NewServiceToken{{Name: name, Data: []byte(name)}}
			return echo(ctx, w, m)
		}
	}
	a.handler, b.handler = seen("a"), seen("b")
	stores := [3]*msl.MemoryStore{{}, {}, {}}
	clientA, clientB := a.newClient(stores[0]), b.newClient(stores[1])
	defer clientA.Close()
	defer clientB.Close()
	n := newNetwork(t, msl.PSK("psk-client"), msl.PSK("psk-server"))
	n.handler = seen("peers")
	n.start()
	var err error
	if n.client, err = msl.NewClient(n.a, n.keysA, &msl.StreamTransport{Dial: n.dial}, stores[2]); err != nil {
		t.Fatal(err)
	}
	defer n.client.Close()
	var all sync.WaitGroup
	for range 4 {
		for range 3 {
			all.Go(func() { a.mustSay(clientA, msl.Request{NonReplayable: true}, "in a") })
			all.Go(func() { b.mustSay(clientB, msl.Request{NonReplayable: true}, "in b") })
			all.Go(func() { n.mustSay(msl.Request{}, "between peers") })
		}
		all.Wait()
	}
	// The token of one network is nothing to another, also if its owner presents it there.
	for _, other := range []*world{a, b} {
		from := stores[0]
		if other == a {
			from = stores[1]
		}
		state, err := from.Load(t.Context())
		if err != nil || state.MasterToken == nil {
			t.Fatalf("no token: %v", err)
		}
		token, err := msl.ParseMasterToken(state.MasterToken)
		if err != nil {
			t.Fatal(err)
		}
		if session, _, err := other.keys.OpenMasterToken(t.Context(), token.Token, nil); session != nil || err != nil {
			t.Errorf("the token of another network was opened: %v", err)
		}
	}
}

// TestServeConn: a server of a trusted services network answers many messages on one connection, also after
// one that failed, and ends with the connection.
func TestServeConn(t *testing.T) {
	w := newWorld(t)
	w.newClient(nil).Close()
	var served sync.WaitGroup
	transport := &msl.StreamTransport{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		served.Go(func() {
			if err := w.server.ServeConn(t.Context(), far); err != nil {
				t.Error(err)
			}
		})
		return near, nil
	}}
	client, err := msl.NewClient(w.client, inproc.Agent(t), transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("long ", 100_000)
	for _, text := range []string{"", "short", long} {
		if data, _, err := say(client, msl.Request{}, text); err != nil || data != text {
			t.Errorf("said %.20q, heard %.20q: %v", text, data, err)
		}
		transport.CloseIdle()
		served.Wait()
	}
	client.Close()

	// Messages by hand, on one connection: two good ones, one that fails, and another good one.
	w.forget = false
	c := w.newClient(nil)
	defer c.Close()
	w.count()
	w.mustSay(c, msl.Request{}, "get a token")
	w.mustSay(c, msl.Request{}, "recorded")
	good := w.requests[1]
	bad := bytes.Replace(bytes.Clone(good), []byte(`"signature":"`), []byte(`"signature":"AAAA`), 1)
	var requests bytes.Buffer
	for _, r := range [][]byte{good, good, bad, good} {
		requests.Write(r)
	}
	conn := &recorder{in: &requests}
	w.failures = nil
	if err := w.server.ServeConn(t.Context(), conn); err != nil {
		t.Error(err)
	}
	if answers := bytes.Count(conn.out.Bytes(), []byte(`"headerdata"`)); answers != 3 || len(w.failures) != 1 {
		t.Errorf("%d answers, failures %v", answers, w.failures)
	}
	if errs := bytes.Count(conn.out.Bytes(), []byte(`"errordata"`)); errs != 1 {
		t.Errorf("%d error messages", errs)
	}
}

// recorder is a connection whose peer has said everything already.
type recorder struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error)  { return r.in.Read(p) }
func (r *recorder) Write(p []byte) (int, error) { return r.out.Write(p) }
func (r *recorder) Close() error                { return nil }

func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
