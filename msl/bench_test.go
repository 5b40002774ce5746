// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// sessionMessage returns the master token of the vectors and a message of n bytes under it.
func sessionMessage(b *testing.B, c msl.CryptoContext, n, chunk int) (*msl.MasterToken, []byte) {
	var token *msl.MasterToken
	for _, c := range msltest.Cases(b, "messages.json") {
		if c.Group == "master-token" && c.Name == "plain" {
			m, err := server(b, vectorConfig()).Open(context.Background(), bytes.NewReader(c.Bytes("message")))
			if err != nil {
				b.Fatal(err)
			}
			token = m.MasterToken
		}
	}
	var out bytes.Buffer
	w, err := msl.NewMessageWriter(context.Background(), &out, benchOutgoing(token, c, chunk))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(make([]byte, n)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return token, out.Bytes()
}

func benchOutgoing(token *msl.MasterToken, c msl.CryptoContext, chunk int) *msl.Outgoing {
	return &msl.Outgoing{
		Header: msl.NewHeaderData(vectorConfig(), 5), MasterToken: token, Context: c, ChunkSize: chunk, Compression: "NONE",
	}
}

// BenchmarkOpen opens and reads messages on an established session, custody in the same process.
func BenchmarkOpen(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			_, message := sessionMessage(b, inproc.Session(b), size, 0)
			o := server(b, vectorConfig())
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				m, err := o.Open(context.Background(), bytes.NewReader(message))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, m); err != nil || n != int64(size) {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkWrite writes such messages.
func BenchmarkWrite(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			c := inproc.Session(b)
			token, _ := sessionMessage(b, c, size, 0)
			m, data := benchOutgoing(token, c, 0), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				w, err := msl.NewMessageWriter(context.Background(), io.Discard, m)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
