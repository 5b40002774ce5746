// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// oncePolicy gives each of its codes once.
type oncePolicy struct {
	*msl.MemoryPolicy
	entity, master, user, replay, keyx atomic.Uint32
}

func (p *oncePolicy) Entity(context.Context, string, string) (msl.Code, error) {
	return msl.Code(p.entity.Swap(0)), nil
}

func (p *oncePolicy) MasterToken(context.Context, string, *msl.MasterToken, bool) (msl.Code, error) {
	return msl.Code(p.master.Swap(0)), nil
}

func (p *oncePolicy) UserIDToken(context.Context, string, *msl.UserIDToken) (msl.Code, error) {
	return msl.Code(p.user.Swap(0)), nil
}

func (p *oncePolicy) KeyExchange(context.Context, string, string) (msl.Code, error) {
	return msl.Code(p.keyx.Swap(0)), nil
}

func (p *oncePolicy) NonReplayable(ctx context.Context, identity string, t *msl.MasterToken, id int64) (msl.Code, error) {
	if c := p.replay.Swap(0); c != 0 {
		return msl.Code(c), nil
	}
	return p.MemoryPolicy.NonReplayable(ctx, identity, t, id)
}

// TestRecovery: for each response code, what the client does, and in how many messages (§8.5).
func TestRecovery(t *testing.T) {
	user := msl.Request{User: "me", Credentials: login("user1@example.com", "pass-1")}
	for _, c := range []struct {
		name     string
		provoke  func(*oncePolicy)
		request  msl.Request
		messages int
		fails    msl.Code // 0: the client recovers
	}{
		{"FAIL", func(p *oncePolicy) { p.master.Store(uint32(msl.MessageFormatError)) }, msl.Request{}, 1, msl.MessageFormatError},
		{"TRANSIENT_FAILURE", func(p *oncePolicy) { p.master.Store(uint32(msl.InternalException)) }, msl.Request{}, 1, msl.InternalException},
		{"ENTITY_REAUTH", func(p *oncePolicy) { p.master.Store(uint32(msl.MasterTokenIdentityRevoked)) }, msl.Request{}, 2, 0},
		{"ENTITY_REAUTH and the entity too", func(p *oncePolicy) {
			p.master.Store(uint32(msl.MasterTokenIdentityRevoked))
			p.entity.Store(uint32(msl.EntityRevoked))
		}, msl.Request{}, 2, msl.EntityRevoked},
		{"ENTITYDATA_REAUTH", func(p *oncePolicy) { p.master.Store(uint32(msl.EntityRejectedByApp)) }, msl.Request{}, 2, 0},
		{"USER_REAUTH", func(p *oncePolicy) { p.user.Store(uint32(msl.UserIDTokenRevoked)) }, user, 2, 0},
		{"USERDATA_REAUTH", func(p *oncePolicy) { p.user.Store(uint32(msl.UserIDTokenRejectedByApp)) },
			msl.Request{User: "me", Credentials: func(context.Context, bool) (*msl.UserAuthData, error) {
				return msl.EmailPassword("user1@example.com", "pass-1"), nil
			}}, 2, 0},
		{"KEYX_REQUIRED", func(p *oncePolicy) { p.master.Store(uint32(msl.ResponseRequiresEncryption)) }, msl.Request{}, 2, 0},
		{"EXPIRED", func(p *oncePolicy) { p.master.Store(uint32(msl.MessageExpired)) }, msl.Request{}, 2, 0},
		{"REPLAYED", func(p *oncePolicy) { p.replay.Store(uint32(msl.MessageReplayed)) }, msl.Request{NonReplayable: true}, 2, 0},
		{"REPLAYED, unrecoverable", func(p *oncePolicy) { p.replay.Store(uint32(msl.MessageReplayedUnrecoverable)) }, msl.Request{NonReplayable: true}, 3, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
			w.config.Policy = policy
			client := w.newClient(nil)
			defer client.Close()
			w.mustSay(client, user, "get all tokens")
			w.count()
			c.provoke(policy)
			data, _, err := say(client, c.request, "hello")
			w.expectRequests(c.messages, "this")
			if c.fails == 0 {
				if err != nil || data != "hello" {
					t.Errorf("not recovered: %q, %v", data, err)
				}
			} else if !errors.Is(err, c.fails) {
				t.Errorf("got %v, want %v", err, c.fails)
			}
			w.mustSay(client, msl.Request{}, "afterwards")
		})
	}
}

