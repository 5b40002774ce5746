// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
)

// recover does what the response code of an error message asks for (§8.5): it forgets the tokens that
// the peer rejected, and says what the next message is to be. It returns the peer's error if there is
// nothing that the client can do.
func (x *exchange) recover(ctx context.Context, m *Message) error {
	c := x.client
	rejected := m.Err
	x.last = rejected
	x.messageID, x.hasID = addID(m.ID, 1), true
	x.forced, x.afresh, x.keysFirst, x.withoutUser = false, false, false, false
	switch rejected.Response {
	case EntityReauth, EntityDataReauth:
		// Our entity authentication data is fixed, so there is no new one to offer: a peer that rejects it,
		// and not a master token, will go on to do so.
		if x.session == nil {
			return rejected
		}
		c.state.rejected(ctx, x.session.token)
	case UserReauth:
		if x.user != nil {
			c.state.rejectedUser(ctx, x.request.User, x.user)
		}
		x.withoutUser = true
	case UserDataReauth, SSOTokenRejected:
		if x.user != nil {
			c.state.rejectedUser(ctx, x.request.User, x.user)
		}
		if x.request.User == "" || x.request.Credentials == nil {
			return rejected
		}
		x.withoutUser, x.again = true, true
	case KeyxRequired, Expired:
		x.forced, x.forcedFrom = true, x.token()
		x.afresh = rejected.Response == KeyxRequired
		x.keysFirst = x.afresh && x.sentKeys // beside the data they were of no use, as before a pushed message
	case Replayed:
		// The next message draws a new non-replayable id by itself.
	default:
		return rejected
	}
	x.beginAgain()
	if !x.replayable() {
		return &ReplayError{Err: errors.Join(rejected, errBodyGone)}
	}
	return nil
}

// replayable reports whether the application data can be sent again.
func (x *exchange) replayable() bool {
	return x.request.Stream != nil || x.body.source == nil || x.body.seeker != nil || !x.body.lost
}
