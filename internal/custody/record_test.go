// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// recordAgent has a wrapping key of records.
func recordAgent(t *testing.T) (*Agent, *software.Provider) {
	t.Helper()
	keys := fixtureProvider(t)
	if _, err := keys.Generate(t.Context(), "records", providers.AES256); err != nil {
		t.Fatal(err)
	}
	return newAgent(t, func(c *Config) { c.Provider, c.RecordKey = keys, "records" }), keys
}

// imported imports lines, a few at a time.
func imported(t *testing.T, p *Peer, format string, skip uint64, lines ...string) (records map[string][]byte, bad []uint64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "entities")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	opened := ask[*wire.OpenImportReply](t, p, &wire.OpenImportRequest{Path: path, Format: format, Skip: skip})
	records = make(map[string][]byte)
	for done := false; !done; {
		r := ask[*wire.ReadImportReply](t, p, &wire.ReadImportRequest{Import: opened.Import, Lines: 3})
		for _, e := range r.Entities {
			records[e.Identity] = e.Record
		}
		for _, b := range r.Bad {
			bad = append(bad, b.Line)
		}
		done = r.Done
	}
	ask[*wire.ReleaseReply](t, p, &wire.ReleaseRequest{Handles: []wire.Handle{opened.Import}})
	if _, err := try[*wire.ReadImportReply](p, &wire.ReadImportRequest{Import: opened.Import, Lines: 1}); !errors.Is(err, wire.StaleHandle) {
		t.Errorf("after release: %v", err)
	}
	return records, bad
}

var testPSK = strings.Repeat("0123456789abcdef", 6) // 48 bytes in hex

func TestImportRecords(t *testing.T) {
	a, _ := recordAgent(t)
	p := newPeer(t, a)
	lines := []string{"identity,key", "a," + testPSK, "", "# nothing", " b , " + testPSK + testPSK[:32], "c", "d,00", "e," + testPSK + ",f", "f,\"" + testPSK + "\"", "," + testPSK, "g," + testPSK}
	records, bad := imported(t, p, "csv", 0, lines...)
	if len(records) != 3 || records["a"] == nil || records["b"] == nil || records["g"] == nil || !slices.Equal(bad, []uint64{6, 7, 8, 9, 10}) {
		t.Errorf("%d records, bad lines %v", len(records), bad)
	}
	if records, bad := imported(t, p, "csv", 6, lines...); len(records) != 1 || len(bad) != 4 {
		t.Errorf("after six lines: %d records, bad lines %v", len(records), bad)
	}
	records, bad = imported(t, p, "jsonl", 0, `{"identity":"a,b","key":"`+testPSK+`","more":1}`, `{"identity":"c"}`, `{"identity":1,"key":"`+testPSK+`"}`, `[]`, strings.Repeat(" ", 70<<10), `{}`)
	if len(records) != 1 || records["a,b"] == nil || !slices.Equal(bad, []uint64{2, 3, 4, 5}) {
		t.Errorf("%d records, bad lines %v", len(records), bad)
	}
	for text, want := range map[string]int{testPSK: 1, "\n" + testPSK + "\n\n": 1, testPSK + "\n" + testPSK: 2, "": 0, "x," + testPSK: 1} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		opened := ask[*wire.OpenImportReply](t, p, &wire.OpenImportRequest{Path: path, Identity: "x,y"})
		r := ask[*wire.ReadImportReply](t, p, &wire.ReadImportRequest{Import: opened.Import, Lines: 9})
		if len(r.Entities)+len(r.Bad) != want || len(r.Entities) > 0 && r.Entities[0].Identity != "x,y" || !r.Done {
			t.Errorf("%q: %d entities, bad lines %v", text, len(r.Entities), r.Bad)
		}
	}
	raw, _ := hex.DecodeString(testPSK)
	for _, r := range records {
		if bytes.Contains(r, raw[:16]) {
			t.Error("a record holds a key")
		}
	}
	for _, r := range []*wire.OpenImportRequest{{Path: "/", Format: "csv"}, {Path: "/nowhere", Format: "csv"}, {Path: "-", Format: "csv"}, {Path: "/dev/null", Format: "xml"}, {Path: "/dev/null"},
		{Path: "/dev/null", Format: "csv", Identity: "a"}, {Path: "/dev/null", Identity: "a", Skip: 1}} {
		if _, err := try[*wire.OpenImportReply](p, r); err == nil {
			t.Errorf("%+v is imported", r)
		}
	}
}

// entityFrom returns what opens under the keys of a record.
func entityFrom(p *Peer, identity string, record []byte) (*wire.EntityContextReply, error) {
	return try[*wire.EntityContextReply](p, &wire.EntityContextRequest{Scheme: "PSK", Identity: identity, Record: record})
}

