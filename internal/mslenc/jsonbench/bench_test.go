// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package jsonbench

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/bytedance/sonic"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	goccy "github.com/goccy/go-json"
	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// The JSON texts of one message with 1 KiB of data, on an established session: a header with a
// master token, and one payload. Raw is the bytes of a nested object exactly as they came, which a
// token needs.

type header struct {
	MasterToken json.RawMessage `json:"mastertoken"`
	HeaderData  []byte          `json:"headerdata"`
	Signature   []byte          `json:"signature"`
}

type headerV2 struct {
	MasterToken jsontext.Value `json:"mastertoken"`
	HeaderData  []byte         `json:"headerdata"`
	Signature   []byte         `json:"signature"`
}

type token struct {
	TokenData []byte `json:"tokendata"`
	Signature []byte `json:"signature"`
}

type tokenData struct {
	RenewalWindow  int64  `json:"renewalwindow"`
	Expiration     int64  `json:"expiration"`
	SequenceNumber int64  `json:"sequencenumber"`
	SerialNumber   int64  `json:"serialnumber"`
	SessionData    []byte `json:"sessiondata"`
}

type envelope struct {
	KeyID      string `json:"keyid"`
	IV         []byte `json:"iv"`
	Ciphertext []byte `json:"ciphertext"`
	SHA256     []byte `json:"sha256"`
}

type headerData struct {
	Sender        string       `json:"sender"`
	MessageID     int64        `json:"messageid"`
	Timestamp     int64        `json:"timestamp"`
	NonReplayable bool         `json:"nonreplayable"`
	Renewable     bool         `json:"renewable"`
	Handshake     bool         `json:"handshake"`
	Capabilities  capabilities `json:"capabilities"`
}

type capabilities struct {
	CompressionAlgos []string `json:"compressionalgos"`
	Languages        []string `json:"languages"`
	EncoderFormats   []string `json:"encoderformats"`
}

type payload struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

type chunk struct {
	SequenceNumber int64  `json:"sequencenumber"`
	MessageID      int64  `json:"messageid"`
	EndOfMessage   bool   `json:"endofmsg"`
	Data           []byte `json:"data"`
}

// A message is all of it, taken apart.
type message struct {
	header       header
	token        token
	tokenData    tokenData
	headerSealed envelope
	headerData   headerData
	payload      payload
	chunkSealed  envelope
	chunk        chunk
}

// The texts in the order in which they are read: header, token data, header's envelope, header data,
// payload, payload's envelope, chunk. The token is a text inside the header.
type texts [7][]byte

func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*197 + i>>3)
	}
	return b
}

