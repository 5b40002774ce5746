// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestTamper flips bits of every byte of recorded messages. What is still accepted says the same as
// before, to the last bit.
func TestTamper(t *testing.T) {
	names := []string{
		"entity/PSK", "entity/PSK_PROFILE", "entity/X509", "entity/RSA", "entity/ECC", "entity/MT_PROTECTED", "user-auth/master-token-user-id-token", "master-token/plain", "master-token/user-id-token", "service-tokens/all-kinds",
		"payloads/gzip", "payloads/five-chunks", "handshake/psk-SYMMETRIC_WRAPPED-PSK",
		"key-response/SYMMETRIC_WRAPPED-PSK-from-PSK", "key-response/renewal-in-session",
	}
	for _, c := range msltest.Cases(t, "messages.json") {
		name := c.Group + "/" + c.Name
		if !slices.Contains(names, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tamper(t, vectorOpener(t, c), c.Bytes("message"))
		})
	}
	for _, c := range msltest.Cases(t, "errorheaders.json") {
		if c.Group == "parse" && c.Name == "good" {
			tamper(t, server(t, vectorConfig()), c.Bytes("message"))
		}
	}
}

func tamper(t *testing.T, o *msl.Opener, message []byte) {
	want, err := everything(o, message)
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 17
	}
	for i := 0; i < len(message); i += step {
		for _, bit := range []byte{0x01, 0x20} {
			changed := slices.Clone(message)
			changed[i] ^= bit
			if got, err := everything(o, changed); err == nil && got != want {
				t.Fatalf("byte %d of %d changed from %q to %q: accepted as\n%s\ninstead of\n%s", i, len(message), message[i], changed[i], got, want)
			}
		}
	}
}

// everything opens a message and returns all that it says.
func everything(o *msl.Opener, message []byte) (string, error) {
	m, err := o.Open(context.Background(), bytes.NewReader(message))
	if err != nil {
		return "", err
	}
	defer m.Close()
	if m.Err != nil {
		return fmt.Sprintf("%+v", *m.Err), nil
	}
	data, err := io.ReadAll(m)
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("%d %d %q %q %v %v %v %v %v %v %q %x", m.ID, m.Timestamp, m.Identity(), m.User, m.UserAuth, m.Renewable, m.Handshake(),
		m.NonReplayableID, m.Encrypted, m.IntegrityProtected, m.Entity.Encoding(), data)
	if m.MasterToken != nil {
		s += fmt.Sprintf(" %+v", *m.MasterToken)
	}
	if m.UserIDToken != nil {
		s += fmt.Sprintf(" %+v", *m.UserIDToken)
	}
	for _, token := range m.ServiceTokens {
		s += fmt.Sprintf(" %+v", *token)
	}
	if m.KeyResponse != nil {
		s += fmt.Sprintf(" %+v %+v", *m.KeyResponse.MasterToken, m.KeyResponse)
	}
	return s + fmt.Sprintf("%+v %+v", m.KeyRequests, m.Capabilities), nil
}

// TestFailingCustody makes every single call of custody fail while messages are opened: nothing is ever
// accepted, and the peer is told of a transient failure, not of a fault of its own.
func TestFailingCustody(t *testing.T) {
	for _, c := range msltest.Cases(t, "messages.json") {
		name := c.Group + "/" + c.Name
		if !slices.Contains([]string{"entity/PSK", "entity/MT_PROTECTED", "user-auth/master-token-user-id-token", "master-token/user-id-token", "service-tokens/all-kinds", "payloads/five-chunks"}, name) {
			continue
		}
		for n := 1; ; n++ {
			custody := &failingCustody{ServerKeys: inproc.Agent(t), after: n}
			o := &msl.Opener{Config: vectorConfig(), Entities: custody, Tokens: custody, Services: custody}
			got, err := everything(o, c.Bytes("message"))
			if custody.calls < n {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			if err == nil {
				t.Errorf("%s: accepted as %s though call %d failed", name, got, n)
			} else if msl.CodeOf(err) != msl.InternalException || msl.CodeOf(err).Response() != msl.TransientFailure {
				t.Errorf("%s, call %d: %v", name, n, err)
			}
		}
	}
}

// failingCustody fails at a call and from then on.
type failingCustody struct {
	msl.ServerKeys
	calls, after int
}

var errAway = errors.New("custody is away")

func (f *failingCustody) away() bool {
	f.calls++
	return f.calls >= f.after
}

type unavailable struct{}

func (unavailable) Error() string               { return errAway.Error() }
func (unavailable) Failure() (msl.Failure, int) { return msl.Unavailable, -1 }

func (f *failingCustody) EntityContext(ctx context.Context, scheme, identity, keyID string) (msl.CryptoContext, error) {
	if f.away() {
		return nil, unavailable{}
	}
	c, err := f.ServerKeys.EntityContext(ctx, scheme, identity, keyID)
	return failingContext{f, c}, err
}

func (f *failingCustody) OpenMasterToken(ctx context.Context, token msl.Token, parts []msl.Part) (*msl.Session, [][]byte, error) {
	if f.away() {
		return nil, nil, unavailable{}
	}
	s, plain, err := f.ServerKeys.OpenMasterToken(ctx, token, parts)
	if s != nil {
		s.CryptoContext = failingContext{f, s.CryptoContext}
	}
	return s, plain, err
}

func (f *failingCustody) OpenUserIDToken(ctx context.Context, token msl.Token) (*msl.UserClaims, error) {
	if f.away() {
		return nil, unavailable{}
	}
	return f.ServerKeys.OpenUserIDToken(ctx, token)
}

func (f *failingCustody) OpenServiceToken(ctx context.Context, keys string, token msl.Token) ([]byte, bool, error) {
	if f.away() {
		return nil, false, unavailable{}
	}
	return f.ServerKeys.OpenServiceToken(ctx, keys, token)
}

type failingContext struct {
	f *failingCustody
	c msl.CryptoContext
}

func (c failingContext) Seal(ctx context.Context, plain [][]byte) ([]msl.Part, error) {
	if c.f.away() {
		return nil, unavailable{}
	}
	return c.c.Seal(ctx, plain)
}

func (c failingContext) Open(ctx context.Context, parts []msl.Part) ([][]byte, error) {
	if c.f.away() {
		return nil, unavailable{}
	}
	return c.c.Open(ctx, parts)
}
