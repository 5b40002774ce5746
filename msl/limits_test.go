// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mslkeep/mslkeep/msl"
)

// TestLimits: headers, chunks, uncompressed data and the number of tokens and requests are bounded.
func TestLimits(t *testing.T) {
	dull := strings.Repeat("dull ", 20)
	request := msl.KeyRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: []byte(`{"keyid":"PSK"}`)}
	for _, c := range []struct {
		name    string
		limits  msl.Limits
		message []byte
		want    msl.Code
	}{
		{"header", msl.Limits{Header: 100}, plainMessage(t, 5, nil, "x"), msl.MSLParseError},
		{"payload", msl.Limits{Payload: 300}, plainMessage(t, 5, nil, strings.Repeat("x", 300)), msl.MSLParseError},
		{"requests", msl.Limits{Requests: 2}, plainMessage(t, 5, func(h *msl.HeaderData) {
			h.KeyRequests = []msl.KeyRequest{request, request, request}
		}, "x"), msl.MSLParseError},
		{"tokens", msl.Limits{Tokens: 2}, plainMessage(t, 5, func(h *msl.HeaderData) {
			for i := range 3 {
				token, err := msl.SealServiceToken(context.Background(), noneConfig(), nil, fmt.Sprint(i), nil, nil, false, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				h.ServiceTokens = append(h.ServiceTokens, token)
			}
		}, "x"), msl.MSLParseError},
		{"inflate", msl.Limits{Inflate: 50}, compressedMessage(t, dull), msl.UncompressionError},
	} {
		o := noneOpener()
		for _, limited := range []bool{false, true} {
			if o.Config.Limits = (msl.Limits{}); limited {
				o.Config.Limits = c.limits
			}
			_, err := everything(o, c.message)
			if limited && msl.CodeOf(err) != c.want || !limited && err != nil {
				t.Errorf("%s, limited %v: %v", c.name, limited, err)
			}
		}
	}
}

func compressedMessage(t testing.TB, text string) []byte {
	var out bytes.Buffer
	w := noneMessage(t, &out, &plainContext{}, nil)
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestCanceledContext: reading ends with the context, whatever the stream does.
func TestCanceledContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	message := plainMessage(t, 5, nil, "one", "two")
	o := noneOpener()
	o.Config.EntitySchemes = []string{"NONE"}
	m, err := o.Open(ctx, iotest.OneByteReader(bytes.NewReader(message)))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(m); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestBrokenConnection: a failure of the connection is no fault in the message, and keeps its cause.
func TestBrokenConnection(t *testing.T) {
	message := plainMessage(t, 5, nil, "one", "two")
	broken := errors.New("broken")
	for n := range len(message) {
		r := io.MultiReader(bytes.NewReader(message[:n]), iotest.ErrReader(broken))
		if _, err := everythingFrom(noneOpener(), r); !errors.Is(err, broken) || msl.CodeOf(err) != msl.MSLCommsFailure {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func everythingFrom(o *msl.Opener, r io.Reader) ([]byte, error) {
	m, err := o.Open(context.Background(), r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(m)
}

// TestCloseIsBounded: Close does not read an endless message to its end.
func TestCloseIsBounded(t *testing.T) {
	texts := make([]string, 60)
	for i := range texts {
		texts[i] = strings.Repeat("x", 10_000)
	}
	r := bytes.NewReader(plainMessage(t, 5, nil, texts...))
	m, err := noneOpener().Open(context.Background(), iotest.OneByteReader(r))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil {
		t.Error("closed a long message without an error")
	}
	if r.Len() == 0 {
		t.Error("all of it was read")
	}
	if _, err := m.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read after Close: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestBoundedMemory: a long message goes through writer and reader while only little of it is in memory.
func TestBoundedMemory(t *testing.T) {
	const total, bound = 48 << 20, 12 << 20
	pr, pw := io.Pipe()
	w := noneMessage(t, pw, &plainContext{}, func(m *msl.Outgoing) { m.Compression = "NONE" })
	go func() {
		block := make([]byte, 100_000)
		for written := 0; written < total; written += len(block) {
			if _, err := w.Write(block); err != nil {
				pw.CloseWithError(err)
				return
			}
		}
		pw.CloseWithError(w.Close())
	}()
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := noneOpener().Open(context.Background(), pr)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for i := 0; ; i++ {
		chunk, err := m.NextChunk(context.Background())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		read += len(chunk)
		if i%64 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); grown > bound {
				t.Fatalf("after %d bytes, %d more bytes are in use", read, grown)
			}
		}
	}
	if read < total {
		t.Errorf("%d bytes came", read)
	}
}
