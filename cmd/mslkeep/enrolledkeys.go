// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/mslkeep/mslkeep/msl"
)

// enrolledKeys is the custody of a server that finds public keys in a folder, too. A master token that is issued to an identity
// with a file there says in its issuer data, which nobody else can read or change, what the file was. It is good for as
// long as the file is there and the same: removing it ends the sessions of a device, which could renew them for ever otherwise.
// Tokens of other identities say nothing, and are not looked for.
type enrolledKeys struct {
	ownKeys
	directory keyDirectory
}

// ownKeys is the custody of both sides, as peer-to-peer networks need it.
type ownKeys interface {
	msl.ServerKeys
	msl.ClientKeys
}

// enrolment is what issuer data says of an enrolled key.
type enrolment struct {
	Key string `json:"enrolled,omitempty"` // SHA-256 of the file
}

// of returns the enrolment of an identity as it is now; its key is empty if there is none.
func (d keyDirectory) of(identity string) (e enrolment, err error) {
	data, err := d.read(identity)
	if err == nil && data != nil {
		sum := sha256.Sum256(data)
		e.Key = hex.EncodeToString(sum[:16])
	}
	return e, err
}

// IssueMasterToken implements [msl.TokenIssuer]. A renewed token says what the one before it has said.
func (k *enrolledKeys) IssueMasterToken(ctx context.Context, r *msl.IssueRequest) (*msl.Issued, error) {
	if _, recorded := r.Entity.(*recordContext); recorded || r.Session != nil {
		return k.ownKeys.IssueMasterToken(ctx, r)
	}
	now, err := k.directory.of(r.Identity)
	if err != nil {
		return nil, enrolmentFailure{msl.Unavailable, -1, err}
	}
	if now.Key == "" {
		return k.ownKeys.IssueMasterToken(ctx, r)
	}
	marked := *r
	if r.IssuerData != nil {
		return nil, enrolmentFailure{msl.Malformed, -1, errors.New("the token says something else already")}
	}
	if marked.IssuerData, err = json.Marshal(now); err != nil {
		return nil, enrolmentFailure{msl.Malformed, -1, err}
	}
	return k.ownKeys.IssueMasterToken(ctx, &marked)
}

// OpenMasterToken implements [msl.TokenOpener].
func (k *enrolledKeys) OpenMasterToken(ctx context.Context, t msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	s, plain, err := k.ownKeys.OpenMasterToken(ctx, t, parts)
	if s == nil || len(s.IssuerData) == 0 {
		return s, plain, err
	}
	if refused := k.judge(s); refused != nil {
		return nil, nil, refused
	}
	return s, plain, err
}

// judge refuses a session whose key has gone.
func (k *enrolledKeys) judge(s *msl.Session) error {
	var then enrolment
	if err := json.Unmarshal(s.IssuerData, &then); err != nil {
		return enrolmentFailure{msl.Malformed, -1, err}
	}
	if then.Key == "" {
		return nil
	}
	now, err := k.directory.of(s.Identity)
	if err != nil {
		return enrolmentFailure{msl.Unavailable, -1, err}
	}
	if now != then {
		return enrolmentFailure{msl.Denied, int(msl.MasterTokenIdentityRevoked) % 100_000, errors.New("it is enrolled no more, or with another key")}
	}
	return nil
}

// An enrolmentFailure is a failure of custody.
type enrolmentFailure struct {
	class  msl.Failure
	number int
	err    error
}

func (e enrolmentFailure) Error() string {
	return "looking for the key of an enrolled entity: " + e.err.Error()
}

func (e enrolmentFailure) Unwrap() error { return e.err }

// Failure implements [msl.FailureError].
func (e enrolmentFailure) Failure() (msl.Failure, int) { return e.class, e.number }
