// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

const (
	vaultTalkers = 32 // clients with a session
	vaultComers  = 8  // who make one session after the other, each time as another of the entities
	vaultRecords = 64
	swapped      = "entity-swapped" // its record is another's
)

// A vaultLoad is what a system has to do while things happen to Vault, which has the key of all its entities' records: clients
// with sessions, which must notice nothing; others that come anew, each of which needs its record unwrapped; and one whose
// record is another's, who must never be let in.
type vaultLoad struct {
	*deployment
	front *front
	fleet *fleet

	running  sync.WaitGroup
	stop     atomic.Bool
	phase    atomic.Int64 // odd while Vault may be away
	messages atomic.Int64 // of established sessions
	sessions atomic.Int64 // new ones
	refused  atomic.Int64 // new ones that failed as they may
	shut     atomic.Int64 // of the one who is never let in
}

// newVaultLoad makes a server whose agent holds no more than one record open.
func newVaultLoad(t *testing.T) *vaultLoad {
	t.Helper()
	f := &deployment{vault: vaulttest.Start(t, vaulttest.Options{Storage: t.TempDir()})}
	l := &vaultLoad{deployment: f, front: newFront(t, f.vault.Address)}
	f.front = l.front.URL
	f.system = newSystem(t, 10*time.Second, "[limits]\nrecords = 1\n")
	f.makeHSMKeys()
	f.openVault()
	f.importRecords(func(int, []byte) {})
	key := f.givesKeys(vaultRecords+1, func(i int) string {
		if i == vaultRecords {
			return swapped
		}
		return entityName(i)
	})
	var lines strings.Builder
	for i := range vaultRecords {
		fmt.Fprintf(&lines, "%s,%s\n", entityName(i), key)
	}
	write(t, f.path("entities.csv"), lines.String())
	f.run("mslkeep", "entities", "import", "--config", f.path("server/full.toml"), f.path("entities.csv"))
	one := strings.TrimSpace(f.run("mslkeep", "entities", "export", "--config", f.path("server/full.toml"), "--prefix", entityName(1)))
	write(t, f.path("swapped.jsonl"), strings.Replace(one, entityName(1), swapped, 1)+"\n")
	f.run("mslkeep", "entities", "import", "--config", f.path("server/full.toml"), "--records", f.path("swapped.jsonl"))
	f.agent = f.serveAs("server/full.toml")
	l.fleet = f.newFleet()
	return l
}

// client makes a client of an entity, without tokens.
func (l *vaultLoad) client(identity string) *msl.Client {
	own, config := *l.fleet, *l.fleet.config
	config.Entity = msl.PSK(identity)
	own.config = &config
	return own.client(l.t)
}

// begin makes a new session of an entity.
func (l *vaultLoad) begin(identity string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := l.client(identity)
	defer c.Close()
	return say(ctx, c, []byte("hello"))
}

func (l *vaultLoad) start() {
	for i := range vaultTalkers {
		c := l.client(entityName(i))
		if err := say(l.t.Context(), c, []byte("hello")); err != nil {
			l.t.Fatalf("client %d: %v", i, err)
		}
		l.running.Go(func() { l.talk(c) })
	}
	for i := range vaultComers {
		l.running.Go(func() { l.come(i) })
	}
	l.running.Go(l.intrude)
	l.t.Cleanup(l.end)
	l.proceed("before anything happens")
}

func (l *vaultLoad) end() {
	l.stop.Store(true)
	l.running.Wait()
}

// talk sends messages of an established session, all of which must succeed.
func (l *vaultLoad) talk(c *msl.Client) {
	defer c.Close()
	for ; !l.stop.Load(); time.Sleep(2 * pace) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		exchanged, err := exchange(ctx, c, []byte("hello again"))
		cancel()
		if err != nil || exchanged {
			l.t.Errorf("an established session: %v, exchanged keys: %v", err, exchanged)
			return
		}
		l.messages.Add(1)
	}
}

// come makes new sessions. They may fail only while Vault is away, and only so that the client may try again.
func (l *vaultLoad) come(i int) {
	for ; !l.stop.Load(); time.Sleep(pace) {
		i = (i + vaultComers) % vaultRecords
		phase := l.phase.Load()
		err := l.begin(entityName(i))
		calm := phase%2 == 0 && phase == l.phase.Load()
		switch {
		case err == nil:
			l.sessions.Add(1)
		case transient(err) && !calm:
			l.refused.Add(1)
		default:
			l.t.Errorf("a new session, while Vault is there: %v: %v", calm, err)
			return
		}
	}
}

// intrude tries to make a session with a record that is another's, beside those whose records go to Vault with it.
func (l *vaultLoad) intrude() {
	for ; !l.stop.Load(); time.Sleep(pace) {
		phase := l.phase.Load()
		err := l.begin(swapped)
		calm := phase%2 == 0 && phase == l.phase.Load()
		if err == nil || calm && transient(err) {
			l.t.Errorf("with another's record: %v", err)
			return
		}
		l.shut.Add(1)
	}
}

// proceed waits until a number of new sessions were made, and each client could have sent something.
func (l *vaultLoad) proceed(when string) {
	l.t.Helper()
	sessions, messages, shut := l.sessions.Load(), l.messages.Load(), l.shut.Load()
	eventually(l.t, when+": new sessions, messages", func() bool {
		return l.t.Failed() || l.sessions.Load() >= sessions+2*vaultComers && l.messages.Load() >= messages+vaultTalkers && l.shut.Load() >= shut+2
	})
	if l.t.Failed() {
		l.t.FailNow()
	}
}

