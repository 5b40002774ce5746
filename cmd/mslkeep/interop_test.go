// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mslkeep/mslkeep/msl"
)

// The tests of this file are configured by examples/interop alone: its server, its client, and flags.

// importInterop runs the script of the example once, and returns the folder that it has made.
var importInterop = sync.OnceValues(func() (string, error) {
	to := filepath.Join(filepath.Dir(binaries), "interop")
	cmd := exec.Command("../../examples/interop/import.sh", to)
	cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("import.sh: %w\n%s", err, out)
	}
	return to, err
})

// interopWorld is a world with a folder server and a folder client.
func interopWorld(t *testing.T) *world {
	t.Helper()
	made, err := importInterop()
	if err == nil {
		err = openFolders()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "world")}
	if out, err := exec.Command("cp", "-a", made, w.dir).CombinedOutput(); err != nil {
		t.Fatalf("copying: %v\n%s", err, out)
	}
	return w
}

// interopServe starts the server on a port of its own.
func (w *world) interopServe(flags string, args ...string) *process {
	w.t.Helper()
	if !strings.Contains(flags, "--listen") {
		flags += " --listen 127.0.0.1:0"
	}
	return w.serve(append(strings.Fields(flags), args...)...)
}

// A guestBook is a service that knows who has sent what.
type guestBook struct {
	url     string
	mu      sync.Mutex
	senders map[string]string // entity|user, by the data that was sent
}

func newGuestBook(t *testing.T) *guestBook {
	g := &guestBook{senders: make(map[string]string)}
	service := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.senders[string(data)] = r.Header.Get("MSL-Entity") + "|" + r.Header.Get("MSL-User")
		g.mu.Unlock()
		rw.Write(data)
	}))
	t.Cleanup(service.Close)
	g.url = service.URL
	return g
}

// sender returns entity|user of data, or "" if it has not arrived.
func (g *guestBook) sender(data string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.senders[data]
}

// An interopEntity is a way for the client to authenticate.
type interopEntity struct {
	name, flags string
	identity    string // with PROVISIONED, what it begins with
	preShared   bool   // has a wrapping key
}

var interopEntities = []interopEntity{
	{"PSK", "--scheme PSK --identity psk-client", "psk-client", true},
	{"PSK_PROFILE", "--scheme PSK_PROFILE --identity psk-client --profile profile1", "psk-client-profile1", true},
	{"X509", "--scheme X509 --key-id x509-client --certificate ../public/x509-client.pem", "CN=x509-client,OU=Devices,O=MSL Test,C=US", false},
	{"RSA", "--scheme RSA --identity rsa-dev --key-id rsa-client-key", "rsa-dev", false},
	{"ECC", "--scheme ECC --identity ec-dev --key-id ec-client-key", "ec-dev", false},
	{"NONE", "--scheme NONE --identity none-dev", "none-dev", false},
	{"NONE_SUFFIXED", "--scheme NONE_SUFFIXED --identity root --suffix sfx", "root.sfx", false},
	{"PROVISIONED", "--scheme PROVISIONED", "provisioned-", false},
	{"MT_PROTECTED PSK", "--protected-by hiding --scheme PSK --identity psk-client2", "psk-client2", true},
	{"MT_PROTECTED PSK_PROFILE", "--protected-by hiding --scheme PSK_PROFILE --identity psk-client --profile profile1", "psk-client-profile1", true},
	{"MT_PROTECTED X509", "--protected-by hiding --scheme X509 --key-id x509-client --certificate ../public/x509-client.pem", "CN=x509-client,OU=Devices,O=MSL Test,C=US", false},
	{"MT_PROTECTED RSA", "--protected-by hiding --scheme RSA --identity rsa-dev --key-id rsa-client-key", "rsa-dev", false},
	{"MT_PROTECTED ECC", "--protected-by hiding --scheme ECC --identity ec-dev --key-id ec-client-key", "ec-dev", false},
	{"MT_PROTECTED NONE", "--protected-by hiding --scheme NONE --identity none-dev", "none-dev", false},
	{"MT_PROTECTED NONE_SUFFIXED", "--protected-by hiding --scheme NONE_SUFFIXED --identity root --suffix sfx", "root.sfx", false},
	{"PSK without a wrapping key", "--scheme PSK --identity psk-nowrap", "psk-nowrap", false},
}

// is reports whether a server that knows a sender as said knows this entity, and the user.
func (e *interopEntity) is(said, user string) bool {
	got, ok := strings.CutSuffix(said, "|"+user)
	if e.name == "PROVISIONED" {
		return ok && strings.HasPrefix(got, e.identity) && len(got) > len(e.identity)+20
	}
	return ok && got == e.identity
}

var interopExchanges = []string{
	"SYMMETRIC_WRAPPED/PSK", "JWE_LADDER/PSK", "JWE_LADDER/WRAP", "JWK_LADDER/PSK", "JWK_LADDER/WRAP",
	"DIFFIE_HELLMAN/dh2048", "DIFFIE_HELLMAN/dh768", "ASYMMETRIC_WRAPPED/JWE_RSA", "ASYMMETRIC_WRAPPED/JWEJS_RSA",
	"ASYMMETRIC_WRAPPED/JWK_RSA", "ASYMMETRIC_WRAPPED/JWK_RSAES", "ASYMMETRIC_WRAPPED/RSA",
}

