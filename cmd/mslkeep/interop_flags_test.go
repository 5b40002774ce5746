// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
)

// interopServers are the ways for the server to authenticate.
var interopServers = []struct{ scheme, flags string }{
	{"PSK", "--scheme PSK --identity psk-server"},
	{"PSK_PROFILE", "--scheme PSK_PROFILE --identity psk-server --profile profile1"},
	{"X509", "--scheme X509 --key-id x509-server --certificate ../public/x509-server.pem"},
	{"RSA", ""},
	{"ECC", "--scheme ECC --identity ec-srv --key-id ec-server-key"},
	{"NONE", "--scheme NONE --identity srv"},
	{"NONE_SUFFIXED", "--scheme NONE_SUFFIXED --identity srv --suffix sfx"},
}

// TestInteropSchemePairs has every kind of entity talk to every kind of server.
func TestInteropSchemePairs(t *testing.T) {
	t.Parallel()
	w := interopWorld(t)
	w.daemon("client")
	for _, as := range interopServers {
		t.Run(as.scheme, func(t *testing.T) {
			t.Parallel()
			w, book := &world{t: t, dir: w.dir}, newGuestBook(t)
			s := w.interopServe(as.flags, "--upstream", book.url)
			believe := []string{"--entity-schemes", as.scheme}
			hiding := "hiding-" + as.scheme
			w.send("client", s, append(believe, "--store", hiding, "hello")...).ok(t)
			for _, e := range interopEntities {
				args := append(strings.Fields(strings.Replace(e.flags, "hiding", hiding, 1)), believe...)
				exchange := "ASYMMETRIC_WRAPPED/JWE_RSA"
				if e.preShared {
					exchange = "SYMMETRIC_WRAPPED/PSK"
				}
				for i, r := range w.lines(s, append(args, "--key-exchange", exchange), e.name+" 1", e.name+" 2") {
					said := book.sender(fmt.Sprint(e.name, " ", i+1))
					if r.Error != "" || !r.Encrypted || r.KeyExchange != (i == 0) || i == 1 && !r.MasterToken || !e.is(said, "") {
						t.Errorf("%s, message %d: the server knows %q; %+v", e.name, i+1, said, r)
					}
				}
			}
			// A client that believes all others does not believe this one.
			others := strings.Split(strings.Replace(everyScheme, as.scheme+",", "", 1), ",")
			r := w.send("client", s, "--entity-schemes", strings.Join(others, ","), "hello")
			if len(others) != 8 || r.code != exitFailure || !strings.Contains(r.err, msl.EntityAuthFactoryNotFound.Error()) {
				t.Errorf("with %v: %+v", others, r)
			}
			s.stop()
		})
	}
}

