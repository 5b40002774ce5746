// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// A server answers, and looks at whatever reaches it. It may be restarted.
type server struct {
	sim    *simulation
	name   string
	host   *host
	keys   *agent.Client
	config *msl.Config
	clock  *clock
	known  map[string]bool // its clients

	mu       sync.Mutex
	server   *msl.Server
	policy   *policy
	stop     context.CancelFunc // of the connections of this start
	ctx      context.Context
	accepted map[string]int // operation by non-replayable id

	requests, answers [][]byte        // that were sent to it one at a time, and what it said
	recordings        []*bytes.Buffer // what was sent to it by connection
}

const remembered = 64

func remember(list *[][]byte, b []byte) {
	if len(*list) >= remembered {
		*list = (*list)[1:]
	}
	*list = append(*list, b)
}

// start starts the server, or starts it anew.
func (v *server) start() {
	if v.stop != nil {
		v.stop()
	}
	ctx, stop := context.WithCancel(context.Background())
	config := *v.config
	p := &policy{sim: v.sim, MemoryPolicy: msl.NewMemoryPolicy(&config), known: v.known, revoked: make(map[int64]bool)}
	if v.policy != nil {
		p.revoked = v.policy.revoked
	}
	config.Policy = p
	s, err := msl.NewServer(&config, v.keys, v)
	if err != nil {
		panic(err)
	}
	s.Failed = func(err error) {
		if !typed(err) {
			v.sim.broken("%s failed without an error of MSL: %w", v.name, err)
		}
		v.sim.saw(msl.CodeOf(err).Name())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.server, v.policy, v.ctx, v.stop = s, p, ctx, stop
}

func (v *server) running() (*msl.Server, context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.server, v.ctx
}

// answer has the server answer one message.
func (v *server) answer(label string, request []byte) (response []byte) {
	defer v.sim.caught("a server")
	v.sim.wait(label, atArrival)
	s, ctx := v.running()
	var out bytes.Buffer
	_ = s.ServeExchange(labelled(ctx, label), bytes.NewReader(request), &out)
	return out.Bytes()
}

// serve serves a connection.
func (v *server) serve(label string, conn net.Conn) {
	s, ctx := v.running()
	v.sim.conns.Go(func() {
		if err := s.ServeConn(labelled(ctx, label), conn); err != nil && strings.Contains(err.Error(), "panicked") {
			v.sim.broken("%s: %w", v.name, err)
		}
	})
}

// A policy knows the entities that may speak to a server, and what is revoked.
type policy struct {
	*msl.MemoryPolicy
	sim   *simulation
	known map[string]bool // identities of entities

	mu      sync.Mutex
	revoked map[int64]bool // serial numbers of master tokens and user ID tokens
}

// Entity refuses all others. Where nothing protects their names, these may have been changed on the way; and where nothing says
// for whom a message is, it may be meant for another server.
func (p *policy) Entity(_ context.Context, identity, _ string) (msl.Code, error) {
	if !p.known[identity] {
		return msl.IncorrectEntityAuthData, nil
	}
	return 0, nil
}

func (p *policy) is(serial int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked[serial]
}

func (p *policy) revoke(serial int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked[serial] = true
}

// MasterToken refuses what is revoked.
func (p *policy) MasterToken(_ context.Context, _ string, t *msl.MasterToken, _ bool) (msl.Code, error) {
	if p.is(t.SerialNumber) {
		return msl.MasterTokenIdentityRevoked, nil
	}
	return 0, nil
}

// UserIDToken refuses what is revoked.
func (p *policy) UserIDToken(_ context.Context, _ string, t *msl.UserIDToken) (msl.Code, error) {
	if p.is(t.SerialNumber) {
		return msl.UserIDTokenRevoked, nil
	}
	return 0, nil
}

// NonReplayable counts what the policy proper does.
func (p *policy) NonReplayable(ctx context.Context, identity string, t *msl.MasterToken, id int64) (msl.Code, error) {
	code, err := p.MemoryPolicy.NonReplayable(ctx, identity, t, id)
	p.sim.saw("non-replayable id: " + code.Name())
	return code, err
}

// UserScheme and KeyExchange count which are used.
func (p *policy) UserScheme(_ context.Context, _, user, scheme string) (msl.Code, error) {
	if user != "" {
		p.sim.saw(scheme)
	}
	return 0, nil
}

func (p *policy) KeyExchange(_ context.Context, _, scheme string) (msl.Code, error) {
	p.sim.saw(scheme)
	return 0, nil
}

// accounts are all users: each is known to one entity only.
type accounts struct{}

func (accounts) EmailPassword(_ context.Context, entity, email, password string) (string, bool, error) {
	return account(entity, email), password == passwordOf(entity, email), nil
}

func account(entity, user string) string    { return user + "@" + entity }
func passwordOf(entity, user string) string { return "password! of " + account(entity, user) }

// ServeMSL does what the operation wants, and echoes.
func (v *server) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	w.Protection = msl.Unprotected
	if m.Encrypted {
		w.Protection = msl.Encrypted
	} else if m.IntegrityProtected {
		w.Protection = msl.IntegrityProtected
	}
	first, err := m.NextChunk(ctx)
	if err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	v.carried(m)
	if !m.IntegrityProtected {
		return copyAll(w, first, m)
	}
	o, err := v.heard(w, m, first)
	if err != nil || o == nil {
		return err
	}
	if o.pushes == 0 || !o.noAnswer {
		if err := copyAll(w, first, m); err != nil {
			return err
		}
	}
	for range o.pushes {
		next, err := w.Push()
		if err != nil {
			return err
		}
		if _, err := next.Write(first); err != nil {
			return err
		}
		w = next
	}
	return nil
}

