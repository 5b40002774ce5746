// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// The reference's behaviours that belong to no test of one part; docs/behaviours.md lists them all.

// TestContexts: what was sealed twice looks different, opens to the same under the same keys, whatever those are
// called, and under no others (behaviours 16, 18, 19 and 22).
func TestContexts(t *testing.T) {
	ctx := t.Context()
	keys := inproc.Fixtures().Session
	one, same := inproc.Context(t, keys), inproc.Context(t, keys)
	other := inproc.Context(t, inproc.Fixtures().MSL)
	halfA, halfB := keys, keys
	halfA.HMACKey = inproc.Fixtures().MSL.HMACKey
	halfB.EncryptionKey = inproc.Fixtures().MSL.EncryptionKey
	for _, data := range [][]byte{{}, {1}, bytes.Repeat([]byte{2}, 16), bytes.Repeat([]byte{3}, 1000)} {
		parts, err := one.Seal(ctx, [][]byte{data, data})
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 0 && (bytes.Equal(parts[0].Data, parts[1].Data) || bytes.Equal(parts[0].Signature, parts[1].Signature)) {
			t.Error("the same twice")
		}
		for _, c := range []msl.CryptoContext{one, same} {
			if plain, err := c.Open(ctx, parts); err != nil || !bytes.Equal(plain[0], data) || !bytes.Equal(plain[1], data) {
				t.Errorf("opened to %v: %v", plain, err)
			}
		}
		for _, c := range []msl.CryptoContext{other, inproc.Context(t, halfA)} {
			if plain, err := c.Open(ctx, parts); err == nil || len(plain) > 0 {
				t.Errorf("other keys opened it to %v", plain)
			}
		}
		if len(data) > 0 { // the right signature, and another encryption key
			if plain, err := inproc.Context(t, halfB).Open(ctx, parts); err == nil && bytes.Equal(plain[0], data) {
				t.Error("another encryption key opened it")
			}
		}
	}
}

