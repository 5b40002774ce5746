// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// A session is one session with the token. One goroutine uses it: two would crash some modules.
type session struct {
	p      *Provider
	link   *link // in which it was opened; nil: closed
	handle p11.SessionHandle
	change bool // the job has begun to change the token, so must not be done again
}

// A job is an operation that waits for a session.
type job struct {
	ctx  context.Context
	key  *object // whose handle is looked up again when it is of no use; may be nil
	use  use
	run  func(*session) error
	then func(*session) // more to do with that session, if run has not failed; may be nil
	done chan error     // room for one
}

// do runs f with a session. When ctx ends first it returns, and what f still does is for nothing: so f
// must have its own copies of what it reads.
func do[T any](ctx context.Context, p *Provider, op string, u use, key *object, f func(*session) (T, error)) (T, error) {
	var none T
	result := new(T)
	j := &job{ctx: ctx, key: key, use: u, done: make(chan error, 1), run: func(s *session) (err error) {
		*result, err = f(s)
		return err
	}}
	if s, ok := ctx.Value(lent{}).(*session); ok {
		if err := s.attempt(j); err != nil {
			return none, coded(op, err, u)
		}
		return *result, nil
	}
	if err := p.wait(ctx, j); err != nil {
		return none, coded(op, err, u)
	}
	return *result, nil
}

// wait has a worker do a job, and returns when that is done or when ctx ends.
func (p *Provider) wait(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case p.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.quit:
		return failure(providers.Transient, opToken, errClosed)
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// busyDelay is how long a worker that got no session leaves the work to others.
const busyDelay = 500 * time.Millisecond

// work does jobs until the provider is closed.
func (p *Provider) work() {
	s := &session{p: p}
	for {
		select {
		case <-p.quit:
			return
		case j := <-p.jobs:
			err := s.attempt(j)
			if s.link == nil && classify(err, j.use) == classCapacity && p.leave(j) {
				continue
			}
			if err == nil && j.then != nil {
				j.then(s)
			}
			j.done <- err
		}
	}
}

// leave hands a job over to a worker that has a session, and rests. It reports false if nobody took it.
func (p *Provider) leave(j *job) bool {
	rest := time.NewTimer(busyDelay)
	defer rest.Stop()
	select {
	case p.jobs <- j:
	case <-j.ctx.Done():
		return false
	case <-p.quit:
		return false
	case <-rest.C:
		return false
	}
	select {
	case <-rest.C:
	case <-p.quit:
	}
	return true
}

// maxTries is how often a job is begun: each thing that can be lost may be lost once.
const maxTries = 4

// attempt does a job, and what can be done about its errors.
func (s *session) attempt(j *job) error {
	var err error
	for range maxTries {
		if cerr := j.ctx.Err(); cerr != nil {
			return cerr
		}
		var l *link
		l, err = s.once(j)
		c := classify(err, j.use)
		if s.change {
			return err
		}
		switch c {
		case classSession:
			s.close(l)
		case classObject:
			if j.key == nil {
				return err
			}
			j.key.handle.Store(nil)
		case classLogin, classToken:
			if rerr := s.p.renew(l, c == classToken); rerr != nil {
				return rerr
			}
		default:
			return err
		}
	}
	return err
}

// once does a job once, if there is a link and a session.
func (s *session) once(j *job) (*link, error) {
	p := s.p
	p.life.RLock()
	defer p.life.RUnlock()
	l := p.link
	s.change = false
	if l == nil {
		return nil, p11.Error(p11.CKR_TOKEN_NOT_PRESENT)
	}
	if s.link != l { // what was open has ended with its link
		s.link = nil
		err := s.call("C_OpenSession", func(c *p11.Ctx) (err error) {
			s.handle, err = c.OpenSession(l.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
			return err
		})
		if err != nil {
			return l, err
		}
		s.link = l
	}
	return l, j.run(s)
}

// close ends the session, so that the next job gets a new one.
func (s *session) close(l *link) {
	s.p.life.RLock()
	defer s.p.life.RUnlock()
	if s.link != nil && s.link == s.p.link {
		s.call("C_CloseSession", func(c *p11.Ctx) error { return c.CloseSession(s.handle) }) // it may have ended
	}
	s.link = nil
}

// call makes a call into the module.
func (s *session) call(name string, f func(*p11.Ctx) error) error { return s.p.module.call(name, f) }

// present fails with CKR_TOKEN_NOT_PRESENT if a key that was there is there no longer: SoftHSM goes on as an empty
// token when its files are taken away, also when they are back. If the key was destroyed, that costs one start
// of the module.
func (s *session) present() error {
	if err := s.loggedIn(); err != nil {
		return err
	}
	witness := s.link.witness.Load()
	if witness == 0 {
		return nil
	}
	_, err := s.attributes(p11.ObjectHandle(witness), p11.CKA_CLASS)
	if err != nil && classify(err, useOther) == classObject {
		return p11.Error(p11.CKR_TOKEN_NOT_PRESENT)
	}
	return err
}

// loggedIn fails with CKR_USER_NOT_LOGGED_IN unless the session can see private objects.
func (s *session) loggedIn() error {
	var info p11.SessionInfo
	err := s.call("C_GetSessionInfo", func(c *p11.Ctx) (err error) { info, err = c.GetSessionInfo(s.handle); return err })
	if err == nil && info.State != p11.CKS_RW_USER_FUNCTIONS && s.p.token.pinSource != "" {
		err = p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	return err
}
