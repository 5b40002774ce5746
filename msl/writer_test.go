// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// A plainContext protects nothing, like that of scheme NONE, and counts.
type plainContext struct {
	mu         sync.Mutex
	seals      [][]int // lengths of the parts of each call
	running    atomic.Int32
	mostAtOnce atomic.Int32
	hold       chan struct{} // if not nil, each Seal takes from it first
	fail       error
}

func (c *plainContext) Seal(ctx context.Context, plain [][]byte) ([]msl.Part, error) {
	n := c.running.Add(1)
	defer c.running.Add(-1)
	for {
		most := c.mostAtOnce.Load()
		if n <= most || c.mostAtOnce.CompareAndSwap(most, n) {
			break
		}
	}
	if c.hold != nil {
		select {
		case <-c.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	var lengths []int
	parts := make([]msl.Part, len(plain))
	for i, p := range plain {
		lengths = append(lengths, len(p))
		parts[i] = msl.Part{Data: p, Signature: []byte{}}
	}
	c.seals = append(c.seals, lengths)
	return parts, nil
}

func (*plainContext) Open(_ context.Context, parts []msl.Part) ([][]byte, error) {
	var plain [][]byte
	for _, p := range parts {
		plain = append(plain, p.Data)
	}
	return plain, nil
}

// noneConfig accepts and sends unprotected messages.
func noneConfig() *msl.Config {
	return &msl.Config{Entity: msl.None("sender"), EntitySchemes: []string{"NONE"}}
}

func noneOpener() *msl.Opener { return &msl.Opener{Config: noneConfig()} }

func noneMessage(t testing.TB, out io.Writer, c msl.CryptoContext, change func(*msl.Outgoing)) *msl.MessageWriter {
	t.Helper()
	cfg := noneConfig()
	m := &msl.Outgoing{Header: msl.NewHeaderData(cfg, 5), Entity: cfg.Entity, Context: c}
	if change != nil {
		change(m)
	}
	w, err := msl.NewMessageWriter(context.Background(), out, m)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// objects splits a message into its header and chunks.
func objects(t testing.TB, b []byte) (all []mslenc.Object) {
	t.Helper()
	d := mslenc.NewDecoder(bytes.NewReader(b), mslenc.Limits{})
	for {
		o, err := d.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		o, err = mslenc.Parse(bytes.Clone(o.Encoding()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// chunk is what a payload says.
type chunk struct {
	sequence    int64
	end         bool
	compression string
	data        string
}

func chunks(t testing.TB, b []byte) (all []chunk) {
	t.Helper()
	for _, o := range objects(t, b)[1:] {
		plain, err := o.Binary("payload")
		if err != nil {
			t.Fatal(err)
		}
		p, err := mslenc.Parse(plain)
		if err != nil {
			t.Fatal(err)
		}
		var c chunk
		c.sequence, _ = p.Int("sequencenumber")
		c.end, _ = p.Bool("endofmsg")
		c.compression, _ = p.String("compressionalgo")
		data, _ := p.Binary("data")
		c.data = string(data)
		if c.compression != "" {
			data, err = msl.Uncompress(c.compression, data, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			c.data = string(data)
		}
		if p.Has("endofmsg") && !c.end {
			t.Error("endofmsg is written though it is false")
		}
		all = append(all, c)
	}
	return all
}

func sameChunks(t *testing.T, got []chunk, want ...chunk) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d chunks, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		want[i].sequence = int64(i + 1)
		if got[i] != want[i] {
			t.Errorf("chunk %d is %+v, want %+v", i+1, got[i], want[i])
		}
	}
}

// TestWriterFlushAndClose: chunks on flush, one final chunk on close, nothing for nothing (behaviour 111).
func TestWriterFlushAndClose(t *testing.T) {
	var out bytes.Buffer
	c := &plainContext{}
	w := noneMessage(t, &out, c, nil)
	io.WriteString(w, "on")
	io.WriteString(w, "e")
	if out.Len() != 0 {
		t.Error("something was written before Flush")
	}
	for range 2 { // the second one has nothing to send
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(w, "two")
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sameChunks(t, chunks(t, out.Bytes()), chunk{data: "one"}, chunk{data: "two", end: true})
	if len(c.seals) != 2 || len(c.seals[0]) != 2 {
		t.Errorf("custody was asked for %v: the header should go with the first chunk", c.seals)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, msl.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if err := w.Flush(); !errors.Is(err, msl.ErrClosed) {
		t.Errorf("flush after Close: %v", err)
	}

	out.Reset()
	noneMessage(t, &out, c, nil).Close()
	sameChunks(t, chunks(t, out.Bytes()), chunk{end: true})

	out.Reset()
	w = noneMessage(t, &out, c, nil)
	if err := w.Flush(); err != nil || len(objects(t, out.Bytes())) != 1 {
		t.Errorf("Flush without data sends the header: %v", err)
	}
	w.Close()
	sameChunks(t, chunks(t, out.Bytes()), chunk{end: true})
}

// TestWriterHandshake: a handshake and the answer to one are headers alone (behaviour 111).
func TestWriterHandshake(t *testing.T) {
	var out bytes.Buffer
	w := noneMessage(t, &out, &plainContext{}, func(m *msl.Outgoing) { m.Header.Handshake = true })
	if _, err := w.Write([]byte("x")); !errors.Is(err, msl.ErrNoPayloads) {
		t.Errorf("write to a handshake: %v", err)
	}
	if err := w.Close(); err != nil || len(objects(t, out.Bytes())) != 1 {
		t.Errorf("%d objects: %v", len(objects(t, out.Bytes())), err)
	}
	out.Reset()
	if err := noneMessage(t, &out, &plainContext{}, nil).CloseHeader(); err != nil || len(objects(t, out.Bytes())) != 1 {
		t.Errorf("%d objects: %v", len(objects(t, out.Bytes())), err)
	}
}

// TestWriterCompression: behaviour 112.
func TestWriterCompression(t *testing.T) {
	long := strings.Repeat("long and dull ", 50)
	for _, c := range []struct {
		capable []string
		choice  string
		used    string
	}{
		{[]string{"GZIP", "LZW"}, "", "GZIP"}, {[]string{"LZW"}, "", "LZW"}, {nil, "", ""},
		{[]string{"GZIP", "LZW"}, "LZW", "LZW"}, {[]string{"GZIP", "LZW"}, "NONE", ""},
	} {
		var out bytes.Buffer
		w := noneMessage(t, &out, &plainContext{}, func(m *msl.Outgoing) {
			m.Header.Capabilities = &msl.Capabilities{Compression: c.capable}
			m.Compression = c.choice
		})
		io.WriteString(w, long)
		w.Close()
		sameChunks(t, chunks(t, out.Bytes()), chunk{data: long, compression: c.used, end: true})
	}

	var out bytes.Buffer
	w := noneMessage(t, &out, &plainContext{}, nil)
	io.WriteString(w, long)
	for _, algo := range []string{"LZW", "LZW", ""} {
		if err := w.SetCompression(algo); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, long)
	}
	w.Close()
	sameChunks(t, chunks(t, out.Bytes()), chunk{data: long, compression: "GZIP"}, chunk{data: long + long, compression: "LZW"}, chunk{data: long, end: true})

	w = noneMessage(t, io.Discard, &plainContext{}, func(m *msl.Outgoing) { m.Header.Capabilities = &msl.Capabilities{Compression: []string{"LZW"}} })
	if err := w.SetCompression("GZIP"); !errors.Is(err, msl.UnsupportedCompression) {
		t.Errorf("an algorithm that the capabilities lack: %v", err)
	}
	cfg := noneConfig()
	m := &msl.Outgoing{Header: msl.NewHeaderData(cfg, 5), Entity: cfg.Entity, Context: &plainContext{}, Compression: "ZSTD"}
	if _, err := msl.NewMessageWriter(context.Background(), io.Discard, m); !errors.Is(err, msl.UnsupportedCompression) {
		t.Errorf("an algorithm that nobody knows: %v", err)
	}
}

// TestWriterPipelines: bulk data is sealed several chunks at a time, no more than four, and comes out in
// order; writes of any size make the same chunks.
func TestWriterPipelines(t *testing.T) {
	data := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(data)
	var out bytes.Buffer
	c := &plainContext{hold: make(chan struct{})}
	go func() {
		for c.running.Load() < 4 {
			runtime.Gosched()
		}
		close(c.hold)
	}()
	w := noneMessage(t, &out, c, func(m *msl.Outgoing) { m.ChunkSize = 10_000 })
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)%7777)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := c.mostAtOnce.Load(); n != 4 {
		t.Errorf("%d calls at once", n)
	}
	var got strings.Builder
	for i, p := range chunks(t, out.Bytes()) {
		if p.sequence != int64(i+1) || p.end != (i == 29) || len(p.data) != 10_000 {
			t.Errorf("chunk %d: %d, %v, %d bytes", i+1, p.sequence, p.end, len(p.data))
		}
		got.WriteString(p.data)
	}
	if got.String() != string(data) {
		t.Error("data differs")
	}
}

// TestWriterFails: the first failure, of custody or of the connection, is final, and leaves nothing running.
func TestWriterFails(t *testing.T) {
	data := make([]byte, 100_000)
	c := &plainContext{fail: unavailable{}}
	w := noneMessage(t, io.Discard, c, func(m *msl.Outgoing) { m.ChunkSize = 1000 })
	_, err := w.Write(data)
	if msl.CodeOf(err) != msl.InternalException {
		t.Errorf("custody fails: %v", err)
	}
	if err2 := w.Close(); !errors.Is(err2, err) {
		t.Errorf("later: %v", err2)
	}
	if c.running.Load() != 0 {
		t.Error("still sealing")
	}

	c = &plainContext{}
	w = noneMessage(t, brokenWriter{}, c, func(m *msl.Outgoing) { m.ChunkSize = 1000 })
	_, err = w.Write(data)
	if msl.CodeOf(err) != msl.MSLCommsFailure || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the connection fails: %v", err)
	}
	if c.running.Load() != 0 {
		t.Error("still sealing")
	}

	c = &plainContext{hold: make(chan struct{})}
	w = noneMessage(t, io.Discard, c, func(m *msl.Outgoing) { m.ChunkSize = 1000 })
	if _, err := w.Write(data[:3500]); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if c.running.Load() != 0 {
		t.Error("still sealing after abort")
	}
	if err := w.Close(); err == nil {
		t.Error("closed after abort")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestWriterRefusesHeaders: tokens that do not belong together never go out (behaviour 90, §4.3).
func TestWriterRefusesHeaders(t *testing.T) {
	cfg := noneConfig()
	for _, c := range []struct {
		want   msl.Code
		change func(*msl.Outgoing)
	}{
		{msl.UserIDTokenMasterTokenMismatch, func(m *msl.Outgoing) { m.Header.UserIDToken = &msl.UserIDToken{} }},
		{msl.UserIDTokenMasterTokenMismatch, func(m *msl.Outgoing) {
			m.MasterToken = &msl.MasterToken{SerialNumber: 1}
			m.Header.UserIDToken = &msl.UserIDToken{MasterTokenSerialNumber: 2}
		}},
		{msl.ServiceTokenMasterTokenMismatch, func(m *msl.Outgoing) {
			m.Header.ServiceTokens = []*msl.ServiceToken{{ServiceTokenClaims: msl.ServiceTokenClaims{MasterTokenSerialNumber: 1, UserIDTokenSerialNumber: -1}}}
		}},
		{msl.ServiceTokenUserIDTokenMismatch, func(m *msl.Outgoing) {
			m.Header.ServiceTokens = []*msl.ServiceToken{{ServiceTokenClaims: msl.ServiceTokenClaims{MasterTokenSerialNumber: -1, UserIDTokenSerialNumber: 1}}}
		}},
		{msl.NonReplayableMessageRequiresMasterToken, func(m *msl.Outgoing) { m.Header.NonReplayableID = 1 }},
	} {
		m := &msl.Outgoing{Header: msl.NewHeaderData(cfg, 5), Entity: cfg.Entity, Context: &plainContext{}}
		c.change(m)
		if _, err := msl.NewMessageWriter(context.Background(), io.Discard, m); !errors.Is(err, c.want) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
}

// TestWriterRoundTrips: what is written under the keys of an entity in custody is read by its peer, in
// chunks as they come.
func TestWriterRoundTrips(t *testing.T) {
	ctx := context.Background()
	custody := inproc.Agent(t)
	cfg := vectorConfig()
	cfg.Entity = msl.PSK("psk-client")
	own, err := msl.OwnContext(ctx, cfg, custody)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 500_000)
	rand.NewChaCha8([32]byte{2}).Read(data)
	pr, pw := io.Pipe()
	w, err := msl.NewMessageWriter(ctx, pw, &msl.Outgoing{Header: msl.NewHeaderData(cfg, 5), Entity: cfg.Entity, Context: own})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		w.Write(data)
		pw.CloseWithError(w.Close())
	}()
	m, err := server(t, vectorConfig()).Open(ctx, pr)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(m)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came: %v", len(got), err)
	}
	if m.Identity() != "psk-client" || !m.Encrypted || !m.IntegrityProtected {
		t.Errorf("%q, %v, %v", m.Identity(), m.Encrypted, m.IntegrityProtected)
	}
}
