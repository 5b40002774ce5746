// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

func exchangesNamed(names string) (k []msl.KeyExchange) {
	for _, name := range strings.Fields(names) {
		scheme, mechanism, _ := strings.Cut(name, "/")
		k = append(k, msl.KeyExchange{Scheme: scheme, Mechanism: mechanism})
	}
	return k
}

// everyExchange is all key exchanges, as a server may prefer them.
const everyExchange = "JWE_LADDER/WRAP JWE_LADDER/PSK JWK_LADDER/WRAP JWK_LADDER/PSK SYMMETRIC_WRAPPED/PSK DIFFIE_HELLMAN/dh2048 DIFFIE_HELLMAN/dh768 " +
	"ASYMMETRIC_WRAPPED/JWE_RSA ASYMMETRIC_WRAPPED/JWK_RSA ASYMMETRIC_WRAPPED/JWEJS_RSA ASYMMETRIC_WRAPPED/RSA ASYMMETRIC_WRAPPED/JWK_RSAES"

// issuing notes which key requests a server answers.
type issuing struct {
	msl.ServerKeys
	answered []string // scheme/mechanism
}

func (k *issuing) IssueMasterToken(ctx context.Context, r *msl.IssueRequest) (*msl.Issued, error) {
	issued, err := k.ServerKeys.IssueMasterToken(ctx, r)
	if err != nil {
		return nil, err
	}
	o, _ := mslenc.Parse(r.KeyData)
	for _, member := range []string{"mechanism", "keyid", "parametersid"} {
		if s, err := o.String(member); err == nil {
			k.answered = append(k.answered, r.Scheme+"/"+s)
		}
	}
	return issued, nil
}

// renewingWorld is a world with every key exchange, in which each message renews the master token.
func renewingWorld(t testing.TB) (*world, *issuing) {
	w := newWorld(t)
	keys := &issuing{ServerKeys: w.keys}
	w.keys = keys
	w.config.KeyExchanges = exchangesNamed(everyExchange)
	w.config.MasterTokenRenewal = time.Nanosecond
	return w, keys
}

// TestLadders: a client goes on from the exchange before where it can, begins anew where it cannot, and never
// needs to know more than the configuration says (§7.5, §7.6, behaviour 84).
func TestLadders(t *testing.T) {
	for _, scheme := range []string{"JWE_LADDER", "JWK_LADDER"} {
		w, keys := renewingWorld(t)
		policy := &oncePolicy{MemoryPolicy: msl.NewMemoryPolicy(w.config)}
		w.config.Policy = policy
		w.client.KeyExchanges = exchangesNamed(scheme + "/WRAP " + scheme + "/PSK")
		store := new(msl.MemoryStore)
		client := w.newClient(store)
		expect := func(what, mechanism string) {
			t.Helper()
			w.mustSay(client, msl.Request{}, what)
			if want := scheme + "/" + mechanism; len(keys.answered) != 1 || keys.answered[0] != want {
				t.Errorf("%s: answered %v, want %s", what, keys.answered, want)
			}
			keys.answered = nil
		}
		expect("the first message", "PSK")
		expect("the second", "WRAP")
		expect("the third", "WRAP")
		client.Close()
		client = w.newClient(store)
		expect("after a close", "WRAP")
		policy.master.Store(uint32(msl.MasterTokenIdentityRevoked))
		expect("without its token", "WRAP") // the request was made while it was there
		expect("after that", "WRAP")
		client.Close()

		// Offered alone, it needs a session that came from the same scheme.
		w.client.KeyExchanges = exchangesNamed(scheme + "/WRAP")
		client = w.newClient(store)
		expect("alone", "WRAP")
		client.Close()
		client = w.newClient(nil)
		if _, _, err := say(client, msl.Request{RequestTokens: true}, "x"); err == nil {
			t.Error("there was nothing to go on from")
		}
		client.Close()

		// A ladder ends where another exchange comes between.
		w.client.KeyExchanges = exchangesNamed("SYMMETRIC_WRAPPED/PSK")
		client = w.newClient(store)
		w.mustSay(client, msl.Request{}, "another exchange")
		client.Close()
		keys.answered = nil
		w.client.KeyExchanges = exchangesNamed(scheme + "/WRAP " + scheme + "/PSK")
		client = w.newClient(store)
		expect("after another exchange", "PSK")
		client.Close()
	}
}

// TestLadderThatServerRefuses: wrapdata that a server cannot open is passed over for the pre-shared key.
func TestLadderThatServerRefuses(t *testing.T) {
	w, keys := renewingWorld(t)
	w.client.KeyExchanges = exchangesNamed("JWK_LADDER/WRAP JWK_LADDER/PSK")
	client := w.newClient(nil)
	defer client.Close()
	w.mustSay(client, msl.Request{}, "hello")
	inner := keys.ServerKeys
	keys.ServerKeys = refusing{inner}
	keys.answered = nil
	w.mustSay(client, msl.Request{}, "hello again")
	if !slices.Equal(keys.answered, []string{"JWK_LADDER/PSK"}) {
		t.Errorf("answered %v", keys.answered)
	}
}

// refusing does not open wrapdata.
type refusing struct{ msl.ServerKeys }

func (r refusing) IssueMasterToken(ctx context.Context, req *msl.IssueRequest) (*msl.Issued, error) {
	if bytes.Contains(req.KeyData, []byte(`"WRAP"`)) {
		changed := *req
		changed.KeyData = []byte(`{"mechanism":"WRAP","wrapdata":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"}`)
		req = &changed
	}
	return r.ServerKeys.IssueMasterToken(ctx, req)
}

