// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestPeerRecovery: between peers a request goes on after an error on the same connection (§8.4, §8.5).
func TestPeerRecovery(t *testing.T) {
	user := msl.Request{User: "me", Credentials: func(context.Context, bool) (*msl.UserAuthData, error) {
		return msl.EmailPassword("user1@example.com", "pass-1"), nil
	}}
	for _, c := range []struct {
		code  msl.Code
		fails bool
	}{
		{msl.MessageFormatError, true}, {msl.InternalException, true}, {msl.MasterTokenIdentityRevoked, false}, {msl.EntityRejectedByApp, false},
		{msl.UserIDTokenRevoked, false}, {msl.UserIDTokenRejectedByApp, false}, {msl.ResponseRequiresEncryption, false},
		{msl.MessageExpired, false}, {msl.MessageReplayed, false},
	} {
		for _, a := range []msl.EntityAuthData{msl.PSK("psk-client"), msl.RSA("rsa-srv", "rsa-server-key")} {
			t.Run(c.code.Response().String()+"/"+a.Scheme, func(t *testing.T) {
				n := newNetwork(t, a, msl.PSK("psk-server"))
				policy := &oncePolicy{}
				n.b.Policy = policy
				policy.MemoryPolicy = msl.NewMemoryPolicy(n.b)
				n.start()
				n.mustSay(user, "1")
				n.mustSay(user, "2")
				n.transport.CloseIdle()
				n.dials = 0
				policy.master.Store(uint32(c.code))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				r := user
				r.Body = strings.NewReader("3")
				answer, err := n.client.Do(ctx, &r)
				if err == nil {
					defer answer.Close()
					var data []byte
					if data, err = io.ReadAll(answer); string(data) != "3" {
						t.Errorf("heard %q", data)
					}
				}
				if (err != nil) != c.fails || c.fails && !errors.Is(err, c.code) || n.dials != 1 {
					t.Errorf("%d connections: %v", n.dials, err)
				}
				n.mustSay(user, "4")
			})
		}
	}
}

// TestPeerRenewal: the tokens of both sides are renewed in their time, and keep their serial numbers.
func TestPeerRenewal(t *testing.T) {
	n := newNetwork(t, msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key"))
	n.start()
	n.mustSay(msl.Request{}, "1")
	n.mustSay(msl.Request{}, "2")
	before := n.mustSay(msl.Request{NonReplayable: true}, "3")
	for _, wait := range []time.Duration{2 * time.Hour, 2 * time.Hour, 48 * time.Hour} {
		n.now.Add(int64(wait / time.Second))
		n.mustSay(msl.Request{}, "renew")
		after := n.mustSay(msl.Request{NonReplayable: true}, "go on")
		for _, pair := range [][2]*msl.MasterToken{{before.MasterToken, after.MasterToken}, {before.PeerMasterToken, after.PeerMasterToken}} {
			if pair[1] == nil || pair[0].SerialNumber != pair[1].SerialNumber || pair[0].SequenceNumber+1 != pair[1].SequenceNumber {
				t.Errorf("after %v: from %d/%d to %d/%d; %v", wait, pair[0].SerialNumber, pair[0].SequenceNumber, pair[1].SerialNumber, pair[1].SequenceNumber, n.failed())
			}
		}
		before = after
	}
}

// TestPeersAtOnce: many requests at once, between peers whose tokens are renewed and lost under them.
func TestPeersAtOnce(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("all", func(t *testing.T) {
		for _, b := range []msl.EntityAuthData{msl.PSK("psk-server"), msl.RSA("rsa-client", "rsa-client-key")} {
			n := newNetwork(t, msl.PSK("psk-client"), b)
			policy := &oncePolicy{}
			n.b.Policy = policy
			policy.MemoryPolicy = msl.NewMemoryPolicy(n.b)
			n.start()
			var all sync.WaitGroup
			for g := range 12 {
				all.Go(func() {
					for i := range 10 {
						n.mustSay(msl.Request{NonReplayable: g%3 == 0}, fmt.Sprintf("%d of %d", i, g))
						switch {
						case g == 1 && i%4 == 3:
							n.now.Add(2 * 3600)
						case g == 2 && i%4 == 1:
							policy.master.Store(uint32(msl.MasterTokenIdentityRevoked))
						}
					}
				})
			}
			all.Wait()
		}
	})
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+2 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if left := runtime.NumGoroutine(); left > before+2 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines are left over:\n%s", left-before, buf[:runtime.Stack(buf, true)])
	}
}

// faultyServerKeys is custody of a party, some of whose calls fail.
type faultyServerKeys struct {
	*faultyKeys
	msl.ServerKeys
}

func (k *faultyServerKeys) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	return k.ServerKeys.EntityContext(ctx, scheme, identity, keyID)
}

func (k *faultyServerKeys) OpenMasterToken(ctx context.Context, t msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	if err := k.f.call(); err != nil {
		return nil, nil, err
	}
	return k.ServerKeys.OpenMasterToken(ctx, t, parts)
}

func (k *faultyServerKeys) IssueMasterToken(ctx context.Context, r *msl.IssueRequest) (*msl.Issued, error) {
	if err := k.f.call(); err != nil {
		return nil, err
	}
	return k.ServerKeys.IssueMasterToken(ctx, r)
}