// TestInteropRefused: what flags do not name is refused, and so is what no flag can allow.
func TestInteropRefused(t *testing.T) {
	t.Parallel()
	w, book := interopWorld(t), newGuestBook(t)
	w.daemon("client")
	open := w.interopServe("", "--upstream", book.url)
	const two = "SYMMETRIC_WRAPPED/PSK,ASYMMETRIC_WRAPPED/JWE_RSA"
	strict := w.interopServe("--entity-schemes PSK,RSA,MT_PROTECTED --user-schemes EMAIL_PASSWORD --key-exchange "+two, "--upstream", book.url)
	w.send("client", open, append(strings.Fields(asPassword), "--store", "hiding", "hello")...).ok(t)
	const rsa = "--scheme RSA --identity rsa-dev --key-id rsa-client-key"
	for _, allowed := range []string{
		"", rsa + " --key-exchange " + two, "--protected-by hiding " + rsa, "--protected-by hiding --scheme PSK --identity psk-client", asPassword,
	} {
		w.send("client", strict, append(strings.Fields(allowed), "hello")...).ok(t)
	}
	type row struct {
		server  *process
		flags   string
		refusal refusal
	}
	peer := func(err error, reason string) refusal { return refusal{code: exitRefused, err: err, reason: reason} }
	late := func(err error, reason string) refusal { return refusal{exitRefused, err, reason, true} }
	rows := []row{
		{strict, "--user me --user-from hiding", peer(msl.UserAuthFactoryNotFound, "the server names EMAIL_PASSWORD only")},
		{open, strings.Replace(asPassword, "user1.", "user2.", 1), peer(msl.EmailPasswordIncorrect, "the password is another's")},
		{open, "--scheme RSA --identity somebody --key-id rsa-client-key", peer(msl.IncorrectEntityAuthData, "the key is not somebody's")},
		{open, "--scheme NONE --identity psk-client", peer(msl.KeyxIncorrectData, "psk-client has pre-shared keys and does not show it")},
		{open, "--scheme NONE --identity revoked-entity", peer(msl.EntityRevoked, "it is revoked")},
		{open, "--key-exchange SYMMETRIC_WRAPPED/SESSION", refusal{code: exitConfig, reason: "a session has no wrapping key (§7.3)"}},
		{open, "--key-exchange ASYMMETRIC_WRAPPED/ECC", refusal{code: exitConfig, reason: "nobody ever specified it (§7.2)"}},
	}
	for _, e := range interopEntities {
		if !slices.Contains([]string{"PSK", "RSA", "MT_PROTECTED PSK", "MT_PROTECTED RSA", "PSK without a wrapping key"}, e.name) {
			rows = append(rows, row{strict, e.flags, peer(msl.EntityAuthFactoryNotFound, "the server names PSK, RSA and MT_PROTECTED only")})
		}
	}
	for _, exchange := range interopExchanges {
		if !strings.Contains(two, exchange) && !strings.Contains(exchange, "WRAP/") && !strings.HasSuffix(exchange, "/WRAP") && exchange != "ASYMMETRIC_WRAPPED/RSA" {
			rows = append(rows, row{strict, "--key-exchange " + exchange, late(msl.KeyxFactoryNotFound, "the server names two others")})
		}
	}
	for i, r := range rows {
		w.fails(&r.refusal, r.server, book, fmt.Sprintf("refused %d: %s", i, r.flags), strings.Fields(r.flags))
	}
	serve := func(code int, flags ...string) {
		w.mslkeep(append([]string{"serve", "--config", w.path("server/serve.toml"), "--listen", "127.0.0.1:0"}, flags...)...).oneLine(t, code)
	}
	serve(exitUsage, "--compression", "ZIP")
	serve(exitUsage, "--service-token", "no equals sign")
	serve(exitUsage, "--master-token-renewal", "-1s")
	serve(exitUsage, "--user-id-token-lifetime", "soon")
	serve(exitConfig, "--key-exchange", "SYMMETRIC_WRAPPED/SESSION")
	serve(exitConfig, "--key-exchange", "MAGIC")
	serve(exitConfig, "--scheme", "ECC", "--identity", "ec-srv", "--key-id", "ec-client-key")
	w.edit("server/serve.toml", "service-token-keys", "# service-token-keys")
	serve(exitConfig, "--service-token", "a=1")
}

// TestInteropPeers: peer-to-peer networks, over TCP and a unix socket. Both sides authenticate and exchange keys.
func TestInteropPeers(t *testing.T) {
	t.Parallel()
	w := interopWorld(t)
	p := w.interopServe("--peer-to-peer --listen tcp://127.0.0.1:0")
	w.send("client", p, "--config", w.path("client/send-peer.toml"), "--store", "hiding", "hello").ok(t) // with an agent of its own
	w.write("client/agent.toml", w.read("client/agent-peer.toml"))
	w.daemon("client")
	for _, as := range interopServers {
		t.Run(as.scheme, func(t *testing.T) {
			t.Parallel()
			w, book := &world{t: t, dir: w.dir}, newGuestBook(t)
			s := w.interopServe("--peer-to-peer --listen tcp://127.0.0.1:0 --listen unix:"+w.path("server", as.scheme)+" "+as.flags,
				"--upstream", book.url, "--service-token", "ticket@user=from the server")
			client := "--peer-to-peer --service-token ticket@entity=from-the-client --entity-schemes " + as.scheme + " "
			hiding := "hiding-" + as.scheme
			w.send("client", s, append(strings.Fields(client), "--store", hiding, "hello")...).ok(t)
			for i, e := range interopEntities {
				e.flags = strings.Replace(e.flags, "hiding", hiding, 1)
				w.peers(&process{url: s.urls[i%2]}, book, e, client)
			}
			for _, exchange := range interopExchanges {
				offers := exchange
				if scheme, ok := strings.CutSuffix(exchange, "/WRAP"); ok {
					offers += "," + scheme + "/PSK"
				}
				flags := client + "--key-exchange " + offers
				if strings.HasPrefix(as.scheme, "PSK") || strings.HasPrefix(exchange, "DIFFIE") || strings.HasPrefix(exchange, "ASYMMETRIC") {
					w.peers(s, book, interopEntities[0], flags)
				} else if r := w.send("client", s, append(strings.Fields(flags), "hello")...); r.code != exitFailure || !strings.Contains(r.err, msl.KeyxFactoryNotFound.Error()) {
					// A party accepts from the other what it offers itself, and this one has no pre-shared keys.
					t.Errorf("%s: %+v", exchange, r)
				}
			}
		})
	}
}