func copyAll(w io.Writer, first []byte, rest io.Reader) error {
	_, err := w.Write(first)
	if err == nil {
		_, err = io.Copy(w, rest)
	}
	return err
}

// heard checks that a message is from whom it says, and not heard twice if it must not be.
func (v *server) heard(w *msl.ResponseWriter, m *msl.Message, text []byte) (*operation, error) {
	o := v.sim.operation(text)
	if o == nil {
		v.sim.broken("%s heard %.40q, which nobody said", v.name, text)
		return nil, nil
	}
	switch c := o.client; {
	case c.server != v:
		v.sim.broken("%s heard %s of another server", v.name, o)
	case m.Identity() != c.name:
		v.sim.broken("%s heard %s as from %s", v.name, o, m.Identity())
	case o.encrypted() && !m.Encrypted:
		v.sim.broken("%s heard %s, which was not encrypted", v.name, o)
	case m.User != "" && m.User != o.account() || m.User == "" && o.mustHaveUser():
		v.sim.broken("%s heard %s as from user %q", v.name, o, m.User)
	case o.nonReplayable != (m.NonReplayableID >= 0):
		v.sim.broken("%s heard %s with the non-replayable id %d", v.name, o, m.NonReplayableID)
	}
	if m.NonReplayableID >= 0 {
		key := fmt.Sprint(m.Identity(), m.MasterToken.SerialNumber, m.NonReplayableID)
		v.mu.Lock()
		before, again := v.accepted[key]
		v.accepted[key] = o.id
		v.mu.Unlock()
		if again {
			v.sim.broken("%s accepted non-replayable id %d twice: in message %d, and in %s", v.name, m.NonReplayableID, before, o)
		}
	}
	return o, o.serve(w)
}

// carried checks that the service tokens of a message belong to its sender.
func (v *server) carried(m *msl.Message) {
	for _, t := range m.ServiceTokens {
		if t.Verified && !belongs(t, m.Identity(), m.User) {
			v.sim.broken("%s got service token %q from %s, user %q", v.name, t.Value, m.Identity(), m.User)
		}
	}
}

// Service tokens say to whom they belong.
func tokenValue(entity, user string) []byte { return []byte("token! of " + entity + " and " + user) }

func belongs(t *msl.ServiceToken, entity, account string) bool {
	user, _, _ := strings.Cut(account, "@")
	owner, of, _ := strings.Cut(strings.TrimPrefix(string(t.Value), "token! of "), " and ")
	return owner == entity && (t.UserIDTokenSerialNumber < 0 || of == user)
}

// A clock is one that may be wrong.
type clock struct {
	sim    *simulation
	offset atomic.Int64 // milliseconds
	latest atomic.Int64 // that it has shown, in Unix milliseconds
}

func (c *clock) now() time.Time {
	now := c.sim.now.Load() + c.offset.Load()
	for {
		latest := c.latest.Load()
		if latest >= now || c.latest.CompareAndSwap(latest, now) {
			return time.UnixMilli(now)
		}
	}
}