// TestNullContext: entities that do not authenticate send what they say as it is, with an empty signature, and any
// signature will do (behaviour 28, §2.7).
func TestNullContext(t *testing.T) {
	ctx := t.Context()
	cfg := vectorConfig()
	cfg.Entity = msl.None("somebody")
	c, err := msl.OwnContext(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := c.Seal(ctx, [][]byte{[]byte("data")})
	if err != nil || string(parts[0].Data) != "data" || parts[0].Signature == nil || len(parts[0].Signature) > 0 {
		t.Errorf("%+v, %v", parts, err)
	}
	parts[0].Signature = []byte("anything")
	if plain, err := c.Open(ctx, parts); err != nil || string(plain[0]) != "data" {
		t.Errorf("%q, %v", plain, err)
	}
}

// TestSameToken: a token is the same whoever looks at it, verified or not, and no other is (behaviour 50). It is
// compared to the last byte, and not only by its numbers: who changed a token has made another.
func TestSameToken(t *testing.T) {
	var tokens []*msl.MasterToken
	for _, c := range msltest.Cases(t, "mastertokens.json") {
		if c.Group != "issue" || c.Refused() != nil {
			continue
		}
		a, err := msl.ParseMasterToken(c.Bytes("token"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := msl.ParseMasterToken(a.Encoding())
		if err != nil || !a.Same(b) || !b.Same(a) {
			t.Errorf("%s: not the same after a journey: %v", c.Name, err)
		}
		for _, o := range tokens {
			if a.Same(o) {
				t.Errorf("%s: the same as another", c.Name)
			}
		}
		changed := *b
		changed.Signature = slices.Clone(b.Signature)
		changed.Signature[0] ^= 1
		if a.Same(&changed) {
			t.Errorf("%s: the same with another signature", c.Name)
		}
		tokens = append(tokens, a)
	}
	if len(tokens) < 2 {
		t.Errorf("compared %d tokens", len(tokens))
	}
}

// TestKeyResponseFindsItsRequest: of several requests of one scheme the response fits the one that it answers,
// wherever that stands (behaviour 106).
func TestKeyResponseFindsItsRequest(t *testing.T) {
	mechanisms := []string{"JWE_RSA", "JWK_RSA", "JWEJS_RSA"}
	for i, accepted := range mechanisms {
		w := newWorld(t)
		w.client.KeyExchanges = nil
		for _, m := range mechanisms {
			w.client.KeyExchanges = append(w.client.KeyExchanges, msl.KeyExchange{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: m})
		}
		w.config.KeyExchanges = []msl.KeyExchange{{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: accepted}}
		client := w.newClient(nil)
		if answer := w.mustSay(client, msl.Request{}, "hello"); answer.KeyResponse == nil {
			t.Errorf("request %d was not answered", i)
		}
		if answer := w.mustSay(client, msl.Request{}, "again"); answer.MasterToken == nil {
			t.Errorf("request %d gave no session", i)
		}
		client.Close()
	}
}

// TestKeyResponseToOthers: a response to somebody else's request is refused, even if it is of the same scheme
// (behaviours 76 and 106).
func TestKeyResponseToOthers(t *testing.T) {
	cases := msltest.Cases(t, "messages.json")
	i := slices.IndexFunc(cases, func(c msltest.Case) bool { return c.Name == "ASYMMETRIC_WRAPPED-JWE_RSA-from-PSK" })
	o := vectorOpener(t, cases[i])
	own, err := inproc.Agent(t).BeginExchange(t.Context(), "ASYMMETRIC_WRAPPED", "JWE_RSA", "psk-client", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Discard()
	o.Requests = map[string]msl.PendingExchange{"ASYMMETRIC_WRAPPED": own}
	if _, err := o.Open(t.Context(), bytes.NewReader(cases[i].Bytes("message"))); err == nil {
		t.Error("accepted")
	}
	o.Requests = map[string]msl.PendingExchange{"SYMMETRIC_WRAPPED": own}
	if _, err := o.Open(t.Context(), bytes.NewReader(cases[i].Bytes("message"))); msl.CodeOf(err) != msl.KeyxResponseRequestMismatch {
		t.Errorf("of another scheme: %v", err)
	}
}

// TestExchangeOfOtherScheme: custody is asked with the data of one scheme and the name of another, and for an
// exchange that was given up: that is refused, and harms nothing (behaviours 77 and 85).
func TestExchangeOfOtherScheme(t *testing.T) {
	ctx := t.Context()
	client, server := inproc.Agent(t), inproc.Agent(t)
	device, err := client.EntityContext(ctx, "PSK", "psk-client", "")
	if err != nil {
		t.Fatal(err)
	}
	entity, err := server.EntityContext(ctx, "PSK", "psk-client", "")
	if err != nil {
		t.Fatal(err)
	}
	if parts, err := device.Seal(ctx, [][]byte{[]byte("it is me")}); err != nil {
		t.Fatal(err)
	} else if _, err := entity.Open(ctx, parts); err != nil {
		t.Fatal(err)
	}
	begin := func(scheme, mechanism string) msl.PendingExchange {
		p, err := client.BeginExchange(ctx, scheme, mechanism, "psk-client", nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	asymmetric, symmetric := begin("ASYMMETRIC_WRAPPED", "JWE_RSA"), begin("SYMMETRIC_WRAPPED", "PSK")
	ask := func(scheme string, p msl.PendingExchange) (*msl.Issued, error) {
		return server.IssueMasterToken(ctx, &msl.IssueRequest{Scheme: scheme, KeyData: p.KeyData(), Entity: entity, Identity: "psk-client",
			RenewalWindow: vectorTime.Unix() + 10, Expiration: vectorTime.Unix() + 20})
	}
	for _, scheme := range []string{"SYMMETRIC_WRAPPED", "DIFFIE_HELLMAN", "JWE_LADDER", "JWK_LADDER", "MAGIC"} {
		if _, err := ask(scheme, asymmetric); err == nil {
			t.Errorf("the request was answered as %s", scheme)
		}
	}
	issued, err := ask("ASYMMETRIC_WRAPPED", asymmetric)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := symmetric.Finish(ctx, issued.KeyData, issued.Token, "psk-client", 0); err == nil {
		t.Error("another exchange was finished with it")
	}
	session, err := asymmetric.Finish(ctx, issued.KeyData, issued.Token, "psk-client", 0)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := session.Seal(ctx, [][]byte{[]byte("data")})
	if err == nil {
		_, err = issued.Session.Open(ctx, parts)
	}
	if err != nil {
		t.Errorf("the exchange itself: %v", err)
	}
}
