// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
)

// raw sends frames and returns the codes of the frames that come back until the server is done.
func raw(t *testing.T, h Handler, o Options, frames []byte) (codes []uint8, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(context.Background(), far, h, o) }()
		go func() {
			near.Write(frames)
			synctest.Wait() // for the server to have handled all of it
			near.Close()
		}()
		fr := newFrameReader(near, 1<<20, nil)
		for {
			f, err := fr.next()
			if err != nil {
				break
			}
			codes = append(codes, f.code)
		}
		err = <-served
	})
	return codes, err
}

func rawFrame(id uint64, deadline uint32, m message) []byte {
	var c coder
	n, _ := c.measure(m)
	return appendFrame(nil, &c, id, deadline, m, n)
}

func TestProtocolViolations(t *testing.T) {
	hello := rawFrame(0, 1, &HelloRequest{Version: Version})
	for name, tt := range map[string]struct {
		frames []byte
		codes  []uint8
		err    error
	}{
		"nothing":           {nil, nil, nil},
		"hello":             {hello, []uint8{helloReply}, nil},
		"no hello":          {rawFrame(1, 1000, &HealthRequest{}), nil, errProtocol},
		"second hello":      {append(bytes.Clone(hello), rawFrame(1, 1, &HelloRequest{Version: Version})...), []uint8{helloReply}, errProtocol},
		"other version":     {rawFrame(0, 1, &HelloRequest{Version: Version + 1}), []uint8{errorReply}, errVersion},
		"cut":               {append(bytes.Clone(hello), 0, 0), []uint8{helloReply}, io.ErrUnexpectedEOF},
		"too short":         {append(bytes.Clone(hello), 0, 0, 0, 8), []uint8{helloReply}, errFrameSize},
		"too long":          {append(bytes.Clone(hello), 0xff, 0xff, 0xff, 0xff), []uint8{helloReply}, errFrameSize},
		"unknown request":   {append(bytes.Clone(hello), appendHeader(nil, 9, 1, 0x70)...), []uint8{helloReply, errorReply}, nil},
		"reply":             {append(bytes.Clone(hello), rawFrame(1, 0, &HealthReply{})...), []uint8{helloReply, errorReply}, nil},
		"no deadline":       {append(bytes.Clone(hello), appendHeader(nil, 13, 1, healthRequest)...), []uint8{helloReply}, io.ErrUnexpectedEOF},
		"zero deadline":     {append(append(bytes.Clone(hello), appendHeader(nil, 13, 1, healthRequest)...), 0, 0, 0, 0), []uint8{helloReply}, errProtocol},
		"malformed request": {append(append(bytes.Clone(hello), appendHeader(nil, 14, 1, healthRequest)...), 0, 0, 0, 1, 0), []uint8{helloReply, errorReply}, nil},
		"cancel of nothing": {append(bytes.Clone(hello), appendCancel(nil, 77)...), []uint8{helloReply}, nil},
		"cancel with body":  {append(append(bytes.Clone(hello), appendHeader(nil, 10, 1, cancelCode)...), 0), []uint8{helloReply}, errProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			codes, err := raw(t, echo{}, Options{}, tt.frames)
			if !bytes.Equal(codes, tt.codes) || err != tt.err {
				t.Errorf("got %x and %v; want %x and %v", codes, err, tt.codes, tt.err)
			}
		})
	}
}

func TestFlood(t *testing.T) {
	var frames []byte
	frames = append(frames, rawFrame(0, 1, &HelloRequest{Version: Version})...)
	for id := range uint64(5) {
		frames = append(frames, rawFrame(id, 1000, &KeysRequest{})...)
	}
	forever := handlerFunc(func(ctx context.Context, _ Request) (Reply, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	codes, err := raw(t, forever, Options{MaxInFlight: 3}, frames)
	if want := []uint8{helloReply, errorReply, errorReply}; !bytes.Equal(codes, want) || err != nil {
		t.Errorf("got %x and %v; want %x", codes, err, want)
	}
	frames = append(frames, rawFrame(2, 1000, &KeysRequest{})...)
	if _, err = raw(t, forever, Options{}, frames); err != errProtocol {
		t.Errorf("an id used twice ended with %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	hello := rawFrame(0, 1, &HelloRequest{Version: Version})
	f.Add(hello)
	f.Add(append(bytes.Clone(hello), rawFrame(1, 1000, &OpenRequest{Parts: []Part{{Data: []byte("x")}}})...))
	f.Add(append(bytes.Clone(hello), rawFrame(2, 1000, &KeysRequest{Prefix: "x"})...))
	f.Add(append(bytes.Clone(hello), appendCancel(nil, 1)...))
	f.Add(append(bytes.Clone(hello), 0, 0, 0, 9, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b), 1<<16, &framePool)
		rest := b
		for {
			got, err := fr.next()
			if err != nil {
				if err == io.EOF && len(rest) > 0 {
					t.Errorf("%d bytes lost", len(rest))
				}
				break
			}
			again := append(appendHeader(nil, headerSize-lengthSize+len(got.body), got.id, got.code), got.body...)
			if !bytes.HasPrefix(rest, again) {
				t.Fatalf("frame %x read as %x", rest[:len(again)], again)
			}
			rest = rest[len(again):]
		}
		raw(t, fuzzHandler{}, Options{MaxFrame: 1 << 16}, b)
	})
}

type fuzzHandler struct{}

func (fuzzHandler) Handle(context.Context, Request) (Reply, error) { return &HealthReply{}, nil }
func (fuzzHandler) Quick(req Request) bool {
	_, ok := req.(*OpenRequest)
	return ok
}
