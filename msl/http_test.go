// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// overHTTP serves the world's server, and returns a client that reaches it over HTTP.
func (w *world) overHTTP() (*msl.Client, *httptest.Server) {
	w.t.Helper()
	w.newClient(nil).Close()
	s := httptest.NewServer(w.server)
	w.t.Cleanup(s.Close)
	c, err := msl.NewClient(w.client, inproc.Agent(w.t), &msl.HTTPTransport{URL: s.URL}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c, s
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	client, s := w.overHTTP()
	for _, size := range []int{0, 1, 1000, 60_000, 70_000, 3 << 20} {
		w.mustSay(client, msl.Request{Compression: "NONE"}, strings.Repeat("x", size))
	}
	answer, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", answer.StatusCode)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	lost, err := msl.NewClient(w.client, inproc.Agent(t), &msl.HTTPTransport{URL: other.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lost.Close()
	if _, _, err := say(lost, msl.Request{}, "x"); err == nil {
		t.Error("a server that speaks no MSL answered")
	}
}

// TestFullDuplex: what is flushed arrives before the message is complete, in both directions.
func TestFullDuplex(t *testing.T) {
	w := newWorld(t)
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		for {
			chunk, err := m.NextChunk(ctx)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := rw.Write(chunk); err != nil {
				return err
			}
			if err := rw.Flush(); err != nil {
				return err
			}
		}
	})
	client, _ := w.overHTTP()
	w.mustSay(client, msl.Request{}, "get a token")
	heard := make(chan string)
	answer, err := client.Do(t.Context(), &msl.Request{Stream: func(_ context.Context, mw *msl.MessageWriter) error {
		for _, word := range []string{"one", "two", "three"} {
			if _, err := io.WriteString(mw, word); err != nil {
				return err
			}
			if err := mw.Flush(); err != nil {
				return err
			}
			if got := <-heard; got != word {
				t.Errorf("said %q, heard %q", word, got)
			}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	for {
		chunk, err := answer.NextChunk(t.Context())
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		heard <- string(chunk)
	}
}

// TestCutAnswer: an answer that breaks off is not taken for a whole one, whether the handler fails or panics.
func TestCutAnswer(t *testing.T) {
	for name, end := range map[string]func() error{
		"error": func() error { return errors.New("out of words") },
		"panic": func() error { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
				if m.MasterToken == nil {
					return echo(ctx, rw, m)
				}
				io.WriteString(rw, "the first half")
				if err := rw.Flush(); err != nil {
					return err
				}
				return end()
			})
			client, _ := w.overHTTP()
			w.mustSay(client, msl.Request{}, "get a token")
			if data, _, err := say(client, msl.Request{}, "x"); err == nil {
				t.Errorf("heard %q, and nothing wrong", data)
			}
		})
	}
}

// TestHandlerErrors: what a handler returns before it has answered is told to the peer.
func TestHandlerErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want msl.Code
	}{{errors.New("whatever"), msl.InternalException}, {msl.MessageFormatError, msl.MessageFormatError}} {
		w := newWorld(t)
		w.handler = handler(func(_ context.Context, rw *msl.ResponseWriter, _ *msl.Message) error {
			io.WriteString(rw, "nothing of this was sent")
			return c.err
		})
		client, _ := w.overHTTP()
		if _, _, err := say(client, msl.Request{}, "x"); !errors.Is(err, c.want) {
			t.Errorf("%v: got %v", c.err, err)
		}
	}
}

func TestHTTPHandler(t *testing.T) {
	w := newWorld(t)
	w.handler = msl.HTTPHandler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil:
			panic(http.ErrAbortHandler)
		case string(body) == "busy":
			http.Error(rw, "later", http.StatusServiceUnavailable)
		case string(body) == "bad":
			http.Error(rw, "no", http.StatusBadRequest)
		default:
			io.WriteString(rw, r.Header.Get("MSL-Entity")+" "+r.Header.Get("MSL-User")+" "+string(body))
		}
	}))
	client, _ := w.overHTTP()
	user := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
	if got, _, err := say(client, user, "hello"); err != nil || got != "psk-client user1 hello" {
		t.Errorf("heard %q, %v", got, err)
	}
	for text, want := range map[string]msl.Code{"busy": msl.InternalException, "bad": msl.MSLCommsFailure} {
		if got, _, err := say(client, msl.Request{}, text); !errors.Is(err, want) {
			t.Errorf("%s: heard %q, %v", text, got, err)
		}
	}
}

func TestRoundTripper(t *testing.T) {
	w := newWorld(t)
	client, _ := w.overHTTP()
	h := &http.Client{Transport: &msl.RoundTripper{Client: client}}
	answer, err := h.Post("http://anywhere/", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if data, err := io.ReadAll(answer.Body); err != nil || string(data) != "hello" {
		t.Errorf("heard %q, %v", data, err)
	}
	if answer, err := h.Get("http://anywhere/"); err == nil {
		answer.Body.Close()
		t.Error("a GET was sent")
	}
}

// TestInspect: what needs no key is shown, and nothing else.
func TestInspect(t *testing.T) {
	w := newWorld(t)
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "a secret")
	w.mustSay(client, msl.Request{}, "a secret")
	for i, request := range w.requests {
		in, err := msl.Inspect(bytes.NewReader(request), msl.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if !in.Complete || in.Bytes != int64(len(request)) || len(in.Payloads) != 1 || in.Header.Ciphertext == 0 || strings.Contains(in.Text(), "a secret") {
			t.Errorf("message %d: %+v", i, in)
		}
		if i == 0 && (in.Entity == nil || in.Entity.Identity != "psk-client") || i == 1 && (in.MasterToken == nil || in.MasterToken.Encrypted.Ciphertext == 0) {
			t.Errorf("message %d: the sender is not shown: %s", i, in.Text())
		}
		for cut := range len(request) {
			in, err := msl.Inspect(bytes.NewReader(request[:cut]), msl.Limits{})
			if err == nil && in.Complete && len(in.Payloads) == 1 {
				t.Errorf("message %d, cut to %d bytes, looks complete", i, cut)
			}
		}
	}
}
