// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"errors"
	"reflect"
	"regexp"
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
	p := newPeer(t, newAgent(t, everything))
	for _, x := range []struct {
		scheme, mechanism string
		mask              byte
		every             int // package jose changes every byte of a JWE
	}{{"JWK_LADDER", "PSK", 0x01, 1}, {"JWE_LADDER", "PSK", 0x04, 7}, {"SYMMETRIC_WRAPPED", "PSK", 0xff, 1}, {"ASYMMETRIC_WRAPPED", "JWK_RSA", 0x01, 1}, {"ASYMMETRIC_WRAPPED", "JWE_RSA", 0x04, 11}, {"ASYMMETRIC_WRAPPED", "JWEJS_RSA", 0x02, 11}} {
		begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: x.scheme, Mechanism: x.mechanism, Identity: "psk-client"})
		issued := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: x.scheme, KeyData: begun.KeyData, Entity: authenticated(t, p, "psk-client"), Expiration: 1})
		seen := make(map[wire.Code]bool)
		eachFlip(issued.KeyData, x.mask, func(bad []byte, at int) {
			if at%x.every != 0 {
				return
			}
			if sameButWrapdata(issued.KeyData, bad) {
				return // to the client it is what it is: only the message's signature protects it
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

// sameButWrapdata reports whether two responses of a ladder differ in nothing but their wrapdata.
func sameButWrapdata(a, b []byte) bool {
	pattern := regexp.MustCompile(`"wrapdata":"[A-Za-z0-9+/=]*"`)
	return bytes.Equal(pattern.ReplaceAll(a, nil), pattern.ReplaceAll(b, nil))
}

// TestTamperedKeyRequest: a changed request is refused, or gives the client nothing.
func TestTamperedKeyRequest(t *testing.T) {
	p := newPeer(t, newAgent(t, everything))
	first := climb(t, p, "JWK_LADDER", "PSK", wire.Handle{}, nil)
	for _, x := range [][2]string{{"DIFFIE_HELLMAN", "dh768"}, {"JWK_LADDER", "WRAP"}, {"JWE_LADDER", "WRAP"}, {"JWE_LADDER", "PSK"}} {
		if x[0] == "JWE_LADDER" && x[1] == "WRAP" {
			first = climb(t, p, "JWE_LADDER", "PSK", wire.Handle{}, nil)
		}
		req := &wire.BeginExchangeRequest{Scheme: x[0], Mechanism: x[1], Identity: "psk-client"}
		if x[1] == "WRAP" {
			req.Session = first.device
		}
		begun := ask[*wire.BeginExchangeReply](t, p, req)
		entity := authenticated(t, p, "psk-client")
		refused := 0
		eachFlip(begun.KeyData, 0x05, func(bad []byte, at int) {
			issued, err := try[*wire.IssueReply](p, &wire.IssueRequest{Scheme: x[0], KeyData: bad, Entity: entity, Expiration: 1})
			if err != nil {
				refused++
				return
			}
			finished, err := try[*wire.FinishExchangeReply](p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token})
			if err != nil {
				return
			}
			parts := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: finished.Session, Plain: [][]byte{{1}}}).Parts
			if r := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: issued.Session, Parts: parts}); r.FailedPart != 0 {
				t.Fatalf("%v: byte %d of the request was changed, and the two sides agree", x, at)
			}
		})
		if refused == 0 || x[0] != "DIFFIE_HELLMAN" && refused != 2*len(begun.KeyData) {
			t.Errorf("%v: %d of %d changes were refused", x, refused, 2*len(begun.KeyData))
		}
	}
}

// TestTamperedAgreement: a public number that was changed on its way is refused, or leaves the two sides with
// different keys. Nothing in this exchange could notice more.
func TestTamperedAgreement(t *testing.T) {
	p := newPeer(t, newAgent(t, everything))
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: "DIFFIE_HELLMAN", Mechanism: "dh768"})
	issued := ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: "DIFFIE_HELLMAN", KeyData: begun.KeyData, Entity: authenticated(t, p, "psk-client"), Expiration: 1})
	parts := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: issued.Session, Plain: [][]byte{{1}}}).Parts
	eachFlip(issued.KeyData, 0x03, func(bad []byte, at int) {
		finished, err := try[*wire.FinishExchangeReply](p, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: bad, Token: issued.Token})
		if err != nil {
			return
		}
		if r := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: finished.Session, Parts: parts}); r.FailedPart != 0 {
			t.Fatalf("byte %d was changed, and the two sides agree", at)
		}
	})
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