// TestRecords: a record does what the keys do that were imported as such, for its own identity and no other, as long as
// not one bit of it changes.
func TestRecords(t *testing.T) {
	a, keys := recordAgent(t)
	p := newPeer(t, a)
	records, _ := imported(t, p, "csv", 0, "a,"+testPSK, "b,"+testPSK)
	raw, _ := hex.DecodeString(testPSK)
	wrap := deriveWrappingKey(raw)
	importSet(t, keys, "psk/plain", hexKeys{EncryptionKey: testPSK[:32], HMACKey: testPSK[32:], WrappingKey: hex.EncodeToString(wrap)})
	plain := ask[*wire.EntityContextReply](t, p, &wire.EntityContextRequest{Scheme: "PSK", Identity: "plain"})
	sealed := ask[*wire.SealReply](t, p, &wire.SealRequest{Context: plain.Context, Plain: [][]byte{[]byte("header")}})
	entity, err := entityFrom(p, "a", records["a"])
	if err != nil {
		t.Fatal(err)
	}
	opened := ask[*wire.OpenReply](t, p, &wire.OpenRequest{Context: entity.Context, Parts: sealed.Parts})
	if opened.FailedPart != -1 || string(opened.Plain[0]) != "header" {
		t.Error("what the same keys have sealed does not open")
	}
	before := a.usesOf("records", 1).Load()
	for range 100 {
		if _, err := entityFrom(p, "a", records["a"]); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.usesOf("records", 1).Load() - before; n != 0 {
		t.Errorf("an opened record was opened %d times again", n)
	}
	for identity, record := range map[string][]byte{"b": records["a"], "a": records["b"], "": records["a"], "c": records["a"]} {
		if _, err := entityFrom(p, identity, record); !errors.Is(err, wire.VerificationFailed) {
			t.Errorf("another's record for %q: %v", identity, err)
		}
	}
	for i := range records["a"] {
		changed := slices.Clone(records["a"])
		changed[i] ^= 1 << rand.IntN(8)
		if _, err := entityFrom(p, "a", changed); !errors.Is(err, wire.VerificationFailed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := entityFrom(p, "a", records["a"][:max(i, 1)]); !errors.Is(err, wire.VerificationFailed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := try[*wire.IssueReply](p, &wire.IssueRequest{Scheme: "SYMMETRIC_WRAPPED", KeyData: []byte(`{"keyid":"PSK"}`), Identity: "a", Record: records["a"]}); !errors.Is(err, wire.Denied) {
		t.Errorf("a token without the use of the keys: %v", err)
	}
	for _, scheme := range []struct{ name, keyData string }{{"SYMMETRIC_WRAPPED", `{"keyid":"PSK"}`}, {"JWE_LADDER", `{"mechanism":"PSK"}`}, {"JWK_LADDER", `{"mechanism":"PSK"}`}} {
		ask[*wire.IssueReply](t, p, &wire.IssueRequest{Scheme: scheme.name, KeyData: []byte(scheme.keyData), Entity: entity.Context, Record: records["a"], Expiration: 1})
	}
}

// TestRewrap: after a rotation records are sealed under the new version, those of the old still open, and one that is
// damaged does not hinder the others.
func TestRewrap(t *testing.T) {
	a, keys := recordAgent(t)
	p := newPeer(t, a)
	lines := make([]string, 200)
	for i := range lines {
		lines[i] = fmt.Sprintf("e%d,%s", i, testPSK)
	}
	records, _ := imported(t, p, "csv", 0, lines...)
	if _, err := keys.Rotate(t.Context(), "records"); err != nil {
		t.Fatal(err)
	}
	records["e7"][40] ^= 1
	req := new(wire.RewrapRequest)
	for identity, record := range records {
		req.Entities = append(req.Entities, wire.Entity{Identity: identity, Record: record})
	}
	r := ask[*wire.RewrapReply](t, p, req)
	again := ask[*wire.RewrapReply](t, p, &wire.RewrapRequest{Entities: r.Entities})
	for i, e := range r.Entities {
		if e.Identity != req.Entities[i].Identity {
			t.Fatal("in another order")
		}
		if e.Identity == "e7" {
			if len(e.Record) != 0 {
				t.Error("a damaged record is sealed anew")
			}
			continue
		}
		if bytes.Equal(e.Record, records[e.Identity]) || !bytes.Equal(e.Record, again.Entities[i].Record) {
			t.Fatalf("%s was not sealed anew, or twice", e.Identity)
		}
		for _, record := range [][]byte{e.Record, records[e.Identity]} {
			if _, err := entityFrom(p, e.Identity, record); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := keys.Destroy(t.Context(), "records", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := entityFrom(newPeer(t, a), "e8", records["e8"]); err != nil {
		t.Error("what is open does not stay open")
	}
	b := newAgent(t, func(c *Config) { c.Provider, c.RecordKey = keys, "records" })
	if _, err := entityFrom(newPeer(t, b), "e8", records["e8"]); !errors.Is(err, wire.VerificationFailed) {
		t.Errorf("under a version that was destroyed: %v", err)
	}
}

// TestRecordsAreManaged: an agent that does not manage keys seals no records, so that a process which is taken over
// cannot make itself one; and its opened records are bounded.
func TestRecordsAreManaged(t *testing.T) {
	a, keys := recordAgent(t)
	records, _ := imported(t, newPeer(t, a), "csv", 0, "a,"+testPSK, "b,"+testPSK, "c,"+testPSK)
	b := newAgent(t, func(c *Config) {
		c.Provider, c.RecordKey, c.Manage, c.Limits.Records = keys, "records", false, 2
	})
	p := newPeer(t, b)
	for _, r := range []wire.Request{&wire.OpenImportRequest{Path: "/dev/null", Format: "csv"}, &wire.ReadImportRequest{}, &wire.RewrapRequest{}} {
		if _, err := p.Handle(context.Background(), r); !errors.Is(err, wire.Denied) {
			t.Errorf("%T: %v", r, err)
		}
	}
	var contexts []wire.Handle
	for _, identity := range []string{"a", "b", "c"} {
		e, err := entityFrom(p, identity, records[identity])
		if err != nil {
			t.Fatal(err)
		}
		contexts = append(contexts, e.Context)
	}
	if n := b.opened.Load(); n != 2 {
		t.Errorf("%d records are open", n)
	}
	for _, c := range contexts { // what is in use was not wiped
		ask[*wire.SealReply](t, p, &wire.SealRequest{Context: c, Plain: [][]byte{{1}}})
	}
	for _, name := range []string{"none", "storage.enc"} {
		if _, err := New(t.Context(), Config{Provider: keys, RecordKey: name}); err == nil {
			t.Errorf("an agent starts with record key %q", name)
		}
	}
}

// TestRecordsAge: an opened record is given up when its time is over, used or not, and opened again.
func TestRecordsAge(t *testing.T) {
	a, keys := recordAgent(t)
	records, _ := imported(t, newPeer(t, a), "csv", 0, "a,"+testPSK)
	clock := newClock()
	b := newAgent(t, func(c *Config) {
		c.Provider, c.RecordKey, c.Now, c.Limits.Age, c.Limits.Idle = keys, "records", clock.Now, time.Hour, 20*time.Minute
	})
	uses := b.usesOf("records", 1)
	for n, wait := range []time.Duration{0, 10 * time.Minute, 30 * time.Minute, 19 * time.Minute, 19 * time.Minute, 19 * time.Minute, 19 * time.Minute} {
		clock.advance(wait)
		if _, err := entityFrom(newPeer(t, b), "a", records["a"]); err != nil {
			t.Fatal(err)
		}
		if want := []uint64{1, 1, 2, 2, 2, 2, 3}[n]; uses.Load() != want {
			t.Errorf("step %d: opened %d times, not %d", n, uses.Load(), want)
		}
	}
}

func FuzzRecordImport(f *testing.F) {
	f.Add([]byte("a,"+testPSK), true)
	f.Add([]byte(`{"identity":"a","key":"`+testPSK+`"}`), false)
	f.Add([]byte(`{"identity":"a","key":"\u0041"}`), false)
	f.Fuzz(func(t *testing.T, line []byte, csv bool) {
		i := &recordImport{format: "jsonl", line: 2}
		if csv {
			i.format = "csv"
		}
		c, why := i.parse(line)
		if c != nil && (why != "" || len(c.keys) != 64 || c.identity == "") {
			t.Fatalf("%+v, %q", c, why)
		}
	})
}

// busyProvider fails each first use of the records' key as transient.
type busyProvider struct {
	*software.Provider
	tried sync.Map
}

func (p *busyProvider) Open(ctx context.Context, name string, version uint32) (providers.Key, error) {
	k, err := p.Provider.Open(ctx, name, version)
	if err != nil || name != "records" {
		return k, err
	}
	return &busyKey{k, k.(providers.Encrypter), k.(providers.Decrypter), p}, nil
}

type busyKey struct {
	providers.Key
	enc providers.Encrypter
	providers.Decrypter
	p *busyProvider
}

func (k *busyKey) Encrypt(ctx context.Context, m providers.Mechanism, iv, plain, aad []byte) ([]byte, error) {
	if _, again := k.p.tried.LoadOrStore(string(aad), true); !again {
		return nil, &providers.Error{Code: providers.Transient, Op: "encrypting"}
	}
	return k.enc.Encrypt(ctx, m, iv, plain, aad)
}

// TestImportIsPatient: a provider that is busy for a moment does not end an import.
func TestImportIsPatient(t *testing.T) {
	keys := &busyProvider{Provider: fixtureProvider(t)}
	if _, err := keys.Generate(t.Context(), "records", providers.AES256); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, func(c *Config) { c.Provider, c.RecordKey = keys, "records" })
	if records, bad := imported(t, newPeer(t, a), "csv", 0, "a,"+testPSK, "b,"+testPSK, "c,"+testPSK); len(records) != 3 || len(bad) != 0 {
		t.Errorf("%d records, bad lines %v", len(records), bad)
	}
}