// TestDefaultKeyExchanges: what is offered and accepted where nothing is named.
func TestDefaultKeyExchanges(t *testing.T) {
	for _, x := range []struct{ offered, want string }{
		{"", "SYMMETRIC_WRAPPED/PSK"}, {"JWK_LADDER/WRAP JWK_LADDER/PSK", "JWK_LADDER/PSK"}, {"JWE_LADDER/PSK", "JWE_LADDER/PSK"},
		{"ASYMMETRIC_WRAPPED/JWEJS_RSA", "ASYMMETRIC_WRAPPED/JWEJS_RSA"}, {"DIFFIE_HELLMAN/dh2048", ""}, {"ASYMMETRIC_WRAPPED/JWK_RSAES", ""},
	} {
		w := newWorld(t)
		keys := &issuing{ServerKeys: w.keys}
		w.keys = keys
		w.client.KeyExchanges = exchangesNamed(x.offered)
		client := w.newClient(nil)
		_, _, err := say(client, msl.Request{}, "hello")
		if (err == nil) != (x.want != "") || err == nil && !slices.Equal(keys.answered, []string{x.want}) {
			t.Errorf("%s: answered %v, %v", x.offered, keys.answered, err)
		}
		client.Close()
	}
	for _, bad := range []string{"DIFFIE_HELLMAN/", "JWE_LADDER/MGK", "JWK_LADDER/", "AUTHENTICATED_DH/x"} {
		w := newWorld(t)
		w.client.KeyExchanges = exchangesNamed(bad)
		if _, err := msl.NewClient(w.client, inproc.Agent(t), w, nil); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestTamperKeyExchange flips bytes of messages that exchange keys, of both sides, for the first master token
// and for its renewal. Nothing may come through changed, wrapdata and public numbers included.
func TestTamperKeyExchange(t *testing.T) {
	for _, x := range []struct {
		entity    msl.EntityAuthData
		exchanges string
		step      int
	}{
		{msl.PSK("psk-client"), "SYMMETRIC_WRAPPED/PSK", 7},
		{msl.PSK("psk-client"), "JWE_LADDER/WRAP JWE_LADDER/PSK", 11},
		{msl.PSK("psk-client"), "JWK_LADDER/WRAP JWK_LADDER/PSK", 7},
		{msl.PSK("psk-client"), "DIFFIE_HELLMAN/dh768", 11},
		{msl.RSA("rsa-client", "rsa-client-key"), "DIFFIE_HELLMAN/dh768", 13},
		{msl.RSA("rsa-client", "rsa-client-key"), "ASYMMETRIC_WRAPPED/JWE_RSA", 29},
	} {
		t.Run(fmt.Sprint(x.entity.Scheme, " ", x.exchanges), func(t *testing.T) {
			w, _ := renewingWorld(t)
			w.client.Entity, w.client.KeyExchanges = x.entity, exchangesNamed(x.exchanges)
			client := w.newClient(nil)
			defer client.Close()
			for _, what := range []string{"the first message", "a renewal"} {
				w.tamperAnswers(client, x.step, what)
				w.count()
				if r := w.mustSay(client, msl.Request{}, "hello"); !r.Exchanged {
					t.Fatalf("%s exchanged no keys", what)
				}
				request := w.requests[0]
				for i := 0; i < len(request); i += x.step {
					changed := bytes.Clone(request)
					changed[i] ^= 1
					var answer bytes.Buffer
					err := w.server.ServeExchange(t.Context(), bytes.NewReader(changed), &answer)
					if err == nil && !sameButSpace(request, changed, i) {
						t.Errorf("byte %d of %s (%q to %q) was changed and nobody noticed", i, what, request[i], changed[i])
					}
				}
			}
		})
	}
}

// tamperAnswers flips bytes of answers to client, each of which must fail.
func (w *world) tamperAnswers(client *msl.Client, step int, what string) {
	length := 1
	for i := 0; i < length; i += step {
		w.mangle = func(n int, answer []byte) []byte {
			length = len(answer)
			changed := bytes.Clone(answer)
			changed[min(i, len(answer)-1)] ^= 1
			if sameButSpace(answer, changed, min(i, len(answer)-1)) {
				changed[0] ^= 1
			}
			return changed
		}
		if got, _, err := say(client, msl.Request{}, "hello"); err == nil {
			w.t.Errorf("byte %d of the answer to %s was changed and the client heard %q", i, what, got)
		}
	}
	w.mangle = nil
}

// FuzzKeyExchange parses key requests and responses; what is accepted travels on unchanged.
func FuzzKeyExchange(f *testing.F) {
	for _, c := range msltest.Cases(f, "keyx.json") {
		for _, name := range []string{"document", "request", "response"} {
			if d := c.Bytes(name); d != nil {
				f.Add(d)
			}
		}
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		if r, err := msl.ParseKeyRequest(encoded); err == nil {
			again, err := msl.ParseKeyRequest(r.EncodeForTest())
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v came back as %+v, %v", r, again, err)
			}
		} else if msl.CodeOf(err).Name() == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if r, err := msl.ParseKeyResponse(encoded); err == nil {
			again, err := msl.ParseKeyResponse(r.EncodeForTest())
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v came back as %+v, %v", r, again, err)
			}
		}
	})
}
