// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	// pauseAfterLogin is for how long a token that was just got is not replaced because it is refused: it
	// then lacks a permission.
	pauseAfterLogin = 5 * time.Second
	pauseIfInvalid  = 100 * time.Millisecond // if Vault says that it does not know the token
	invalidToken    = "invalid token"
	longestLogin    = 10 * time.Second // between attempts
	lookAtFiles     = 5 * time.Second
	// afterRefusal is for how long a secret id that was refused is not tried again unless its file has changed. Five that are
	// wrong within a quarter of an hour make Vault lock the role for as long, for every machine that has it.
	afterRefusal = 16 * time.Minute
)

var errJustReplaced = errors.New("the token is new")

// A session has the token, and keeps it good.
type session struct {
	client *client
	auth   Auth

	// turn is held by who logs in or renews.
	turn          chan struct{}
	secretID      *secret.Bytes // unwrapped; nil: none
	unwrappedFrom [32]byte      // digest of the token that wrapped it

	mu     sync.Mutex
	grant  grant
	since  time.Time // the grant was got or renewed
	got    time.Time // the token was got
	first  time.Duration
	err    error         // of the last attempt
	failed time.Time     // when that was
	barred time.Duration // for how long since then nobody logs in with what was refused
	with   stamp         // of the file that has what was refused
	wake   chan struct{} // a new grant is there
}