// TestKeyExchangeRequired: an answer that must be encrypted, to a request that was not.
func TestKeyExchangeRequired(t *testing.T) {
	w := newWorld(t)
	w.client.Entity = msl.RSA("rsa-client", "rsa-client-key")
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		_, err := io.Copy(rw, m) // Protection is Encrypted
		return err
	})
	client := w.newClient(nil)
	defer client.Close()
	w.meddle = func(n int, request []byte) ([]byte, error) {
		if n == 0 && !bytes.Contains(request, []byte("entityauthdata")) {
			t.Error("the first message has a master token")
		}
		return request, nil
	}
	answer := w.mustSay(client, msl.Request{Protection: msl.IntegrityProtected}, "hello")
	if !answer.Encrypted {
		t.Error("the answer is readable")
	}
}

// TestAnswerProtection: an answer in clear to a request that was not is refused.
func TestAnswerProtection(t *testing.T) {
	w := newWorld(t)
	w.client.KeyExchanges = []msl.KeyExchange{}
	w.handler = handler(func(ctx context.Context, rw *msl.ResponseWriter, m *msl.Message) error {
		rw.Protection = msl.Unprotected
		_, err := io.Copy(rw, m)
		return err
	})
	client := w.newClient(nil)
	defer client.Close()
	if data, _, err := say(client, msl.Request{}, "hello"); !errors.Is(err, msl.ResponseRequiresEncryption) {
		t.Errorf("heard %q: %v", data, err)
	}
	w.mustSay(client, msl.Request{Protection: msl.IntegrityProtected}, "hello")
}

// TestClockSkew: a client whose clock is wrong learns the server's, and renews in time by it.
func TestClockSkew(t *testing.T) {
	w := newWorld(t)
	skewed := func() time.Time { return time.Unix(w.now.Load(), 0).Add(-1000 * time.Hour) }
	w.client.Clock = skewed
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "1")
	w.advance(48 * time.Hour)
	w.count()
	w.mustSay(client, msl.Request{}, "2")
	w.expectRequests(1, "an expired token")
	w.now.Store(1 << 60) // a server whose clock makes no sense
	w.mustSay(client, msl.Request{}, "3")
}

// TestMessageLimit: a peer that always wants something else is given up after six exchanges (§8.2).
func TestMessageLimit(t *testing.T) {
	w := newWorld(t)
	w.config.Policy = always{msl.NewMemoryPolicy(w.config)}
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "get a token")
	w.count()
	if _, _, err := say(client, msl.Request{NonReplayable: true}, "x"); !errors.Is(err, msl.MessageReplayed) {
		t.Errorf("got %v", err)
	}
	w.expectRequests(6, "the limit")
}

type always struct{ *msl.MemoryPolicy }

func (always) NonReplayable(context.Context, string, *msl.MasterToken, int64) (msl.Code, error) {
	return msl.MessageReplayed, nil
}

// TestBodies: data that has to be sent twice is sent whole twice, or not at all.
func TestBodies(t *testing.T) {
	long := strings.Repeat("0123456789", 20_000)
	for _, c := range []struct {
		name string
		body func() io.Reader
		want string // "" for a ReplayError
	}{
		{"seekable", func() io.Reader { return strings.NewReader(long) }, long},
		{"seekable, from the middle", func() io.Reader { r := strings.NewReader(long); r.Seek(100_000, io.SeekStart); return r }, long[100_000:]},
		{"short stream", func() io.Reader { return io.MultiReader(strings.NewReader("short"), strings.NewReader(" stream")) }, "short stream"},
		{"long stream", func() io.Reader { return io.LimitReader(strings.NewReader(long), 1<<20) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
			w.config.Policy = policy
			client := w.newClient(nil)
			defer client.Close()
			w.mustSay(client, msl.Request{}, "get a token")
			policy.master.Store(uint32(msl.MasterTokenIdentityRevoked))
			answer, err := client.Do(context.Background(), &msl.Request{Body: c.body()})
			if c.want == "" {
				if _, ok := errors.AsType[*msl.ReplayError](err); !ok || !errors.Is(err, msl.MasterTokenIdentityRevoked) {
					t.Fatalf("got %v", err)
				}
				w.mustSay(client, msl.Request{}, "a new request")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Close()
			if data, err := io.ReadAll(answer); err != nil || string(data) != c.want {
				t.Errorf("%d of %d bytes: %v", len(data), len(c.want), err)
			}
		})
	}
}
