// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"fmt"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
)

var benchSizes = []int{1 << 10, 64 << 10}

func BenchmarkSeal(b *testing.B) {
	p := newPeer(b, newAgent(b, nil))
	issued, _ := exchanged(b, p)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			req := &wire.SealRequest{Context: issued.Session, Plain: [][]byte{make([]byte, size)}}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Handle(context.Background(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	p := newPeer(b, newAgent(b, nil))
	issued, _ := exchanged(b, p)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			sealed := ask[*wire.SealReply](b, p, &wire.SealRequest{Context: issued.Session, Plain: [][]byte{make([]byte, size)}})
			req := &wire.OpenRequest{Context: issued.Session, Parts: sealed.Parts}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Handle(context.Background(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpenMasterToken is a token that is open already, and one that is not.
func BenchmarkOpenMasterToken(b *testing.B) {
	p := newPeer(b, newAgent(b, nil))
	issued, _ := exchanged(b, p)
	req := &wire.OpenMasterTokenRequest{Token: issued.Token}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ask[*wire.OpenMasterTokenReply](b, p, req)
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reply := ask[*wire.OpenMasterTokenReply](b, p, req)
			ask[*wire.ReleaseReply](b, p, &wire.ReleaseRequest{Handles: []wire.Handle{reply.Session}})
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	a := newAgent(b, nil)
	p := newPeer(b, a)
	for _, scheme := range []struct{ name, mechanism string }{
		{"SYMMETRIC_WRAPPED", "PSK"}, {"ASYMMETRIC_WRAPPED", "JWK_RSA"}, {"ASYMMETRIC_WRAPPED", "JWE_RSA"}} {
		b.Run(scheme.mechanism, func(b *testing.B) {
			begun := ask[*wire.BeginExchangeReply](b, p, &wire.BeginExchangeRequest{Scheme: scheme.name, Mechanism: scheme.mechanism, Identity: "psk-client"})
			req := &wire.IssueRequest{Scheme: scheme.name, KeyData: begun.KeyData, Entity: authenticated(b, p, "psk-client"), RenewalWindow: 1, Expiration: 2}
			b.ReportAllocs()
			for b.Loop() {
				ask[*wire.IssueReply](b, p, req)
			}
		})
	}
}
