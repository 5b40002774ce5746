// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
)

// The test binary is also the agent.
func TestMain(m *testing.M) {
	if !plugin.IsChild() {
		os.Exit(m.Run())
	}
	child, err := plugin.ServeChild(wire.Version)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := child.Context(context.Background())
	defer cancel()
	wire.Serve(ctx, child.Conn, newFake(), wire.Options{})
}

// A fake is an agent that seals by putting "sealed " before, and counts what it is asked.
type fake struct {
	mu      sync.Mutex
	handles map[wire.Handle]bool
	asked   map[string]int
	refuse  error // of what opens handles
	release chan struct{}
	waiting atomic.Uint32
}

func newFake() *fake {
	return &fake{handles: map[wire.Handle]bool{}, asked: map[string]int{}, release: make(chan struct{})}
}

// forget is what a restart does.
func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.handles)
	clear(f.asked)
}

func (f *fake) count(req wire.Request) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[fmt.Sprintf("%T", req)]
}

func (f *fake) made() (h wire.Handle) {
	rand.Read(h[:])
	f.handles[h] = true
	return h
}

func (f *fake) Handle(ctx context.Context, req wire.Request) (wire.Reply, error) {
	if r, ok := req.(*wire.KeysRequest); ok && r.Prefix == "wait" {
		f.waiting.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[fmt.Sprintf("%T", req)]++
	return f.answer(req)
}

func (f *fake) answer(req wire.Request) (wire.Reply, error) {
	var used wire.Handle
	opens := false
	switch r := req.(type) {
	case *wire.SealRequest:
		used = r.Context
	case *wire.OpenRequest:
		used = r.Context
	case *wire.IssueUserIDTokenRequest:
		used = r.Session
	case *wire.SealSessionRequest:
		used = r.Session
	case *wire.FinishExchangeRequest:
		used = r.Pending
	case *wire.IssueRequest:
		used = r.Session
		if r.Entity != (wire.Handle{}) {
			used = r.Entity
		}
	default:
		opens = true
	}
	if opens && f.refuse != nil {
		return nil, f.refuse
	}
	if used != (wire.Handle{}) && !f.handles[used] {
		return nil, wire.StaleHandle
	}
	token := wire.Token{Data: []byte("token"), Signature: []byte("signature")}
	switch r := req.(type) {
	case *wire.OpenMasterTokenRequest:
		if string(r.Token.Data) == "foreign" {
			return &wire.OpenMasterTokenReply{FailedPart: -1}, nil
		}
		plain, bad := openParts(r.Parts)
		return &wire.OpenMasterTokenReply{Verified: true, Identity: "device", Session: f.made(), Plain: plain, FailedPart: bad}, nil
	case *wire.SealRequest:
		reply := &wire.SealReply{}
		for _, p := range r.Plain {
			reply.Parts = append(reply.Parts, wire.Part{Data: append([]byte("sealed "), p...), Signature: []byte("s")})
		}
		return reply, nil
	case *wire.OpenRequest:
		plain, bad := openParts(r.Parts)
		return &wire.OpenReply{Plain: plain, FailedPart: bad}, nil
	case *wire.EntityContextRequest:
		if r.Identity == "unknown" {
			return nil, wire.NoSuchKey
		}
		return &wire.EntityContextReply{Context: f.made()}, nil
	case *wire.IssueRequest:
		return &wire.IssueReply{Token: token, KeyData: []byte("keydata"), Session: f.made()}, nil
	case *wire.OpenUserIDTokenRequest:
		return &wire.OpenUserIDTokenReply{Verified: true, User: "user"}, nil
	case *wire.IssueUserIDTokenRequest:
		return &wire.IssueUserIDTokenReply{Token: token}, nil
	case *wire.OpenServiceTokenRequest:
		return &wire.OpenServiceTokenReply{Verified: r.Keys == "k", Data: []byte("data")}, nil
	case *wire.SealServiceTokenRequest:
		return &wire.SealServiceTokenReply{Token: wire.Token{Data: append([]byte(r.Name), r.Data...)}}, nil
	case *wire.BeginExchangeRequest:
		return &wire.BeginExchangeReply{KeyData: []byte("request"), Pending: f.made()}, nil
	case *wire.FinishExchangeRequest:
		return &wire.FinishExchangeReply{Session: f.made()}, nil
	case *wire.SealSessionRequest:
		return &wire.SealSessionReply{Sealed: []byte("blob")}, nil
	case *wire.UnsealSessionRequest:
		if string(r.Sealed) != "blob" || string(r.Token.Data) != "token" {
			return nil, wire.VerificationFailed
		}
		return &wire.UnsealSessionReply{Session: f.made()}, nil
	case *wire.ReleaseRequest:
		for _, h := range r.Handles {
			delete(f.handles, h)
		}
		close(f.release)
		return &wire.ReleaseReply{}, nil
	case *wire.HealthRequest:
		return &wire.HealthReply{Findings: []wire.Finding{{Name: "asked", OK: true}}, Sessions: 3, Entities: f.waiting.Load()}, nil
	case *wire.KeysRequest:
		reply := &wire.KeysReply{Keys: []wire.Key{{Name: r.Prefix, Version: 1, Created: 5, Opened: 6}}}
		if r.Prefix == "away" {
			reply.Failed = []wire.Finding{{Name: "hsm", Detail: "transient"}}
		}
		return reply, nil
	case *wire.PublicKeyRequest:
		return &wire.PublicKeyReply{Key: wire.Key{Name: r.Name}, SPKI: []byte("der")}, nil
	case *wire.GenerateKeyRequest, *wire.ImportKeyRequest, *wire.RotateKeyRequest:
		return &wire.ChangedKeysReply{Keys: []wire.Key{{Name: "changed"}}}, nil
	}
	return nil, wire.NotSupported
}

func openParts(parts []wire.Part) (plain [][]byte, failed int32) {
	for i, p := range parts {
		b, ok := bytes.CutPrefix(p.Data, []byte("sealed "))
		if !ok {
			return plain, int32(i)
		}
		plain = append(plain, bytes.Clone(b))
	}
	return plain, -1
}