func (k *faultyServerKeys) OpenServiceToken(ctx context.Context, keys string, t msl.Token) ([]byte, bool, error) {
	return k.ServerKeys.OpenServiceToken(ctx, keys, t)
}

func (k *faultyServerKeys) SealServiceToken(ctx context.Context, keys string, c *msl.ServiceTokenClaims, data []byte) (msl.Token, error) {
	return k.ServerKeys.SealServiceToken(ctx, keys, c, data)
}

// TestPeerFailsEveryCall fails each call that either party makes of its custody in turn, while both exchange
// keys and while they use them. What is asked for next must succeed.
func TestPeerFailsEveryCall(t *testing.T) {
	for _, failing := range []string{"a", "b"} {
		for _, ready := range []bool{false, true} {
			for _, b := range []msl.EntityAuthData{msl.PSK("psk-server"), msl.RSA("rsa-client", "rsa-client-key")} {
				t.Run(fmt.Sprint(failing, ready, b.Scheme), func(t *testing.T) { failEveryPeerCall(t, failing, ready, b) })
			}
		}
	}
}

func failEveryPeerCall(t *testing.T, failing string, ready bool, b msl.EntityAuthData) {
	keysA, keysB := inproc.Agent(t), inproc.OtherIssuer(t)
	for call := int64(1); ; call++ {
		n := newNetworkWith(t, keysA, keysB, msl.PSK("psk-client"), b)
		f := new(faults)
		faulty := func(keys interface {
			msl.ClientKeys
			msl.ServerKeys
		}) *faultyServerKeys {
			return &faultyServerKeys{&faultyKeys{keys, f}, keys}
		}
		n.start()
		var err error
		if failing == "a" {
			n.client, err = msl.NewClient(n.a, faulty(n.keysA), &msl.StreamTransport{Dial: n.dial}, nil)
		} else {
			n.server, err = msl.NewServer(n.b, faulty(n.keysB), n.handler)
		}
		if err != nil {
			t.Fatal(err)
		}
		if ready {
			n.mustSay(msl.Request{}, "1")
			n.mustSay(msl.Request{}, "2")
		}
		f.arm(call)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		answer, err := n.client.Do(ctx, &msl.Request{Body: strings.NewReader("hello")})
		if err == nil {
			_, err = io.ReadAll(answer)
			answer.Close()
		}
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("call %d: nobody spoke any more", call)
		}
		reached := f.calls.Load() >= call
		f.arm(0)
		n.mustSay(msl.Request{}, fmt.Sprintf("after call %d failed with %v", call, err))
		n.mustSay(msl.Request{}, "and again")
		n.client.Close()
		if !reached {
			if err != nil || call < 3 {
				t.Errorf("without a fault, after %d calls: %v", call-1, err)
			}
			return
		}
	}
}

// A flippingConn changes one byte of what is written to it.
type flippingConn struct {
	net.Conn
	at, written int
}

func (c *flippingConn) Write(p []byte) (int, error) {
	if i := c.at - c.written; 0 <= i && i < len(p) {
		p = append([]byte(nil), p...)
		p[i] ^= 1
	}
	c.written += len(p)
	return c.Conn.Write(p)
}

// TestPeerTamper flips bytes of all that one side says, while keys are exchanged and after. Nothing comes through
// changed, and both go on afterwards.
func TestPeerTamper(t *testing.T) {
	for _, ready := range []bool{false, true} {
		n := newNetwork(t, msl.PSK("psk-client"), msl.RSA("rsa-client", "rsa-client-key"))
		var heard atomic.Value
		n.handler = handler(func(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
			data, err := io.ReadAll(m)
			if err != nil {
				return err
			}
			heard.Store(string(data))
			_, err = w.Write(data)
			return err
		})
		n.start()
		var conn *flippingConn
		length := 1 << 20
		for at := 0; at < length; at += 97 {
			if !ready {
				var err error
				if n.client, err = msl.NewClient(n.a, n.keysA, &msl.StreamTransport{Dial: n.dial}, nil); err != nil {
					t.Fatal(err)
				}
			} else if at == 0 {
				n.mustSay(msl.Request{}, "1")
				n.mustSay(msl.Request{}, "2")
			}
			n.meddle = func(c net.Conn) net.Conn {
				conn = &flippingConn{Conn: c, at: at}
				return conn
			}
			heard.Store("")
			n.transport.CloseIdle()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // a length or an end that was changed leaves one waiting
			answer, err := n.client.Do(ctx, &msl.Request{Body: strings.NewReader("the data")})
			var data []byte
			if err == nil {
				data, err = io.ReadAll(answer)
				answer.Close()
			}
			cancel()
			if h := heard.Load(); h != "" && h != "the data" || err == nil && string(data) != "the data" {
				t.Errorf("byte %d: heard %q and %q", at, h, data)
			}
			if err == nil {
				length = min(length, conn.written)
			}
			n.meddle = nil
			n.transport.CloseIdle()
			if !ready {
				n.client.Close()
			}
		}
		if !ready {
			n.start()
		}
		n.mustSay(msl.Request{}, "afterwards")
		n.mustSay(msl.Request{}, "afterwards")
	}
}
