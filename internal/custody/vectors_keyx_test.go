// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// A container is key request data or key response data (§7.1), which is otherwise package msl's.
type container struct {
	scheme  string
	keyData mslenc.Object
	token   wire.Token
}

func parseContainer(t testing.TB, encoded []byte) (x container) {
	t.Helper()
	o, err := mslenc.Parse(encoded)
	if err == nil {
		x.scheme, err = o.String("scheme")
	}
	if err == nil {
		x.keyData, err = o.Object("keydata")
	}
	if err == nil && o.Has("mastertoken") {
		var token mslenc.Object
		if token, err = o.Object("mastertoken"); err == nil {
			x.token, err = parseToken(token.Encoding())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pendingOf rebuilds the client's side of an exchange from its request and private key.
func pendingOf(a *Agent, request container, c msltest.Case) (pendingExchange, error) {
	private := c.String("client_private_key")
	switch request.scheme {
	case "SYMMETRIC_WRAPPED":
		set, err := a.preSharedKeys(context.Background(), "psk-client")
		return &pendingSymmetric{set}, err
	case schemeDiffieHellman:
		x, err := parseAgreement(request.keyData)
		if c.Has("client_x") {
			private = x.parameters + ":" + c.String("client_x")
		}
		p := &pendingAgreement{agreement: x, group: a.groups[x.parameters]}
		if _, number, ok := strings.Cut(private, ":"); ok {
			p.x = secret.Take(magnitude(number))
		}
		return p, err
	case schemeJWELadder, schemeJWKLadder:
		p := &pendingLadder{ladder: ladder{request.scheme, request.scheme == schemeJWELadder}}
		mechanism, _, err := parseLadderMechanism(request.keyData)
		if err == nil && mechanism == mechanismPSK {
			var set *keySet
			if set, err = a.preSharedKeys(context.Background(), "psk-client"); err == nil {
				p.under = set.versions
			}
		} else if c.Has("previous_wrap_key") {
			var s *suite
			s, err = wrapSuite(secret.Take(c.Hex("previous_wrap_key")))
			p.under = []*suite{s}
		}
		return p, err
	}
	name, err := request.keyData.String("mechanism")
	if err != nil {
		return nil, err
	}
	pair := new(keyPair)
	if pair.id, err = request.keyData.String("keypairid"); err != nil {
		return nil, err
	}
	if private != "" {
		pair.private = fixturePair(private)
	}
	return &pendingAsymmetric{name, mechanisms[name], &exchangePair{id: pair.id, spki: pair.spki, private: pair, release: pair.release}}, nil
}

// magnitude reads a number that may have an odd count of digits.
func magnitude(digits string) []byte {
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		panic(digits)
	}
	return n.Bytes()
}

func keyExchangeVectors(t *testing.T) {
	issuer := newAgent(t, everything)
	device := newAgent(t, func(c *Config) { everything(c); c.TokenKeys = "" })
	msltest.Vectors(t, "keyx.json", map[string]func(msltest.Case) error{
		"exchange":       func(c msltest.Case) error { return checkExchange(t, issuer, c) },
		"parse-request":  nil, // package msl
		"parse-response": nil,
		"respond":        func(c msltest.Case) error { return checkRespond(t, issuer, device, c) },
		"complete": func(c msltest.Case) error {
			pending, err := pendingOf(device, parseContainer(t, c.Bytes("request")), c)
			if err != nil {
				return err
			}
			_, err = pending.finish(context.Background(), parseContainer(t, c.Bytes("response")).keyData)
			return compare(c, err)
		},
	})
}

func checkExchange(t *testing.T, a *Agent, c msltest.Case) error {
	ctx := context.Background()
	var request container
	if c.Has("request") {
		request = parseContainer(t, c.Bytes("request"))
	} else {
		request = refusedRequest(t, c)
	}
	from := &requester{identity: c.String("entity")}
	if c.Has("renews") {
		token, err := parseToken(c.Bytes("renews"))
		if err != nil {
			return err
		}
		s, ok, err := a.openMasterToken(ctx, token)
		if err != nil || !ok {
			return fmt.Errorf("opening the token to renew: %w", err)
		}
		from.session = s
	}
	ours, token, keyData, err := a.issue(ctx, &wire.IssueRequest{Scheme: request.scheme, KeyData: request.keyData.Encoding(),
		RenewalWindow: 100, Expiration: 200}, from)
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	pending, err := pendingOf(a, request, c)
	if err != nil {
		return err
	}
	response := parseContainer(t, c.Bytes("response"))
	theirs, err := pending.finish(ctx, response.keyData)
	if err != nil {
		return fmt.Errorf("finishing with the reference's response: %w", err)
	}
	if !bytes.Equal(secret.Reveal(theirs.enc), c.Hex("encryption_key")) || !bytes.Equal(secret.Reveal(theirs.mac), c.Hex("hmac_key")) {
		return errors.New("other keys")
	}
	claims, err := parseMasterClaims(response.token.Data)
	if err != nil {
		return err
	}
	client, err := newSession(theirs, c.String("entity"), claims.sequenceNumber)
	if err != nil {
		return err
	}
	if err := sameRung(a, theirs.rung, c); err != nil {
		return err
	}
	if c.Has("client_keyid") && !bytes.Equal(client.label, keyLabel(c.String("client_keyid"))) {
		return fmt.Errorf("key id %s", client.label)
	}
	// What was issued here, finished here, is what the token holds.
	o, err := parseKeyData(keyData)
	if err != nil {
		return err
	}
	finished, err := pending.finish(ctx, o)
	if err != nil {
		return fmt.Errorf("finishing with the response made here: %w", err)
	}
	opened, ok, err := a.openMasterToken(ctx, token)
	if err != nil || !ok || !opened.keys.enc.Equal(finished.enc) || !opened.keys.mac.Equal(finished.mac) || !opened.keys.enc.Equal(ours.keys.enc) {
		return fmt.Errorf("the token and the response disagree: %w", err)
	}
	if from.session != nil && (opened.serialNumber != from.session.serialNumber || opened.sequenceNumber != claims.sequenceNumber) {
		return fmt.Errorf("renewed as %d/%d", opened.serialNumber, opened.sequenceNumber)
	}
	return nil
}

// sameRung compares what a ladder's client keeps, and has the issuer read it.
func sameRung(a *Agent, r *rung, c msltest.Case) error {
	if (r != nil) != c.Has("wrap_key") {
		return fmt.Errorf("rung %v", r)
	}
	if r == nil {
		return nil
	}
	key, err := a.unwrapRole(context.Background(), a.cfg.TokenKeys, r.wrapdata)
	if err != nil || !bytes.Equal(key, c.Hex("wrap_key")) || !bytes.Equal(key, secret.Reveal(r.key)) || !bytes.Equal(r.wrapdata, c.Bytes("wrapdata")) {
		return fmt.Errorf("another wrapping key: %w", err)
	}
	return nil
}

// refusedRequest rebuilds the request of a case that the reference refused to answer.
func refusedRequest(t *testing.T, c msltest.Case) container {
	var b mslenc.Builder
	b.String("keyid", c.String("keyid"))
	b.String("keypairid", "pair")
	b.String("mechanism", c.String("mechanism"))
	b.String("publickey", fixtures().Pairs["rsa_keyx"].SPKI)
	o, err := mslenc.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return container{scheme: c.String("scheme"), keyData: o}
}

// checkRespond asks through the front door.
func checkRespond(t *testing.T, issuer, device *Agent, c msltest.Case) error {
	request := parseContainer(t, c.Bytes("request"))
	r := &wire.IssueRequest{Scheme: request.scheme, KeyData: request.keyData.Encoding(), RenewalWindow: 1, Expiration: 2}
	peer := issuer.NewPeer()
	defer peer.Close()
	if c.Has("renews") { // by an entity without the issuing keys, which has only a device's session
		peer := device.NewPeer()
		defer peer.Close()
		_, finished := exchangedWith(t, issuer, device, peer)
		r.Session = finished.Session
		return compareExchange(c, peer, r)
	}
	data, err := mslenc.Parse(c.Bytes("entity_auth_data"))
	if err != nil {
		return err
	}
	scheme, err := data.String("scheme")
	if err != nil {
		return err
	}
	auth, err := data.Object("authdata")
	if err != nil {
		return err
	}
	identity, err := auth.String("identity")
	if err != nil {
		return err
	}
	if scheme != "PSK" {
		r.Identity = identity
		return compareExchange(c, peer, r)
	}
	e, err := try[*wire.EntityContextReply](peer, &wire.EntityContextRequest{Scheme: "PSK", Identity: identity})
	if err != nil {
		if errors.Is(err, wire.NoSuchKey) { // which package msl names so
			err = &fault{code: wire.NoSuchKey, number: mslEntityNotFound}
		}
		return compareWire(c, err)
	}
	sealed := ask[*wire.SealReply](t, peer, &wire.SealRequest{Context: e.Context, Plain: [][]byte{{1}}})
	ask[*wire.OpenReply](t, peer, &wire.OpenRequest{Context: e.Context, Parts: sealed.Parts})
	r.Entity = e.Context
	return compareExchange(c, peer, r)
}

func compareExchange(c msltest.Case, p *Peer, r *wire.IssueRequest) error {
	_, err := try[*wire.IssueReply](p, r)
	return compareWire(c, err)
}

// compareWire judges the number that leaves the agent.
func compareWire(c msltest.Case, err error) error {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return compare(c, err)
	}
	return compare(c, &fault{code: e.Code, number: e.MSL, what: e.Detail})
}

// exchangedWith is exchanged between two agents.
func exchangedWith(t testing.TB, issuer, device *Agent, p *Peer) (*wire.IssueReply, *wire.FinishExchangeReply) {
	t.Helper()
	server := issuer.NewPeer()
	defer server.Close()
	issued, _ := exchanged(t, server)
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "SYMMETRIC_WRAPPED", Mechanism: "PSK", Identity: "psk-client"})
	finished := ask[*wire.FinishExchangeReply](t, p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData,
		Token: issued.Token, Identity: "psk-client"})
	return issued, finished
}
