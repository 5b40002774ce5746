// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// nonReplayableBlock is how many non-replayable ids are saved as used at once, so that the store is not
// written for each message. After a crash the rest of a block is skipped, which servers accept (§3.5).
const nonReplayableBlock = 256

// A clientSession is a master token and its crypto context. It is kept alive by its references: the
// state holds one, and so does every exchange that uses it (§8.8). The last one to let go has its keys
// wiped.
type clientSession struct {
	token   *MasterToken
	context CryptoContext
	refs    atomic.Int32
}

func (s *clientSession) acquire() *clientSession {
	if s != nil {
		s.refs.Add(1)
	}
	return s
}

func (s *clientSession) release() {
	if s != nil && s.refs.Add(-1) == 0 {
		if d, ok := s.context.(interface{ Discard() }); ok {
			d.Discard()
		}
	}
}

// clientState is the tokens of one client, in memory and in its store (§8.9, §8.10). Unlike the
// reference's store it holds one master token, the newest: older ones live as long as the exchanges
// that use them.
type clientState struct {
	store Store
	keys  ClientKeys

	mu       sync.Mutex
	loaded   bool
	dirty    bool // the store lacks something
	token    *MasterToken
	sealed   []byte
	session  *clientSession // nil until unsealed
	lastID   int64          // last non-replayable id used
	usedIDs  bool           // whether any was
	savedIDs int            // how many more the store says are used
	users    map[string]*UserIDToken
	services []*ServiceToken
}

// A snapshot is what one message is built from. Whoever takes it releases the session.
type snapshot struct {
	session *clientSession
	user    *UserIDToken
}

// ready loads the store at first use, saves what an earlier failure left unsaved, and unseals the
// session. It fails without losing anything: the next call tries again.
func (c *clientState) ready(ctx context.Context) error {
	if !c.loaded {
		if err := c.load(ctx); err != nil {
			return err
		}
	}
	if c.token != nil && c.session == nil {
		if err := c.unseal(ctx); err != nil {
			return err
		}
	}
	if c.dirty {
		return c.save(ctx)
	}
	return nil
}

func (c *clientState) load(ctx context.Context) error {
	s, err := c.store.Load(ctx)
	if err != nil {
		return err
	}
	users := make(map[string]*UserIDToken)
	var token *MasterToken
	if len(s.MasterToken) > 0 {
		if token, err = ParseMasterToken(s.MasterToken); err != nil {
			return err
		}
	}
	for user, encoded := range s.UserIDTokens {
		t, err := ParseUserIDToken(encoded, token)
		if err != nil {
			return err
		}
		users[user] = t
	}
	var services []*ServiceToken
	for _, encoded := range s.ServiceTokens {
		t, err := ParseServiceToken(encoded)
		if err != nil {
			return err
		}
		services = append(services, t)
	}
	c.token, c.sealed, c.users, c.services = token, s.SealedSession, users, services
	c.lastID, c.usedIDs = s.NonReplayableID, s.NonReplayableID != 0
	c.loaded = true
	return nil
}

// unseal gets the session of the stored master token back. A session that can never be unsealed here,
// because the storage key changed or the file came from elsewhere, is dropped with its token.
func (c *clientState) unseal(ctx context.Context) error {
	if len(c.sealed) > 0 {
		context, err := c.keys.UnsealSession(ctx, c.sealed, c.token.Token)
		if err == nil {
			c.session = (&clientSession{token: c.token, context: context}).acquire()
			return nil
		}
		if f := failureOf(err); f != VerificationFailed && f != Malformed && f != NoSuchKey {
			return err
		}
	}
	c.dropSession()
	return nil
}

// dropSession forgets the master token and what is bound to it (§8.10).
func (c *clientState) dropSession() {
	if c.token == nil {
		return
	}
	serial := c.token.SerialNumber
	c.session.release()
	c.token, c.session, c.sealed = nil, nil, nil
	c.lastID, c.usedIDs, c.savedIDs = 0, false, 0
	c.dirty = true
	for user, t := range c.users {
		if t.MasterTokenSerialNumber == serial {
			delete(c.users, user)
		}
	}
	c.keepServices(func(t *ServiceToken) bool { return t.MasterTokenSerialNumber != serial })
}

func (c *clientState) keepServices(keep func(*ServiceToken) bool) {
	kept := c.services[:0:0]
	for _, t := range c.services {
		if keep(t) {
			kept = append(kept, t)
		} else {
			c.dirty = true
		}
	}
	c.services = kept
}

// save writes the store. What fails stays dirty and is tried again with the next message.
func (c *clientState) save(ctx context.Context) error {
	c.dirty = true
	if c.session != nil && c.sealed == nil {
		sealed, err := c.keys.SealSession(ctx, c.session.context)
		if err != nil && failureOf(err) != NotSupported {
			return err
		}
		c.sealed = sealed
	}
	s := &State{SealedSession: c.sealed, UserIDTokens: make(map[string][]byte)}
	if c.token != nil {
		s.MasterToken = c.token.Encoding()
	}
	if c.usedIDs {
		s.NonReplayableID = addID(c.lastID, nonReplayableBlock)
	}
	for user, t := range c.users {
		s.UserIDTokens[user] = t.Encoding()
	}
	for _, t := range c.services {
		s.ServiceTokens = append(s.ServiceTokens, t.Encoding())
	}
	if err := c.store.Save(ctx, s); err != nil {
		return err
	}
	c.savedIDs = nonReplayableBlock
	c.dirty = false
	return nil
}