// peers sends as one party to another, in a session.
func (w *world) peers(s *process, book *guestBook, e interopEntity, flags string) {
	w.t.Helper()
	data := func(i int) string { return fmt.Sprint(e.name, flags, i) }
	for i, r := range w.lines(s, strings.Fields(flags+" "+e.flags+" "+asPassword), data(0), data(1)) {
		said := book.sender(data(i))
		if r.Error != "" || !r.Encrypted || !r.UserIDToken || i == 0 && !r.KeyExchange || i == 1 && (!r.MasterToken || r.ServiceTokens == 0) || !e.is(said, "user1") {
			w.t.Errorf("%s %s, message %d: the server knows %q; %+v", e.name, flags, i, said, r)
		}
	}
}

// TestInteropFlags: service tokens, times and compression are as flags say, over HTTP and TCP at once.
func TestInteropFlags(t *testing.T) {
	t.Parallel()
	w := interopWorld(t)
	w.daemon("client")
	s := w.interopServe("--listen 127.0.0.1:0 --listen tcp://127.0.0.1:0 --service-token a=1 --service-token secure@entity=2 --service-token c@user=3" +
		" --master-token-renewal 90s --master-token-lifetime 1h --user-id-token-renewal 100s --user-id-token-lifetime 2h")
	for i, url := range s.urls {
		p, store := &process{url: url}, fmt.Sprint("store-", i)
		user := w.lines(p, append(strings.Fields(asPassword), "--store", store), "1", "2")
		nobody := w.lines(p, nil, "1", "2")
		if user[1].ServiceTokens != 3 || nobody[1].ServiceTokens != 2 || user[1].KeyExchange || !user[1].MasterToken {
			t.Errorf("%s: %+v, %+v", url, user, nobody)
		}
		kept := decoded[struct {
			MasterToken  []byte
			UserIDTokens map[string][]byte
		}](t, w.read("client/"+store))
		for _, token := range []struct {
			encoded           []byte
			renewal, lifetime time.Duration
		}{{kept.MasterToken, 90 * time.Second, time.Hour}, {kept.UserIDTokens["me"], 100 * time.Second, 2 * time.Hour}} {
			data := decoded[struct{ TokenData []byte }](t, string(token.encoded)).TokenData
			times := decoded[struct{ RenewalWindow, Expiration int64 }](t, string(data))
			left := time.Until(time.Unix(times.Expiration, 0))
			if times.Expiration-times.RenewalWindow != int64((token.lifetime-token.renewal)/time.Second) || left > token.lifetime || left < token.lifetime-2*patience {
				t.Errorf("%s: a token that expires in %v: %+v", url, left, times)
			}
		}
	}
	// An answer without data deletes a token. The client shows again what it has kept, and the server echoes it.
	gone := w.interopServe("--service-token a=")
	p := append(strings.Fields(asPassword), "--store", "store-0")
	w.lines(gone, p, "1")
	if r := w.lines(w.interopServe(""), p, "1"); r[0].ServiceTokens != 2 {
		t.Errorf("a service token was not deleted: %+v", r)
	}

	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintln(&text, "line", i)
	}
	w.write("text", text.String())
	size := make(map[string]int64)
	for _, algorithm := range []string{"NONE", "GZIP", "LZW"} {
		proxy, bytes := measuring(t, w.interopServe("--compression "+algorithm))
		if out := w.send("client", proxy, "--file", w.path("text"), "--compression", "NONE").ok(t); out != text.String() {
			t.Errorf("%s: %d bytes became %d", algorithm, text.Len(), len(out))
		}
		size[algorithm] = *bytes
	}
	if size["NONE"] < int64(text.Len()) || size["LZW"] > size["NONE"]/2 || size["GZIP"] > size["LZW"]*99/100 {
		t.Errorf("answers have %v bytes", size)
	}
}

// measuring passes messages on to a server, and counts the bytes of its answers.
func measuring(t *testing.T, to *process) (*process, *int64) {
	n := new(int64)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer, err := http.Post(to.url, r.Header.Get("Content-Type"), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		copied, _ := io.Copy(rw, answer.Body)
		*n += copied
	}))
	t.Cleanup(proxy.Close)
	return &process{url: proxy.URL}, n
}