func sample() *message {
	m := new(message)
	m.tokenData = tokenData{1700000000, 1900000000, 42, 9007199254740992, fill(500)}
	m.token = token{must(json.Marshal(m.tokenData)), fill(32)}
	m.headerData = headerData{"PSK-ESN", 1234567890123, 1795289024, false, true, false,
		capabilities{[]string{"GZIP", "LZW"}, []string{"en-US"}, []string{"JSON"}}}
	m.headerSealed = envelope{"PSK-ESN_42", fill(16), fill(320), []byte{0}}
	m.header = header{must(json.Marshal(m.token)), must(json.Marshal(m.headerSealed)), fill(32)}
	m.chunk = chunk{1, 1234567890123, true, fill(1024)}
	m.chunkSealed = envelope{"PSK-ESN_42", fill(16), fill(1456), []byte{0}}
	m.payload = payload{must(json.Marshal(m.chunkSealed)), fill(32)}
	return m
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func encoded(m *message, marshal func(any) ([]byte, error)) (t texts) {
	for i, v := range []any{&m.header, &m.tokenData, &m.headerSealed, &m.headerData, &m.payload, &m.chunkSealed, &m.chunk} {
		if i != 1 { // a token is sent as it came
			t[i] = must(marshal(v))
		}
	}
	return t
}

func decoded(t *texts, unmarshal func([]byte, any) error) (*message, error) {
	m := new(message)
	for i, v := range []any{&m.header, &m.tokenData, &m.headerSealed, &m.headerData, &m.payload, &m.chunkSealed, &m.chunk} {
		if err := unmarshal(t[i], v); err != nil {
			return nil, err
		}
		if i == 0 {
			if err := unmarshal(m.header.MasterToken, &m.token); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// libraries marshal and unmarshal the structs above.
var libraries = []struct {
	name      string
	marshal   func(any) ([]byte, error)
	unmarshal func([]byte, any) error
}{
	{"encoding-json", json.Marshal, json.Unmarshal},
	{"go-json-experiment", marshalV2, unmarshalV2},
	{"goccy", goccyMarshal, goccyUnmarshal},
	{"sonic-std", sonic.ConfigStd.Marshal, sonic.ConfigStd.Unmarshal},
	{"sonic", sonic.Marshal, sonic.Unmarshal},
	{"goccy-checked", goccyMarshal, checked(goccyUnmarshal)},
	{"sonic-checked", sonic.Marshal, checked(sonic.Unmarshal)},
}

// checked lets only text through that is strict JSON without duplicate names.
func checked(unmarshal func([]byte, any) error) func([]byte, any) error {
	return func(b []byte, v any) error {
		if !jsontext.Value(b).IsValid() {
			return errors.New("not strict JSON")
		}
		return unmarshal(b, v)
	}
}

func goccyMarshal(v any) ([]byte, error)   { return goccy.Marshal(v) }
func goccyUnmarshal(b []byte, v any) error { return goccy.Unmarshal(b, v) }

func marshalV2(v any) ([]byte, error) {
	if h, ok := v.(*header); ok {
		return jsonv2.Marshal(&headerV2{jsontext.Value(h.MasterToken), h.HeaderData, h.Signature})
	}
	return jsonv2.Marshal(v)
}

func unmarshalV2(b []byte, v any) error {
	if h, ok := v.(*header); ok {
		var h2 headerV2
		err := jsonv2.Unmarshal(b, &h2)
		*h = header{json.RawMessage(h2.MasterToken), h2.HeaderData, h2.Signature}
		return err
	}
	return jsonv2.Unmarshal(b, v)
}

func BenchmarkDecode(b *testing.B) {
	t, want := sampleTexts(), fmt.Sprint(*sample())
	b.Run("mslenc", func(b *testing.B) { benchDecode(b, want, func() (*message, error) { return decodeOurs(&t) }) })
	for _, l := range libraries {
		b.Run(l.name, func(b *testing.B) {
			benchDecode(b, want, func() (*message, error) { return decoded(&t, l.unmarshal) })
		})
	}
}

// BenchmarkBase64 is what no choice of JSON library can save: the binary members alone.
func BenchmarkBase64(b *testing.B) {
	m := sample()
	members := [][]byte{m.header.HeaderData, m.header.Signature, m.token.TokenData, m.token.Signature, m.tokenData.SessionData,
		m.headerSealed.IV, m.headerSealed.Ciphertext, m.headerSealed.SHA256, m.payload.Payload, m.payload.Signature,
		m.chunkSealed.IV, m.chunkSealed.Ciphertext, m.chunkSealed.SHA256, m.chunk.Data}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			for _, v := range members {
				base64.StdEncoding.AppendEncode(nil, v)
			}
		}
	})
	for i, v := range members {
		members[i] = base64.StdEncoding.AppendEncode(nil, v)
	}
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			for _, v := range members {
				base64.StdEncoding.AppendDecode(nil, v)
			}
		}
	})
}

func benchDecode(b *testing.B, want string, decode func() (*message, error)) {
	if m, err := decode(); err != nil || fmt.Sprint(*m) != want {
		b.Fatal("not what was encoded: ", err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(); err != nil {
			b.Fatal(err)
		}
	}
}

func sampleTexts() texts {
	m := sample()
	t := encoded(m, json.Marshal)
	t[1] = m.token.TokenData
	return t
}

func BenchmarkEncode(b *testing.B) {
	m := sample()
	b.Run("mslenc", func(b *testing.B) {
		t := encodeOurs(m)
		t[1] = m.token.TokenData
		back, err := decoded(&t, json.Unmarshal)
		if err != nil || fmt.Sprint(*back) != fmt.Sprint(*m) {
			b.Fatal("not what was encoded: ", err)
		}
		b.ReportAllocs()
		for b.Loop() {
			encodeOurs(m)
		}
	})
	for _, l := range libraries {
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encoded(m, l.marshal)
			}
		})
	}
}

// TestStrictness prints what each library makes of input that must be refused.
func TestStrictness(t *testing.T) {
	for name, doc := range map[string]string{
		"duplicate names":          `{"keyid":"a","keyid":"b"}`,
		"duplicates inside":        `{"x":{"a":1,"a":2}}`,
		"duplicate, escaped":       `{"keyid":"a","\u006beyid":"b"}`,
		"null":                     `{"keyid":null}`,
		"invalid UTF-8":            "{\"keyid\":\"\xff\"}",
		"lone surrogate":           `{"keyid":"\ud800"}`,
		"control character":        "{\"keyid\":\"\x01\"}",
		"bits under the padding":   `{"iv":"AB=="}`,
		"leading zero":             `{"x":01}`,
		"bytes after the end":      `{}x`,
		"nesting of 100,000":       `{"x":` + string(bytes.Repeat([]byte("["), 100000)) + string(bytes.Repeat([]byte("]"), 100000)) + `}`,
		"bad text in unknown name": "{\"x\":\"\xff\"}",
	} {
		line := name + ":"
		for _, l := range libraries {
			if err := l.unmarshal([]byte(doc), new(envelope)); err == nil {
				line += " " + l.name
			}
		}
		o, err := mslenc.Parse([]byte(doc))
		if err == nil && o.Has("iv") {
			_, err = o.Binary("iv")
		}
		if err == nil {
			t.Errorf("%s: accepted by mslenc", name)
		}
		t.Log("accepted by:  ", line)
	}
}
