// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/entities"
	"github.com/mslkeep/mslkeep/msl"
)

// recordKeys is the custody of a server that finds pre-shared keys in a database, too. A master token that is issued to an
// entity with a record says in its issuer data, which nobody else can read or change, when that record was born. It is good
// for as long as the record is there: removing it ends its sessions, and so does another record in its place. Tokens of
// other entities say nothing, and are not looked for.
type recordKeys struct {
	*agent.Client
	store *entities.Store
}

// withRecords has keys find pre-shared keys in the store.
func withRecords(keys *agent.Client, store *entities.Store) *recordKeys {
	keys.UseRecords(func(ctx context.Context, identity string) ([]byte, error) {
		r, err := store.Find(ctx, identity)
		if note, ok := ctx.Value(noteKey{}).(*note); ok && err == nil {
			note.born = r.Born
		}
		if r.Born != 0 && len(r.Sealed) == 0 {
			return damagedRecord, err // and not: there is none, look elsewhere
		}
		return r.Sealed, err
	})
	return &recordKeys{keys, store}
}

// damagedRecord is one that no agent opens.
var damagedRecord = []byte{0}

// A note tells EntityContext which record was found for it.
type (
	note    struct{ born int64 }
	noteKey struct{}
)

// A recordContext is the context of an entity with a record.
type recordContext struct {
	msl.CryptoContext
	born int64
}

// EntityContext implements [msl.EntityKeys].
func (k *recordKeys) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	var found note
	c, err := k.Client.EntityContext(context.WithValue(ctx, noteKey{}, &found), scheme, identity, keyID)
	if err != nil || found.born == 0 {
		return c, err
	}
	return &recordContext{c, found.born}, nil
}

// IssueMasterToken implements [msl.TokenIssuer].
func (k *recordKeys) IssueMasterToken(ctx context.Context, r *msl.IssueRequest) (*msl.Issued, error) {
	c, ok := r.Entity.(*recordContext)
	if !ok {
		return k.Client.IssueMasterToken(ctx, r)
	}
	if r.IssuerData != nil {
		return nil, errIssuerData
	}
	marked := *r
	marked.Entity = c.CryptoContext
	marked.IssuerData = append(strconv.AppendInt([]byte(`{"record":"`), c.born, 36), `"}`...)
	return k.Client.IssueMasterToken(ctx, &marked)
}

// OpenMasterToken implements [msl.TokenOpener].
func (k *recordKeys) OpenMasterToken(ctx context.Context, t msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	s, plain, err := k.Client.OpenMasterToken(ctx, t, parts)
	if s == nil {
		return s, plain, err
	}
	if refused := k.judge(ctx, s); refused != nil {
		return nil, nil, refused
	}
	return s, plain, err
}

// judge refuses a session whose record has gone.
func (k *recordKeys) judge(ctx context.Context, s *msl.Session) error {
	if len(s.IssuerData) == 0 {
		return nil
	}
	var says struct {
		Record string `json:"record"`
	}
	if err := json.Unmarshal(s.IssuerData, &says); err != nil {
		return errIssuerData
	}
	if says.Record == "" {
		return nil
	}
	born, err := k.store.Born(ctx, s.Identity)
	if err != nil {
		return recordFailure{msl.Unavailable, -1, err}
	}
	if strconv.FormatInt(born, 36) != says.Record {
		return recordFailure{msl.Denied, int(msl.MasterTokenIdentityRevoked) % 100_000, nil}
	}
	return nil
}

// A recordFailure is a failure of custody.
type recordFailure struct {
	class  msl.Failure
	number int
	err    error
}

func (e recordFailure) Error() string {
	if e.err == nil {
		return "the record of the entity has gone"
	}
	return "looking for the record of the entity: " + e.err.Error()
}

func (e recordFailure) Unwrap() error { return e.err }

// Failure implements [msl.FailureError].
func (e recordFailure) Failure() (msl.Failure, int) { return e.class, e.number }

var errIssuerData = recordFailure{msl.Malformed, -1, nil}
