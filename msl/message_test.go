// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// plainMessage is a message of scheme NONE with one chunk for each text; the last one ends it.
func plainMessage(t testing.TB, id int64, change func(*msl.HeaderData), texts ...string) []byte {
	var out bytes.Buffer
	w := noneMessage(t, &out, &plainContext{}, func(m *msl.Outgoing) {
		m.Header.MessageID = id
		m.Compression = "NONE"
		if change != nil {
			change(m.Header)
		}
	})
	for i, text := range texts {
		io.WriteString(w, text)
		if i < len(texts)-1 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestStreamOfMessages: messages follow each other in one stream, however its bytes arrive, and reading
// one takes nothing of the next (§1.6, behaviours 10 and 102).
func TestStreamOfMessages(t *testing.T) {
	var stream []byte
	for i := range 5 {
		stream = append(stream, plainMessage(t, int64(i), nil, strings.Repeat("a", i), "b")...)
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"half reads": iotest.HalfReader(bytes.NewReader(stream)), "data with the end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		d := mslenc.NewDecoder(r, mslenc.Limits{})
		for i := range 5 {
			m, err := noneOpener().OpenDecoder(context.Background(), d)
			if err != nil {
				t.Fatalf("%s, message %d: %v", name, i, err)
			}
			if i == 3 { // close drains
				if err := m.Close(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			data, err := io.ReadAll(m)
			if err != nil || string(data) != strings.Repeat("a", i)+"b" || m.ID != int64(i) {
				t.Errorf("%s, message %d: id %d, %q, %v", name, i, m.ID, data, err)
			}
			if _, err := m.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end: %v", err)
			}
		}
	}
}

// TestStreaming: data is delivered chunk by chunk, while the rest of the message is still to come.
func TestStreaming(t *testing.T) {
	whole := plainMessage(t, 5, nil, "one", "two", "three")
	pr, pw := io.Pipe()
	parts := make(chan []byte)
	go func() {
		for p := range parts {
			pw.Write(p)
		}
		pw.Close()
	}()
	var ends []int
	d := mslenc.NewDecoder(bytes.NewReader(whole), mslenc.Limits{})
	for at := 0; ; {
		o, err := d.Next()
		if err != nil {
			break
		}
		at += len(o.Encoding())
		ends = append(ends, at)
	}
	parts <- whole[:ends[0]]
	m, err := noneOpener().Open(context.Background(), pr)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one", "two", "three"} {
		parts <- whole[ends[i]:ends[i+1]]
		chunk, err := m.NextChunk(context.Background())
		if err != nil || string(chunk) != want {
			t.Fatalf("chunk %d: %q, %v", i, chunk, err)
		}
	}
	if _, err := m.NextChunk(context.Background()); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	close(parts)
}

// TestTruncated cuts a message at every byte: what is delivered is a beginning of its data, and only the
// whole message ends well.
func TestTruncated(t *testing.T) {
	whole := plainMessage(t, 5, nil, "one", "two", "three")
	for n := range len(whole) {
		m, err := noneOpener().Open(context.Background(), bytes.NewReader(whole[:n]))
		if err != nil {
			if msl.CodeOf(err) != msl.MSLParseError {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		}
		data, err := io.ReadAll(m)
		if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix("onetwothree", string(data)) {
			t.Fatalf("%d of %d bytes gave %q, %v", n, len(whole), data, err)
		}
		if code := msl.CodeOf(err); code != msl.MessageDataMissing && code != msl.MSLParseError {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if err := m.Close(); err == nil {
			t.Fatalf("%d bytes: closed without an error", n)
		}
	}
}

// TestHandshakes: behaviours 103 and 104.
func TestHandshakes(t *testing.T) {
	request := []msl.KeyRequest{{Scheme: "SYMMETRIC_WRAPPED", KeyData: []byte(`{"keyid":"PSK"}`)}}
	for _, c := range []struct {
		name                 string
		handshake, renewable bool
		requests             []msl.KeyRequest
		text                 string
		want                 bool
		refused              msl.Code
	}{
		{"explicit", true, true, request, "", true, 0},
		{"not renewable", true, false, request, "", false, msl.HandshakeDataMissing},
		{"without key requests", true, true, nil, "", false, msl.HandshakeDataMissing},
		{"inferred", false, true, request, "", true, 0},
		{"with data", false, true, request, "x", false, 0},
		{"not renewable, empty", false, false, request, "", false, 0},
		{"no key request, empty", false, true, nil, "", false, 0},
	} {
		message := plainMessage(t, 5, func(h *msl.HeaderData) {
			h.Handshake, h.Renewable, h.KeyRequests = c.handshake, c.renewable, c.requests
		}, []string{c.text}[:min(1, len(c.text))]...)
		o := server(t, vectorConfig())
		m, err := o.Open(context.Background(), bytes.NewReader(message))
		if c.refused != 0 {
			if e, ok := errors.AsType[*msl.Error](err); !ok || e.Code != c.refused || e.MessageID != 5 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		data, err := io.ReadAll(m)
		if m.Handshake() != c.want || string(data) != c.text || err != nil {
			t.Errorf("%s: handshake %v, %q, %v", c.name, m.Handshake(), data, err)
		}
	}
}

// TestAnswerToHandshake: it may be a header alone, or have the stray last chunk of the reference's finaliser;
// any other message may not end without its last chunk (§8.6).
func TestAnswerToHandshake(t *testing.T) {
	full := plainMessage(t, 6, nil)
	header := objects(t, full)[0].Encoding()
	for _, c := range []struct {
		message []byte
		answers bool
		ok      bool
	}{{header, true, true}, {full, true, true}, {header, false, false}, {full, false, true}} {
		o := noneOpener()
		o.AnswersHandshake = c.answers
		m, err := o.Open(context.Background(), bytes.NewReader(c.message))
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(m); (err == nil) != c.ok || len(data) > 0 {
			t.Errorf("answers a handshake: %v; %q, %v", c.answers, data, err)
		}
	}
}

// TestWrongKeys: the errors for messages under entity keys and under a master token differ, and are the
// same whatever is wrong (behaviours 92 and 93).
func TestWrongKeys(t *testing.T) {
	ctx := context.Background()
	for _, c := range msltest.Cases(t, "messages.json") {
		want := map[string]msl.Code{
			"entity/PSK":         msl.MessageEntityDataBasedVerificationFailed,
			"master-token/plain": msl.MasterTokenUntrusted,
		}[c.Group+"/"+c.Name]
		if want == 0 {
			continue
		}
		foreign := inproc.Strangers(t)
		o := &msl.Opener{Config: vectorConfig(), Entities: foreign, Tokens: foreign}
		_, err := o.Open(ctx, bytes.NewReader(c.Bytes("message")))
		if msl.CodeOf(err) != want {
			t.Errorf("%s/%s: %v", c.Group, c.Name, err)
		}
		if strings.Contains(fmt.Sprint(err), "padding") {
			t.Errorf("the error tells too much: %v", err)
		}
	}
}

// TestNoneIsRefusedByDefault: entities that do not authenticate must be enabled by name (§5.5).
func TestNoneIsRefusedByDefault(t *testing.T) {
	o := noneOpener()
	o.Config.EntitySchemes = nil
	_, err := o.Open(context.Background(), bytes.NewReader(plainMessage(t, 5, nil, "x")))
	if msl.CodeOf(err) != msl.EntityAuthFactoryNotFound {
		t.Errorf("got %v", err)
	}
}

// TestRemoteIdentity: a client that knows its server's name takes messages from nobody else (§8.6).
func TestRemoteIdentity(t *testing.T) {
	o := noneOpener()
	for name, ok := range map[string]bool{"sender": true, "another": false} {
		o.Config.RemoteIdentity = name
		_, err := o.Open(context.Background(), bytes.NewReader(plainMessage(t, 5, nil, "x")))
		if ok != (err == nil) || !ok && msl.CodeOf(err) != msl.MessageSenderMismatch {
			t.Errorf("%s: %v", name, err)
		}
	}
}
