// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"sync"
	"time"
)

// A renewalLock lets at most one renewable message of a client be under way (§8.7).
type renewalLock struct {
	mu       sync.Mutex
	released chan struct{} // closed when the owner releases; nil if there is no owner
}

func (l *renewalLock) try() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released != nil {
		return false
	}
	l.released = make(chan struct{})
	return true
}

// wait returns when the present owner, if any, has released.
func (l *renewalLock) wait(ctx context.Context) error {
	l.mu.Lock()
	released := l.released
	l.mu.Unlock()
	if released == nil {
		return nil
	}
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *renewalLock) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.released)
	l.released = nil
}

// choose takes the tokens that the next message is built from, and decides whether it is the
// renewable one. It waits while the message cannot go without tokens that another message is about to
// bring, and for nothing else.
func (x *exchange) choose(ctx context.Context) error {
	for {
		if err := x.take(ctx); err != nil {
			return err
		}
		must := x.mustRenew()
		if !must && !x.mayRenew() {
			return nil
		}
		if x.client.renewal.try() {
			// Whoever had the lock before may have brought tokens since they were taken.
			x.let()
			if err := x.take(ctx); err != nil {
				x.client.renewal.release()
				return err
			}
			x.renewable = x.mustRenew() || x.mayRenew()
			if !x.renewable {
				x.client.renewal.release()
			}
			return nil
		}
		if !must {
			return nil
		}
		x.let()
		if err := x.client.renewal.wait(ctx); err != nil {
			return err
		}
	}
}

// take and let acquire and release the session and user ID token for the next message.
func (x *exchange) take(ctx context.Context) (err error) {
	x.snapshot, err = x.client.state.snapshot(ctx, x.request.User)
	if x.afresh && x.session != nil && x.session.token.same(x.forcedFrom) {
		x.let()
	}
	if x.withoutUser {
		x.snapshot.user = nil
	}
	return err
}

func (x *exchange) let() {
	x.session.release()
	x.snapshot = snapshot{}
}

// mustRenew reports whether the message cannot be sent as it should be without new tokens.
func (x *exchange) mustRenew() bool {
	r, token := x.wanted(), x.token()
	switch {
	case !x.protects(r.Protection):
		return true
	case x.forced && (token == nil || token.same(x.forcedFrom)):
		return true
	case token == nil && r.NonReplayable:
		return true
	case token != nil && x.remoteTimeKnown() && token.Expired(x.remoteTime()):
		return true
	case x.user == nil && r.User != "" && !x.encryptsHeader():
		return true
	case r.RequestTokens && !x.oneWay && (token == nil || r.User != "" && x.user == nil):
		return true
	}
	return false
}

// mayRenew reports whether new tokens would be good to have.
func (x *exchange) mayRenew() bool {
	token := x.token()
	if len(x.client.config.keyExchanges()) == 0 || x.oneWay || x.peer.quiet {
		return false
	}
	return token == nil || token.Renewable(x.remoteTime()) ||
		x.request.User != "" && (x.user == nil || x.user.Renewable(x.remoteTime()))
}

func (x *exchange) token() *MasterToken {
	if x.session == nil {
		return nil
	}
	return x.session.token
}

// protects reports whether payloads are protected as p asks, with the tokens at hand.
func (x *exchange) protects(p Protection) bool {
	scheme := x.client.scheme
	switch {
	case x.session != nil || p == Unprotected:
		return true
	case p == IntegrityProtected:
		return scheme.protects
	default:
		return scheme.encrypts && scheme.protects
	}
}

// encryptsHeader reports whether user authentication data may go into the header.
func (x *exchange) encryptsHeader() bool { return x.protects(Encrypted) }

// remoteTime is the peer's time as far as it is known, else zero (§8.7).
func (x *exchange) remoteTime() time.Time {
	if !x.remoteTimeKnown() {
		return time.Time{}
	}
	return time.Unix(x.client.now().Unix()+x.client.offset.Load(), 0)
}

func (x *exchange) remoteTimeKnown() bool { return x.client.synced.Load() }
