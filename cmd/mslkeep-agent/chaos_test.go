// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// ask makes a request that must succeed.
func ask[R wire.Reply](t *testing.T, h wire.Handler, r wire.Request) R {
	t.Helper()
	reply, err := h.Handle(t.Context(), r)
	if err != nil {
		t.Fatalf("%T: %v", r, err)
	}
	return reply.(R)
}

// TestProviderComesAndGoes: whatever happens to the provider that has the token keys, sessions that are open
// go on, new tokens wait with a transient error and no other, nothing bad is accepted, and two seconds after
// the provider is back all is well.
func TestProviderComesAndGoes(t *testing.T) {
	path := configured(t, section(t, t.TempDir()))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`token-keys = "`), []byte(`token-keys = "other:`), 1)
	text = bytes.Replace(text, []byte("[[providers]]\n"), []byte("[[providers]]\ntimeout = \"1s\"\n"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"init", "--config", path}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.manage = true
	o, err := open(t.Context(), cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	peer := o.NewPeer()
	defer peer.Close()
	ask[*wire.ChangedKeysReply](t, peer, &wire.GenerateKeyRequest{Name: "psk/device", Type: "psk"})
	entity := ask[*wire.EntityContextReply](t, peer, &wire.EntityContextRequest{Scheme: "PSK", Identity: "device"})
	proof := ask[*wire.SealReply](t, peer, &wire.SealRequest{Context: entity.Context, Plain: [][]byte{{1}}})
	ask[*wire.OpenReply](t, peer, &wire.OpenRequest{Context: entity.Context, Parts: proof.Parts})
	begun := ask[*wire.BeginExchangeReply](t, peer, &wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "device"})
	issued := ask[*wire.IssueReply](t, peer, &wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: begun.KeyData, Entity: entity.Context, Expiration: 1})
	forged := wire.Token{Data: issued.Token.Data, Signature: slices.Clone(issued.Token.Signature)}
	forged.Signature[7] ^= 1

	var wg sync.WaitGroup
	var good, away atomic.Int64
	var end atomic.Bool
	defer wg.Wait()
	defer end.Store(true)
	for range 64 {
		wg.Go(func() {
			for !end.Load() {
				fresh := o.NewPeer() // which knows no session
				reply, err := fresh.Handle(t.Context(), &wire.OpenMasterTokenRequest{Token: issued.Token})
				switch {
				case err == nil && reply.(*wire.OpenMasterTokenReply).Verified:
					good.Add(1)
				case errors.Is(err, wire.Transient):
					away.Add(1)
				default:
					t.Errorf("a good token: %+v, %v", reply, err)
				}
				if reply, err := fresh.Handle(t.Context(), &wire.OpenMasterTokenRequest{Token: forged}); err == nil && reply.(*wire.OpenMasterTokenReply).Verified {
					t.Error("a forged token was taken")
				}
				if _, err := peer.Handle(t.Context(), &wire.SealRequest{Context: issued.Session, Plain: [][]byte{{1}}}); err != nil {
					t.Errorf("an open session: %v", err)
				}
				fresh.Close()
			}
		})
	}
	provider := o.running["other"]
	// back waits until new tokens open again.
	back := func(what string) {
		t.Helper()
		fresh := o.NewPeer()
		defer fresh.Close()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if _, err := fresh.Handle(t.Context(), &wire.OpenMasterTokenRequest{Token: issued.Token}); err == nil {
				return
			} else if time.Since(began) > time.Minute {
				t.Fatalf("%s: not back: %v", what, err)
			}
		}
	}
	for range 3 {
		sendSignal(t, provider, syscall.SIGKILL)
		back("killed")
	}
	away.Store(0)
	sendSignal(t, provider, syscall.SIGSTOP)
	waitFor(t, func() bool { return away.Load() > 0 })
	back("stopped")
	ask[*wire.ChangedKeysReply](t, peer, &wire.RotateKeyRequest{Name: "other:token-keys"})
	back("rotated")
	if good.Load() == 0 {
		t.Error("no token was opened")
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("waited for ten seconds")
		}
	}
}

// sendSignal sends a signal to the provider, once one runs.
func sendSignal(t *testing.T, p *providers.Connection, sig syscall.Signal) {
	t.Helper()
	waitFor(t, func() bool {
		pid := p.PID()
		return pid > 0 && syscall.Kill(pid, sig) == nil // 0 would be this process's group
	})
}
