// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// eachFlip calls f with every copy of b in which one bit differs, of the bits in mask.
func eachFlip(b []byte, mask byte, f func(bad []byte, at int)) {
	for i := range b {
		for bit := range 8 {
			if mask>>bit&1 == 0 {
				continue
			}
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			f(bad, i)
		}
	}
}

func TestTamperedMasterToken(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, _ := exchanged(t, p)
	refuse := func(token wire.Token, at int) {
		r, err := try[*wire.OpenMasterTokenReply](p, &wire.OpenMasterTokenRequest{Token: token})
		if err != nil || r.Verified || r.Session != (wire.Handle{}) {
			t.Fatalf("byte %d: %+v, %v", at, r, err)
		}
	}
	token := issued.Token
	eachFlip(token.Data, 0xff, func(bad []byte, at int) { refuse(wire.Token{Data: bad, Signature: token.Signature}, at) })
	eachFlip(token.Signature, 0xff, func(bad []byte, at int) { refuse(wire.Token{Data: token.Data, Signature: bad}, at) })
	// The same bytes, cut elsewhere.
	all := append(bytes.Clone(token.Data), token.Signature...)
	for n := range all {
		if n != len(token.Data) {
			refuse(wire.Token{Data: all[:n], Signature: all[n:]}, n)
		}
	}
}

func TestTamperedParts(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, finished := exchanged(t, p)
	rsaContext := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "RSA", Identity: "server", KeyID: "rsa-server-key"})
	for _, context := range []wire.Handle{issued.Session, finished.Session, authenticated(t, p, "psk-server"), rsaContext.Context} {
		sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: context, Plain: [][]byte{[]byte("first"), []byte("second")}})
		refuse := func(part wire.Part, at int) {
			r := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: context, Parts: []wire.Part{sealed.Parts[0], part, sealed.Parts[1]}})
			if r.FailedPart != 1 || len(r.Plain) != 1 || string(r.Plain[0]) != "first" {
				t.Fatalf("byte %d: %+v", at, r)
			}
		}
		part := sealed.Parts[1]
		eachFlip(part.Data, 0xff, func(bad []byte, at int) { refuse(wire.Part{Data: bad, Signature: part.Signature}, at) })
		eachFlip(part.Signature, 0xff, func(bad []byte, at int) { refuse(wire.Part{Data: part.Data, Signature: bad}, at) })
		refuse(wire.Part{}, 0)
		refuse(wire.Part{Data: part.Data}, 0)
		refuse(wire.Part{Signature: part.Signature}, 0)
	}
}

func TestTamperedSealedSession(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	issued, finished := exchanged(t, p)
	sealed := ask[*wire.SealSessionReply](t, p, &wire.SealSessionRequest{Session: finished.Session}).Sealed
	refuse := func(bad []byte, token wire.Token, at int) {
		_, err := try[*wire.UnsealSessionReply](p, &wire.UnsealSessionRequest{Sealed: bad, Token: token})
		if !reflect.DeepEqual(err, wire.Fail(wire.VerificationFailed, "unsealing a session")) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	eachFlip(sealed, 0xff, func(bad []byte, at int) { refuse(bad, issued.Token, at) })
	for n := range sealed {
		refuse(sealed[:n], issued.Token, n)
	}
	refuse(append(bytes.Clone(sealed), 0), issued.Token, len(sealed))
	other, _ := exchanged(t, p)
	refuse(sealed, other.Token, 0)
	refuse(sealed, wire.Token{Data: issued.Token.Data, Signature: other.Token.Signature}, 0)

	unsealed := ask[*wire.UnsealSessionReply](t, p, &wire.UnsealSessionRequest{Sealed: sealed, Token: issued.Token})
	parts := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: unsealed.Session, Plain: [][]byte{[]byte("x")}}).Parts
	if r := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: issued.Session, Parts: parts}); r.FailedPart != -1 {
		t.Error("the unsealed session is another one")
	}
}

func TestTamperedKeyResponse(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	for _, x := range []struct {
		scheme, mechanism string
		mask              byte
		every             int // package jose changes every byte of a JWE
	}{{"SYMMETRIC_WRAPPED", "PSK", 0xff, 1}, {"ASYMMETRIC_WRAPPED", "JWK_RSA", 0x01, 1}, {"ASYMMETRIC_WRAPPED", "JWE_RSA", 0x04, 11}, {"ASYMMETRIC_WRAPPED", "JWEJS_RSA", 0x02, 11}} {
		begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: x.scheme, Mechanism: x.mechanism, Identity: "psk-client"})
		issued := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: x.scheme, KeyData: begun.KeyData, Entity: authenticated(t, p, "psk-client"), Expiration: 1})
		seen := make(map[wire.Code]bool)
		eachFlip(issued.KeyData, x.mask, func(bad []byte, at int) {
			if at%x.every != 0 {
				return
			}
			_, err := try[*wire.FinishExchangeReply](p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: bad, Token: issued.Token})
			e, ok := errors.AsType[*wire.Error](err)
			if !ok || e.Code != wire.Malformed && e.Code != wire.VerificationFailed || e.Code == wire.VerificationFailed && e.MSL != -1 {
				t.Fatalf("%s, byte %d: %v", x.mechanism, at, err)
			}
			seen[e.Code] = true
		})
		if !seen[wire.Malformed] || !seen[wire.VerificationFailed] {
			t.Errorf("%s: only %v", x.mechanism, seen)
		}
		ask[*wire.FinishExchangeReply](t, p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token})
	}
}

// TestUniformFailure: tokens that verify, and are refused for all the reasons that the vectors have, fail
// with the same error.
func TestUniformFailure(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	for _, x := range []struct {
		file, op string
		request  func(wire.Token) wire.Request
		atLeast  int
	}{
		{"mastertokens.json", "opening a master token", func(t wire.Token) wire.Request { return &wire.OpenMasterTokenRequest{Token: t} }, 15},
		{"useridtokens.json", "opening a user ID token", func(t wire.Token) wire.Request { return &wire.OpenUserIDTokenRequest{Token: t} }, 10},
		{"servicetokens.json", "opening a service token", func(t wire.Token) wire.Request { return &wire.OpenServiceTokenRequest{Token: t} }, 10},
	} {
		refused := 0
		for _, c := range msltest.Cases(t, x.file) {
			token, err := parseToken(c.Bytes("token"))
			if c.Group != "parse" || err != nil {
				continue
			}
			_, err = p.Handle(t.Context(), x.request(token))
			if err == nil {
				continue // good, or not verified
			}
			refused++
			if !reflect.DeepEqual(err, wire.Fail(wire.VerificationFailed, x.op)) {
				t.Errorf("%s %s: %#v", x.file, c.Name, err)
			}
		}
		if refused < x.atLeast {
			t.Errorf("%s: only %d tokens were refused", x.file, refused)
		}
	}
}