// snapshot returns the newest session and the user's token, if there are any.
func (c *clientState) snapshot(ctx context.Context, user string) (snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ready(ctx); err != nil {
		return snapshot{}, err
	}
	s := snapshot{session: c.session.acquire()}
	if t := c.users[user]; user != "" && t != nil && s.session != nil && t.MasterTokenSerialNumber == s.session.token.SerialNumber {
		s.user = t
	}
	return s, nil
}

// newer takes over the master token of a key exchange, unless a newer one is there already. renewed is the
// token of the message that brought it, or nil: the renewal of a token that was given up meanwhile comes too late, and
// how far its non-replayable ids had come is forgotten.
func (c *clientState) newer(ctx context.Context, renewed, t *MasterToken, context CryptoContext) *clientSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := (&clientSession{token: t, context: context}).acquire()
	same := c.token != nil && c.token.SerialNumber == t.SerialNumber
	gone := renewed != nil && (c.token == nil || c.token.SerialNumber != renewed.SerialNumber)
	if gone || same && !t.NewerThan(c.token) {
		return s
	}
	if c.token != nil && c.token.SerialNumber != t.SerialNumber {
		c.dropSession()
	}
	c.session.release()
	c.token, c.session, c.sealed = t, s.acquire(), nil
	_ = c.save(ctx) // stays dirty
	return s
}

// rejected forgets a master token that the server does not accept any more, if it is still in use (§8.5).
func (c *clientState) rejected(ctx context.Context, t *MasterToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != nil && t != nil && c.token.same(t) {
		c.dropSession()
		_ = c.save(ctx)
	}
}

// rejectedUser forgets a user ID token, and what is bound to it.
func (c *clientState) rejectedUser(ctx context.Context, user string, t *UserIDToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.users[user]; have == nil || have.SerialNumber != t.SerialNumber {
		return
	}
	c.dropUser(user)
	_ = c.save(ctx)
}

func (c *clientState) dropUser(user string) {
	serial := c.users[user].SerialNumber
	delete(c.users, user)
	c.dirty = true
	c.keepServices(func(t *ServiceToken) bool { return t.UserIDTokenSerialNumber != serial })
}

// received keeps the tokens that a message brought: the user ID token under the local user name, and
// service tokens, which replace those of the same name and binding; one without data deletes (§8.9).
// Tokens that are bound to a master token that is not the present one are too late and are left out.
func (c *clientState) received(ctx context.Context, user string, uit *UserIDToken, services []*ServiceToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uit != nil && user != "" && c.token != nil && uit.MasterTokenSerialNumber == c.token.SerialNumber {
		if have := c.users[user]; have == nil || string(have.Token.Data) != string(uit.Token.Data) {
			if have != nil && have.SerialNumber != uit.SerialNumber {
				c.dropUser(user)
			}
			c.users[user] = uit
			c.dirty = true
		}
	}
	for _, t := range services {
		if t.MasterTokenSerialNumber < 0 || c.token != nil && t.MasterTokenSerialNumber == c.token.SerialNumber {
			c.putService(t)
		}
	}
	if c.dirty {
		_ = c.save(ctx)
	}
}

func (c *clientState) putService(t *ServiceToken) {
	for i, have := range c.services {
		if have.Name != t.Name || have.MasterTokenSerialNumber != t.MasterTokenSerialNumber || have.UserIDTokenSerialNumber != t.UserIDTokenSerialNumber {
			continue
		}
		if string(have.Token.Data) == string(t.Token.Data) && string(have.Token.Signature) == string(t.Token.Signature) {
			return
		}
		c.dirty = true
		if t.Deleted() {
			c.services = append(c.services[:i:i], c.services[i+1:]...)
		} else {
			c.services = append(append(c.services[:i:i], t), c.services[i+1:]...)
		}
		return
	}
	if !t.Deleted() {
		c.services = append(c.services[:len(c.services):len(c.services)], t)
		c.dirty = true
	}
}

// applicable returns the service tokens that go with a message: the unbound ones, and those bound to its
// master token and, if it has one, its user ID token (§8.10).
func (c *clientState) applicable(s snapshot) []*ServiceToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*ServiceToken
	for _, t := range c.services {
		bound := t.MasterTokenSerialNumber < 0 || s.session != nil && t.MasterTokenSerialNumber == s.session.token.SerialNumber
		user := t.UserIDTokenSerialNumber < 0 || s.user != nil && t.UserIDTokenSerialNumber == s.user.SerialNumber
		if bound && user {
			out = append(out, t)
		}
	}
	return out
}

// errReplaced means that the master token which a message was to be built on has gone meanwhile.
var errReplaced = errors.New("msl: the master token was replaced")

// nonReplayableID returns the next id for messages under a master token. An id is in the store as used
// before it is used. It fails with errReplaced if the client has another token by now.
func (c *clientState) nonReplayableID(ctx context.Context, t *MasterToken) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == nil || c.token.SerialNumber != t.SerialNumber {
		return 0, errReplaced
	}
	if c.savedIDs == 0 || !c.usedIDs {
		c.usedIDs = true
		if err := c.save(ctx); err != nil {
			return 0, err
		}
	}
	c.savedIDs--
	c.lastID = addID(c.lastID, 1)
	return c.lastID, nil
}

// addID adds to an identifier: the successor of 2^53 is 0 (§1.4).
func addID(id, n int64) int64 { return (id + n) % (mslenc.MaxLong + 1) }