// Users of the client: nobody, with a password, and with the user ID token that the password has brought.
const (
	asNobody   = ""
	asPassword = "--user me --email user1@example.com --password-file user1.password"
	asToken    = "--user me --user-from known"
)

// A refusal is how a combination fails.
type refusal struct {
	code   int
	err    error // in what either side says; nil if the client gives up before anybody is asked
	reason string
	late   bool // the data arrives, and the answer cannot be made: keys are exchanged in answers (§8.6)
}

// refused says how a combination fails, or nil.
func (e *interopEntity) refused(exchange, login string) *refusal {
	scheme, mechanism, _ := strings.Cut(exchange, "/")
	switch {
	case e.preShared || scheme == "DIFFIE_HELLMAN":
	case mechanism == "WRAP":
		return &refusal{code: exitFailure, err: nil, reason: "a ladder begins with pre-shared keys"}
	case mechanism == "PSK" && e.identity == "psk-nowrap":
		return &refusal{code: exitFailure, err: msl.UnwrapNotSupported, reason: "there is no wrapping key"}
	case mechanism == "PSK":
		return &refusal{code: exitFailure, err: msl.EntityNotFound, reason: "there are no pre-shared keys to wrap with"}
	}
	if e.name == "PROVISIONED" && login == asToken {
		return &refusal{code: exitRefused, err: msl.UserAuthEntityMismatch, reason: "the entity has a new name, and the user ID token belongs to the old one"}
	}
	return nil
}

// fails checks that sending data fails as r says, and whether the data arrives.
func (w *world) fails(r *refusal, s *process, book *guestBook, data string, args []string) {
	w.t.Helper()
	got := w.send("client", s, append(args, data)...)
	if got.code != r.code || (book.sender(data) != "") != r.late || r.err != nil && !strings.Contains(got.err+s.said.String(), r.err.Error()) {
		w.t.Errorf("%s: should fail with %v, since %s: exit code %d, %s", data, r.err, r.reason, got.code, got.err)
	}
}

// TestInteropCombinations has every kind of entity send on behalf of every kind of user with every key exchange, which is the
// only one that is offered. The server lets master tokens be renewed at once, so that both messages exchange keys: one under
// entity authentication data, one under a master token.
func TestInteropCombinations(t *testing.T) {
	t.Parallel()
	w := interopWorld(t)
	book := newGuestBook(t)
	s := w.interopServe("--master-token-renewal 1ms", "--upstream", book.url)
	w.daemon("client")
	for i, e := range interopEntities {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, dir: w.dir}
			known, hiding := fmt.Sprintf("known-%d", i), fmt.Sprintf("hiding-%d", i)
			if hidden := strings.Replace(e.flags, "hiding", hiding, 1); hidden != e.flags {
				w.send("client", s, "--store", hiding, "hello").ok(t)
				e.flags = hidden
			}
			w.send("client", s, append(strings.Fields(e.flags+" --key-exchange DIFFIE_HELLMAN/dh2048 --store "+known+" "+asPassword), "hello")...).ok(t)
			for _, exchange := range interopExchanges {
				for n, login := range []string{asNobody, asPassword, asToken} {
					c := combination{w, s, book, e, exchange, login, strings.Replace(e.flags+" "+login, "--user-from known", "--user-from "+known, 1)}
					c.try(fmt.Sprintf("ladder-%d-%d", i, n))
				}
			}
		})
	}
}

// A combination is one of TestInteropCombinations.
type combination struct {
	*world
	server          *process
	book            *guestBook
	entity          interopEntity
	exchange, login string
	flags           string
}

func (c *combination) try(store string) {
	c.t.Helper()
	args := append(strings.Fields(c.flags), "--key-exchange", c.exchange)
	text := fmt.Sprintf("%s, %s, user %q, message ", c.entity.name, c.exchange, c.login)
	if r := c.entity.refused(c.exchange, c.login); r != nil {
		c.fails(r, c.server, c.book, text+"0", args)
		return
	}
	if scheme, ok := strings.CutSuffix(c.exchange, "/WRAP"); ok {
		first := append(strings.Fields(c.entity.flags), "--store", store+scheme, "--key-exchange", scheme+"/PSK", "the ladder begins")
		c.send("client", c.server, first...).ok(c.t)
		args = append(args, "--store", store+scheme)
	}
	user := ""
	if c.login != asNobody {
		user = "user1"
	}
	for i, r := range c.lines(c.server, args, text+"1", text+"2") {
		said := c.book.sender(text + fmt.Sprint(i+1))
		if r.Error != "" || !r.Encrypted || !r.KeyExchange || i > 0 && !r.MasterToken || r.UserIDToken != (user != "") || !c.entity.is(said, user) {
			c.t.Errorf("%s%d: the server knows %q; %+v", text, i+1, said, r)
		}
	}
}

// lines has one client send each text as a message of its own.
func (w *world) lines(s *process, args []string, texts ...string) (reports []report) {
	w.t.Helper()
	args = w.sendArgs("client", s, append(args, "--lines", "--json"))
	out := execute(w.t.Context(), strings.NewReader(strings.Join(texts, "\n")), "mslkeep", args...).ok(w.t)
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var r report
		if err := d.Decode(&r); err != nil {
			w.t.Fatalf("%q: %v", out, err)
		}
		reports = append(reports, r)
	}
	if len(reports) != len(texts) {
		w.t.Fatalf("%d messages have %d answers", len(texts), len(reports))
	}
	return reports
}