func newSession(c *client, a Auth) *session {
	return &session{client: c, auth: a, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// start logs in for the first time.
func (s *session) start(ctx context.Context) error {
	const op = "logging in to Vault"
	ctx, cancel := context.WithTimeout(ctx, 5*s.client.timeout)
	defer cancel()
	err := s.renewed(ctx, "", false, 0)
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*refusal](err); ok && (r.status == http.StatusBadRequest || r.status == http.StatusForbidden) {
		return failure(providers.Locked, op, providers.Because(providers.CauseSecretRefused, err))
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return failure(r.code(), op, providers.Because(providers.CauseDevice, err))
	}
	if errors.Is(err, errUnreached) || ctx.Err() != nil {
		return failure(providers.Transient, op, providers.Because(providers.CauseDevice, err))
	}
	return failure(providers.Locked, op, providers.Because(providers.CauseSecretSource, err))
}

// current returns the token. If there is none, it waits for one.
func (s *session) current(ctx context.Context) (string, error) {
	s.mu.Lock()
	token := s.grant.token
	if token != "" && s.ends().Before(time.Now()) {
		token = ""
	}
	s.mu.Unlock()
	if token != "" {
		return token, nil
	}
	return s.replaced(ctx, "", nil)
}

// ends is when the token is no good any more; mu is held.
func (s *session) ends() time.Time {
	if s.grant.ttl == 0 {
		return time.Now().Add(time.Hour)
	}
	return s.since.Add(s.grant.ttl)
}

// replaced returns another token than old, which Vault has refused. It fails with errJustReplaced if old is
// too new for that to help.
func (s *session) replaced(ctx context.Context, old string, because *refusal) (string, error) {
	young := pauseAfterLogin
	if because != nil && because.what == invalidToken {
		young = pauseIfInvalid
	}
	if err := s.renewed(ctx, old, false, young); errors.Is(err, errJustReplaced) {
		return "", err
	} else if err != nil {
		return "", failure(providers.Transient, "logging in to Vault", err) // it is tried again and again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grant.token, nil
}

// renewed renews the token old, or else logs in. It does nothing if old is not the token any more, and does not
// log in if old is younger than young.
func (s *session) renewed(ctx context.Context, old string, renew bool, young time.Duration) error {
	began := time.Now()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	now, got := s.grant.token, s.got
	failed := s.err
	if s.failed.Before(began) {
		failed = nil
	}
	expired := now != "" && s.ends().Before(time.Now())
	first := s.first
	s.mu.Unlock()
	switch {
	case now != old && now != "" && !expired:
		return nil
	case !renew && !expired && time.Since(got) < young && now != "":
		return errJustReplaced
	case failed != nil: // while we waited: what others have tried, we need not
		return failed
	}
	if renew {
		g, err := s.renew(ctx, old)
		if err == nil && g.ttl >= first/2 || err != nil && !forbidden(err) {
			s.keepGrant(g, err, true)
			return err
		}
		// Its end is near, whatever is renewed, or it is no good. What is left of it must do if logging in fails.
	}
	with := s.credential()
	if err := s.bar(with); err != nil {
		return err
	}
	g, err := s.login(ctx)
	s.keepGrant(g, err, false)
	s.judge(err, with)
	return err
}

// bar returns the error of the last login if it is not to be tried again yet.
func (s *session) bar(with stamp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.barred > 0 && time.Since(s.failed) < s.barred && with.same(s.with) {
		return s.err
	}
	return nil
}

// judge sees to it that what Vault refuses is not tried again and again by all who want something of it.
func (s *session) judge(err error, with stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, refused := errors.AsType[*refusal](err)
	switch s.with = with; {
	case refused && (r.what == invalidSecretID || r.what == oldInvalidSecretID):
		s.barred = afterRefusal
	case refused && (r.status == http.StatusBadRequest || r.status == http.StatusForbidden), errors.Is(err, errStolen):
		s.barred = min(max(2*s.barred, firstPause), longestLogin)
	default:
		s.barred = 0
	}
}

// credential tells whether the file with what proves who we are is another than before.
func (s *session) credential() stamp {
	for _, source := range []string{s.auth.SecretID, s.auth.JWT, s.auth.Token, s.auth.Key} {
		if path, err := secretfile.Path(source); err == nil {
			return stampOf(path)
		}
	}
	return stamp{}
}

// keepGrant stores what has come of an attempt.
func (s *session) keepGrant(g grant, err error, renewed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if err != nil {
		s.failed = time.Now()
		return
	}
	s.since = time.Now()
	if !renewed {
		s.got, s.first = s.since, g.ttl
	}
	s.grant = g
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) renew(ctx context.Context, token string) (grant, error) {
	r, wipe, err := s.client.patiently(ctx, token, request{method: "POST", path: "auth/token/renew-self", body: []byte("{}"), again: true})
	defer wipe()
	if err != nil {
		return grant{}, err
	}
	return grantOf(r)
}

// keep renews the token in time, or logs in again, until ctx ends. It also looks whether files have changed.
func (s *session) keep(ctx context.Context) {
	pause := firstPause
	files := time.NewTicker(lookAtFiles)
	defer files.Stop()
	file := s.credential()
	for {
		timer := time.NewTimer(s.rest(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.wake:
			timer.Stop()
			pause = firstPause
			continue
		case <-files.C:
			timer.Stop()
			if s.client.files.changed() {
				s.client.transport.CloseIdleConnections()
			}
			if now := s.credential(); !now.same(file) && s.auth.Method == "token" {
				file = now
				s.forget()
			}
			continue
		case <-timer.C:
		}
		s.mu.Lock()
		old, renewable := s.grant.token, s.grant.renewable
		s.mu.Unlock()
		attempt, cancel := context.WithTimeout(ctx, 2*s.client.timeout)
		if err := s.renewed(attempt, old, renewable && old != "", 0); err != nil {
			pause = min(2*pause, longestLogin)
		}
		cancel()
	}
}

// forget makes the next step a login: there is a new token in the file.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grant, s.got = grant{}, time.Time{}
}

// rest is for how long the token needs nothing done: two thirds of its life, less if the last attempt has failed,
// with jitter, so that many processes do not come at once.
func (s *session) rest(pause time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	jitter := func(d time.Duration) time.Duration { return d - rand.N(d/8+1) }
	switch {
	case s.grant.token == "" || s.err != nil:
		return jitter(pause)
	case s.grant.ttl == 0:
		return time.Hour
	}
	return max(jitter(time.Until(s.since.Add(s.grant.ttl*2/3))), firstPause)
}

// end gives back a token that was got by logging in, and wipes what the session holds.
func (s *session) end(ctx context.Context) {
	s.mu.Lock()
	token := s.grant.token
	s.grant = grant{}
	s.mu.Unlock()
	if token != "" && s.auth.Method != "token" {
		_, wipe, _ := s.client.send(ctx, token, request{method: "POST", path: "auth/token/revoke-self", body: []byte("{}")})
		wipe()
	}
	s.turn <- struct{}{}
	s.secretID.Wipe()
	<-s.turn
}
