// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/jose"
	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A climbed exchange is both sides' sessions, and what went over.
type climbed struct {
	issuer, device wire.Handle
	token          wire.Token
	wrapdata       []byte // that the device has now
}

// climb runs an exchange of psk-client by a ladder, of a device with itself or with issuer. previous is the
// device's session.
func climb(t testing.TB, device *Peer, scheme, mechanism string, previous wire.Handle, issuer *Peer) climbed {
	t.Helper()
	if issuer == nil {
		issuer = device
	}
	begun := ask[*wire.BeginExchangeReply](t, device, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: mechanism, Identity: "psk-client", Session: previous})
	issued := ask[*wire.IssueReply](t, issuer, &wire.IssueRequest{Scheme: scheme, KeyData: begun.KeyData, Entity: authenticated(t, issuer, "psk-client"), Expiration: 1})
	finished := ask[*wire.FinishExchangeReply](t, device, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token, Identity: "psk-client"})
	talk(t, device, finished.Session, issuer, issued.Session)
	return climbed{issued.Session, finished.Session, issued.Token, member(t, issued.KeyData, "wrapdata")}
}

func member(t testing.TB, keyData []byte, name string) []byte {
	t.Helper()
	o, err := mslenc.Parse(keyData)
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.Binary(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLadder: each exchange builds on the wrapdata of the one before, and on no other (behaviours 81 and 84).
func TestLadder(t *testing.T) {
	for _, scheme := range []string{schemeJWELadder, schemeJWKLadder} {
		issuer, a := newPeer(t, newAgent(t, nil)), newAgent(t, nil)
		device := newPeer(t, a)
		last := climb(t, device, scheme, "PSK", wire.Handle{}, issuer)
		for range 3 {
			begun := ask[*wire.BeginExchangeReply](t, device, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: "WRAP", Session: last.device})
			if !bytes.Equal(member(t, begun.KeyData, "wrapdata"), last.wrapdata) {
				t.Error("not the last wrapdata")
			}
			next := climb(t, device, scheme, "WRAP", last.device, issuer)
			if bytes.Equal(next.wrapdata, last.wrapdata) || len(next.wrapdata) != 24 {
				t.Error("the same wrapdata again")
			}
			last = next
		}
		// A restart of the client, of its agent, or of both.
		sealed := ask[*wire.SealSessionReply](t, device, &wire.SealSessionRequest{Session: last.device}).Sealed
		device.Close()
		device = newPeer(t, a)
		unsealed := ask[*wire.UnsealSessionReply](t, device, &wire.UnsealSessionRequest{Sealed: sealed, Token: last.token})
		next := climb(t, device, scheme, "WRAP", unsealed.Session, issuer)
		// A pending exchange outlives the session that it builds on.
		begun := ask[*wire.BeginExchangeReply](t, device, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: "WRAP", Session: next.device})
		ask[*wire.ReleaseReply](t, device, &wire.ReleaseRequest{Handles: []wire.Handle{next.device}})
		issued := ask[*wire.IssueReply](t, issuer, &wire.IssueRequest{Scheme: scheme, KeyData: begun.KeyData, Session: next.issuer, Expiration: 1})
		ask[*wire.FinishExchangeReply](t, device, &wire.FinishExchangeRequest{Pending: begun.Pending, KeyData: issued.KeyData, Token: issued.Token})

		other := map[string]string{schemeJWELadder: schemeJWKLadder, schemeJWKLadder: schemeJWELadder}[scheme]
		_, symmetric := exchanged(t, device)
		for name, req := range map[string]*wire.BeginExchangeRequest{
			"no session":        {Scheme: scheme},
			"another exchange":  {Scheme: scheme, Session: symmetric.Session},
			"the other ladder":  {Scheme: other, Session: unsealed.Session},
			"one issued here":   {Scheme: scheme, Session: exchangedHere(t, device)},
			"an unknown handle": {Scheme: scheme, Session: wire.Handle{1}},
		} {
			req.Mechanism = "WRAP"
			_, err := try[*wire.BeginExchangeReply](device, req)
			e, ok := errors.AsType[*wire.Error](err)
			if stale := errors.Is(err, wire.StaleHandle); !stale && (!ok || e.MSL != mslWrappingKeyMissing) || stale != (name == "an unknown handle") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func exchangedHere(t *testing.T, p *Peer) wire.Handle {
	issued, _ := exchanged(t, p)
	return issued.Session
}

// TestWrapdataAfterRotation: older versions of the token keys still open wrapdata. Other keys do not, and do
// not say why.
func TestWrapdataAfterRotation(t *testing.T) {
	clock := newClock()
	p := newPeer(t, newAgent(t, func(c *Config) { c.Now = clock.Now }))
	last := climb(t, p, schemeJWKLadder, "PSK", wire.Handle{}, nil)
	for range 3 {
		ask[*wire.ChangedKeysReply](t, p, &wire.RotateKeyRequest{Name: "tokens"})
		next := climb(t, p, schemeJWKLadder, "WRAP", last.device, nil)
		climb(t, p, schemeJWKLadder, "WRAP", last.device, nil) // again: the issuer keeps no count
		last = next
	}
	stranger := newPeer(t, newAgent(t, func(c *Config) { c.TokenKeys = "stranger"; c.Provider = strangerKeys(t) }))
	begun := ask[*wire.BeginExchangeReply](t, p, &wire.BeginExchangeRequest{Scheme: schemeJWKLadder, Mechanism: "WRAP", Session: last.device})
	for _, data := range [][]byte{begun.KeyData, []byte(`{"mechanism":"WRAP","wrapdata":"AAECAwQFBgcICQoLDA0ODw=="}`), []byte(`{"mechanism":"WRAP","wrapdata":"AAE="}`)} {
		_, err := try[*wire.IssueReply](stranger, &wire.IssueRequest{Scheme: schemeJWKLadder, KeyData: data, Identity: "somebody", Expiration: 1})
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.VerificationFailed || e.MSL != -1 {
			t.Errorf("%s: %v", data, err)
		}
	}
	noIssuer := newPeer(t, newAgent(t, func(c *Config) { c.TokenKeys = "" }))
	if _, err := try[*wire.IssueReply](noIssuer, &wire.IssueRequest{Scheme: schemeJWKLadder, KeyData: begun.KeyData, Identity: "somebody", Expiration: 1}); !errors.Is(err, wire.NotSupported) {
		t.Error(err)
	}
}

// strangerKeys are keys that the fixtures have not.
func strangerKeys(t *testing.T) providers.Provider {
	p := fixtureProvider(t)
	importSet(t, p, "stranger", hexKeys{EncryptionKey: strings.Repeat("01", 16), HMACKey: strings.Repeat("02", 32), WrappingKey: strings.Repeat("03", 16)})
	return p
}

// TestGarbageInLadder: something else than a fitting JSON web key, in any of the three places, well wrapped
// (behaviours 82 and 83).
func TestGarbageInLadder(t *testing.T) {
	ctx := context.Background()
	for _, l := range []ladder{{schemeJWELadder, true}, {schemeJWKLadder, false}} {
		for _, garbage := range []string{`not an object, but ...long enough`, `{"kty":"oct"}   `, `{"kty":"rsa","n":"AQAB","e":"AQAB"}     `,
			`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw","alg":"HS256"}        `, `{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}      `} {
			for place := range 3 {
				below, wrapKey := suiteOf(t, secret.Random(16)), secret.Random(16)
				own := suiteOf(t, wrapKey)
				jwks := []jose.Key{wrappingJWK, encryptionJWK, signatureJWK}
				secrets := []*secret.Bytes{wrapKey, secret.Random(16), secret.Random(32)}
				var b mslenc.Builder
				for i, name := range []string{"wrapkey", "encryptionkey", "hmackey"} {
					under := own
					if i == 0 {
						under = below
					}
					wrapped, err := l.wrap(ctx, under, secrets[i], jwks[i])
					if i == place {
						wrapped, err = wrapText(ctx, l, under, garbage)
					}
					if err != nil {
						t.Fatal(err)
					}
					b.Binary(name, wrapped)
				}
				b.Binary("wrapdata", []byte{1})
				o, err := mslenc.Parse(b.Bytes())
				if err != nil {
					t.Fatal(err)
				}
				p := &pendingLadder{ladder: l, under: []*suite{below}}
				_, err = p.finish(ctx, o)
				want := int32(mslInvalidJWK)
				if place == 2 && strings.Contains(garbage, "HS256") {
					want = mslSessionKeyCreation // the right kind of key, of the wrong size
				}
				if numberOf(err) != want || codeOf(err) != wire.VerificationFailed {
					t.Errorf("%s: %q in place %d: %v", l.scheme, garbage, place, err)
				}
			}
		}
		if _, err := (&pendingLadder{ladder: l}).finish(ctx, object(t, `{"wrapkey":"AA==","wrapdata":"AA==","encryptionkey":"AA==","hmackey":"AA=="}`)); numberOf(err) != mslWrappingKeyMissing {
			t.Error(err)
		}
		long := strings.Repeat("AAAA", 1+maxWrapdata/3)
		if _, err := (&pendingLadder{ladder: l}).finish(ctx, object(t, `{"wrapkey":"AA==","wrapdata":"`+long+`","encryptionkey":"AA==","hmackey":"AA=="}`)); numberOf(err) != mslParseError {
			t.Error(err)
		}
	}
	p := newPeer(t, newAgent(t, nil)) // PSK without a wrapping key
	for _, scheme := range []string{schemeJWELadder, schemeJWKLadder} {
		for identity, code := range map[string]wire.Code{"psk-nowrap": wire.NotSupported, "nobody": wire.NoSuchKey} {
			if _, err := try[*wire.BeginExchangeReply](p, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: "PSK", Identity: identity}); !errors.Is(err, code) {
				t.Errorf("%s: %v", identity, err)
			}
		}
		if _, err := try[*wire.BeginExchangeReply](p, &wire.BeginExchangeRequest{Scheme: scheme, Mechanism: "MGK", Identity: "psk-client"}); !errors.Is(err, wire.NotSupported) {
			t.Error(err)
		}
	}
}

func object(t *testing.T, text string) mslenc.Object {
	t.Helper()
	o, err := mslenc.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func suiteOf(t *testing.T, key *secret.Bytes) *suite {
	t.Helper()
	s, err := wrapSuite(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wrapText wraps what is no key.
func wrapText(ctx context.Context, l ladder, under *suite, text string) ([]byte, error) {
	for len(text)%8 != 0 {
		text += " "
	}
	if l.jwe {
		x := jose.Context{Alg: jose.A128KW, Enc: jose.A128GCM, Wrapper: keyWrap{under}}
		return x.Wrap(ctx, []byte(text), false)
	}
	return under.wrap(ctx, []byte(text))
}

// TestLadderIsWiped: a wrapping key goes with its session.
func TestLadderIsWiped(t *testing.T) {
	p := newPeer(t, newAgent(t, nil))
	last := climb(t, p, schemeJWELadder, "PSK", wire.Handle{}, nil)
	e := p.sessions.acquire(last.device)
	key := secret.Reveal(e.value.keys.rung.key)
	p.sessions.release(e, 0, 0)
	if len(key) != wrapKeySize || bytes.Equal(key, make([]byte, wrapKeySize)) {
		t.Fatalf("the test does not know the key: %d bytes", len(key))
	}
	ask[*wire.ReleaseReply](t, p, &wire.ReleaseRequest{Handles: []wire.Handle{last.device}})
	if !bytes.Equal(key, make([]byte, wrapKeySize)) {
		t.Error("the wrapping key is still there")
	}
}