// outage does something that keeps new sessions from being made, waits until some have been refused for a second, and
// ends it.
func (l *vaultLoad) outage(what string, begin, end func()) {
	l.t.Helper()
	l.phase.Add(1)
	began, refused, messages := time.Now(), l.refused.Load(), l.messages.Load()
	begin()
	eventually(l.t, what+": its signs", func() bool {
		return l.refused.Load() >= refused+2*vaultComers && l.messages.Load() >= messages+vaultTalkers && time.Since(began) > time.Second
	})
	end()
	over := time.Now()
	for good := 0; good < 3; { // in a row
		good++
		if err := l.begin(entityName(good)); err != nil {
			if good = 0; !transient(err) || time.Since(over) > patience {
				l.t.Fatalf("%s: %v after its end: %v", what, time.Since(over), err)
			}
		}
	}
	l.t.Logf("%-40s for %5.2f s, %4d refused; three new sessions %5.2f s after its end", what, over.Sub(began).Seconds(), l.refused.Load()-refused, time.Since(over).Seconds())
	// Who was asked while it lasted may answer yet.
	time.Sleep(200 * time.Millisecond)
	eventually(l.t, what+": no more are refused", func() bool {
		before := l.refused.Load()
		time.Sleep(300 * time.Millisecond)
		return l.refused.Load() == before
	})
	l.phase.Add(1)
	l.proceed("after: " + what)
}

// quiet does something that nobody may notice.
func (l *vaultLoad) quiet(what string, do func()) {
	l.t.Helper()
	do()
	l.proceed(what)
}

// TestVaultComesAndGoes: whatever happens to Vault while clients send, their sessions go on; new ones are refused with a
// transient error while it is away, and made again when it is back; a record that is another's is refused all the time and
// hinders nobody; and no secret is in what server and agent have said.
func TestVaultComesAndGoes(t *testing.T) {
	needBackEnds(t)
	l := newVaultLoad(t)
	l.start()
	v := l.vault
	revoke := func() { v.Do("PUT", "sys/leases/revoke-prefix/auth/approle/login", "", nil) }
	var secrets []string
	secretID := func() string {
		var out struct {
			Data struct {
				ID string `json:"secret_id"`
			}
		}
		v.Do("POST", "auth/approle/role/mslkeep/secret-id", "{}", &out)
		return out.Data.ID
	}

	l.outage("Vault is sealed", v.Seal, v.Unseal)
	l.outage("Vault has ended, and starts sealed", v.Stop, func() { v.Restart(); v.Unseal() })
	l.outage("Vault does not answer", func() { l.front.slow.Store(true) }, func() { l.front.slow.Store(false); l.front.CloseClientConnections() })
	l.outage("Vault limits requests (429)", func() {
		v.Do("POST", "sys/quotas/rate-limit/few", `{"path":"transit","rate":1,"interval":"1m"}`, nil)
	}, func() { v.Do("DELETE", "sys/quotas/rate-limit/few", "", nil) })
	l.outage("503 in front of Vault", func() { l.front.status.Store(http.StatusServiceUnavailable) }, func() { l.front.status.Store(0) })
	l.outage("token and secret id are revoked", func() {
		id, err := os.ReadFile(l.path("server/secret-id"))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, string(id))
		v.Do("POST", "auth/approle/role/mslkeep/secret-id/destroy", fmt.Sprintf(`{"secret_id":%q}`, id), nil)
		revoke()
	}, func() {
		id := secretID()
		secrets = append(secrets, id)
		write(t, l.path("server/secret-id"), id)
	})
	l.quiet("the token is revoked", revoke)
	l.quiet("the key is rotated, all is wrapped anew, and the old version withdrawn", func() {
		v.Do("POST", "transit/keys/entities/rotate", "{}", nil)
		all := l.rewrap()
		if want := records + vaultRecords; all.Sealed != want || all.Damaged != 1 || all.Newest != 0 {
			t.Errorf("wrapped anew: %+v", all)
		}
		v.Do("POST", "transit/keys/entities/config", `{"min_decryption_version":2}`, nil)
	})
	l.end()
	t.Logf("%d messages of %d clients; %d new sessions, %d refused; %d attempts with another's record", l.messages.Load(), vaultTalkers,
		l.sessions.Load(), l.refused.Load(), l.shut.Load())
	for _, k := range l.keys {
		if strings.HasPrefix(k.Label, "vault ") || strings.HasPrefix(k.Label, "hsm PIN") {
			secrets = append(secrets, string(k.Bytes))
		}
	}
	for _, s := range append(secrets, "hvs.", "vault:v") {
		if strings.Contains(l.server.said.String(), s) {
			t.Errorf("what server and agent say has a secret that begins with %.8q", s)
		}
	}
}

// A rewrapping is what rewrap says of itself.
type rewrapping struct{ Sealed, Newest, Changed, Damaged int }

// rewrap wraps all records anew, one of which cannot be.
func (l *vaultLoad) rewrap() (all rewrapping) {
	l.t.Helper()
	out, err := exec.Command(tool(l.t, "mslkeep"), "entities", "rewrap", "--json", "--config", l.path("server/full.toml")).Output()
	if err == nil || json.Unmarshal(out, &all) != nil {
		l.t.Fatalf("rewrap: %v, %s", err, out)
	}
	return all
}
