// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stores returns where a store can be, by kind.
func stores(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{"SQLite": "sqlite:" + filepath.Join(t.TempDir(), "entities.db"), "PostgreSQL": newDatabase(t)}
}

func open(t *testing.T, at string) *Store {
	t.Helper()
	s, err := Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s *Store, records ...Record) {
	t.Helper()
	if err := s.Put(t.Context(), records, nil); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, s *Store, identity string) Record {
	t.Helper()
	r, err := s.Find(t.Context(), identity)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sealed(text string) []byte { return []byte(text) }

// awkward identities differ in what collations and string functions confuse.
var awkward = []string{"a", "A", "á", "a\u0301", "a ", " a", "a\x00", "a\x00b", "\x00", "a%", "a_", "'; DROP TABLE x", "ß", "ss", "\U0010FFFF", strings.Repeat("x", MaxIdentity)}

func TestStore(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open(t, at)
			if r := find(t, s, "nobody"); r.Born != 0 || r.Sealed != nil {
				t.Errorf("%+v", r)
			}
			var records []Record
			for i, identity := range awkward {
				records = append(records, Record{Identity: identity, Sealed: sealed(fmt.Sprint("record ", i))})
			}
			put(t, s, records...)
			births := make(map[int64]bool)
			for _, r := range records {
				got := find(t, s, r.Identity)
				if got.Born == 0 || births[got.Born] || got.Identity != r.Identity || !bytes.Equal(got.Sealed, r.Sealed) {
					t.Errorf("%q: %+v", r.Identity, got)
				}
				if born, err := s.Born(t.Context(), r.Identity); err != nil || born != got.Born {
					t.Errorf("%q: born %d, %v", r.Identity, born, err)
				}
				births[got.Born] = true
			}
			if n, err := s.Count(t.Context(), ""); n != int64(len(records)) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			first := find(t, s, "a")
			put(t, s, Record{Identity: "a", Sealed: first.Sealed})
			if r := find(t, s, "a"); r.Born != first.Born {
				t.Error("the same record was born anew")
			}
			put(t, s, Record{Identity: "a", Sealed: sealed("x")}, Record{Identity: "a", Sealed: sealed("other")})
			if r := find(t, s, "a"); r.Born == first.Born || string(r.Sealed) != "other" {
				t.Errorf("%+v", r)
			}
			unknown, err := s.Remove(t.Context(), "A", "nobody", "a\x00")
			if err != nil || !slices.Equal(unknown, []string{"nobody"}) {
				t.Errorf("%q, %v", unknown, err)
			}
			if born, err := s.Born(t.Context(), "A"); born != 0 || err != nil {
				t.Errorf("removed: %d, %v", born, err)
			}
			if r := find(t, open(t, at), "a\x00"); r.Born != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestPages: pages of any size show each record once, in bytewise order.
func TestPages(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open(t, at)
			var want []string
			for _, identity := range awkward {
				for i := range 10 {
					if identity := fmt.Sprint(identity, i); len(identity) <= MaxIdentity {
						want = append(want, identity)
						put(t, s, Record{Identity: identity, Sealed: sealed("r")})
					}
				}
			}
			slices.Sort(want)
			for _, prefix := range []string{"", "a", "a\x00", "A", "none", "\U0010FFFF"} {
				for _, size := range []int{1, 7, MaxBatch} {
					var got []string
					for after := ""; ; {
						page, err := s.Page(t.Context(), prefix, after, size)
						if err != nil {
							t.Fatal(err)
						}
						if len(page) == 0 {
							break
						}
						for _, r := range page {
							got = append(got, r.Identity)
						}
						after = got[len(got)-1]
					}
					here := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return !strings.HasPrefix(s, prefix) })
					if !slices.Equal(got, here) {
						t.Errorf("%q by %d: %q, want %q", prefix, size, got, here)
					}
					if n, err := s.Count(t.Context(), prefix); n != int64(len(here)) || err != nil {
						t.Errorf("%q: counted %d, %v", prefix, n, err)
					}
				}
			}
		})
	}
}

// TestBornNow: what one store commits to a file, another sees at once, however often it was asked before.
func TestBornNow(t *testing.T) {
	at := "sqlite:" + filepath.Join(t.TempDir(), "entities.db")
	s, other := open(t, at), open(t, at)
	put(t, s, Record{Identity: "still", Sealed: sealed("r")})
	still := find(t, s, "still").Born
	for i := range 500 {
		put(t, other, Record{Identity: "a", Sealed: sealed(fmt.Sprint(i))})
		born := find(t, other, "a").Born
		for range 3 {
			if got, err := s.Born(t.Context(), "a"); got != born || err != nil {
				t.Fatalf("%d: %d, %v, want %d", i, got, err, born)
			}
			if got, err := s.Born(t.Context(), "still"); got != still || err != nil {
				t.Fatalf("%d: %d, %v", i, got, err)
			}
		}
		if i%3 == 0 {
			if _, err := other.Remove(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Born(t.Context(), "a"); got != 0 || err != nil {
				t.Fatalf("%d removed: %d, %v", i, got, err)
			}
		}
		if i%50 == 0 { // what the header says then begins anew
			if _, err := other.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.watch == nil {
		t.Fatal("the file is not watched")
	}
	if state, sure := s.current(); !sure {
		t.Error("the state of the file is not known")
	} else if _, ok := s.recall("still", state); !ok {
		t.Error("nothing is remembered")
	}
}

// TestReplace: only what is as it was is changed, and stays born as it was.
func TestReplace(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open(t, at)
			for _, identity := range []string{"a", "b", "c", "d"} {
				put(t, s, Record{Identity: identity, Sealed: sealed("old " + identity)})
			}
			old, err := s.Page(t.Context(), "", "", 10)
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, Record{Identity: "b", Sealed: sealed("another")})
			if _, err := s.Remove(t.Context(), "c", "d"); err != nil {
				t.Fatal(err)
			}
			put(t, s, Record{Identity: "d", Sealed: sealed("old d")}) // the same, and yet another
			n, err := s.Replace(t.Context(), old, [][]byte{sealed("new a"), sealed("new b"), sealed("new c"), sealed("new d")})
			if err != nil || n != 1 {
				t.Errorf("%d, %v", n, err)
			}
			for identity, want := range map[string]string{"a": "new a", "b": "another", "c": "", "d": "old d"} {
				if r := find(t, s, identity); string(r.Sealed) != want {
					t.Errorf("%s: %q", identity, r.Sealed)
				}
			}
			if r := find(t, s, "a"); r.Born != old[0].Born {
				t.Error("it was born anew")
			}
		})
	}
}

// TestPutAll: a call stores all or nothing, and its mark with it.
func TestPutAll(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open(t, at)
			good := Record{Identity: "good", Sealed: sealed("r")}
			for _, bad := range []Record{{Identity: "", Sealed: sealed("r")}, {Identity: "x"}, {Identity: "\xff", Sealed: sealed("r")},
				{Identity: strings.Repeat("x", MaxIdentity+1), Sealed: sealed("r")}, {Identity: "x", Sealed: make([]byte, MaxSealed+1)}} {
				if err := s.Put(t.Context(), []Record{good, bad}, &Mark{"i", 1, false}); !errors.Is(err, ErrInvalid) {
					t.Errorf("%v", err)
				}
			}
			ended, end := context.WithCancel(t.Context())
			end()
			if err := s.Put(ended, []Record{good}, &Mark{"i", 2, false}); err == nil {
				t.Error("stored after the end")
			}
			if line, err := s.Marked(t.Context(), "i"); line != 0 || err != nil || find(t, s, "good").Born != 0 {
				t.Errorf("something was stored: %d, %v", line, err)
			}
			for _, m := range []struct {
				mark Mark
				want uint64
			}{{Mark{"i", 7, false}, 7}, {Mark{"j", 1, false}, 7}, {Mark{"i", 9, false}, 9}, {Mark{"i", 10, true}, 0}} {
				if err := s.Put(t.Context(), []Record{good}, &m.mark); err != nil {
					t.Fatal(err)
				}
				if line, err := s.Marked(t.Context(), "i"); line != m.want || err != nil {
					t.Errorf("%d, %v, want %d", line, err, m.want)
				}
			}
		})
	}
}

// TestManyAtOnce: several stores in one database, as several processes have them, do not disturb each other.
func TestManyAtOnce(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			var all []*Store
			var opening sync.WaitGroup
			var mu sync.Mutex
			for range 4 { // all want to make the tables
				opening.Go(func() {
					s, err := Open(t.Context(), at)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					all = append(all, s)
				})
			}
			opening.Wait()
			var working sync.WaitGroup
			for n, s := range all {
				defer s.Close()
				working.Go(func() {
					for i := range 20 {
						var batch []Record
						for j := range 50 {
							batch = append(batch, Record{Identity: fmt.Sprintf("%d-%d-%d", n, i, j), Sealed: sealed("r")})
						}
						// Each also writes what all write, in any order.
						for _, j := range rand.Perm(20) {
							batch = append(batch, Record{Identity: fmt.Sprint("common ", j), Sealed: sealed(fmt.Sprint(n, i))})
						}
						if err := s.Put(t.Context(), batch, nil); err != nil {
							t.Error(err)
						}
						if r, err := s.Find(t.Context(), fmt.Sprintf("%d-%d-49", n, i)); err != nil || r.Born == 0 {
							t.Errorf("%+v, %v", r, err)
						}
					}
				})
			}
			working.Wait()
			if n, err := all[0].Count(t.Context(), ""); err != nil || n != 4*20*50+20 {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shared"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]error{
		"":                              ErrURL,
		"entities.db":                   ErrURL,
		"mysql://host/x":                ErrURL,
		"sqlite:":                       ErrURL,
		"sqlite::memory:":               ErrURL,
		"sqlite:" + dir:                 nil,
		"sqlite:" + dir + "/none/x.db":  fs.ErrNotExist,
		"sqlite:" + dir + "/shared":     ErrMode,
		"postgres://me:secret@[::1]/x":  ErrSecret,
		"postgres:///x?password=secret": ErrSecret,
		"postgres:///x?host=db.example.com&sslpassword=secret":           ErrSecret,
		"postgres://db.example.com/x":                                    ErrOpen,
		"postgres://db.example.com/x?sslmode=require":                    ErrOpen,
		"postgres:///x?host=127.0.0.1,db.example.com&sslmode=prefer":     ErrOpen,
		"postgres://192.0.2.1/x?sslmode=disable":                         ErrOpen,
		"postgres://127.0.0.1/x?port=secret":                             ErrURL,
		"postgres://me@127.0.0.1:1/x?sslmode=disable&connect_timeout=60": nil,
	} {
		s, err := Open(t.Context(), url)
		if err == nil {
			s.Close()
		}
		typed, ok := errors.AsType[*Error](err)
		if !ok || want != nil && !errors.Is(err, want) || strings.Contains(typed.Error(), "secret") {
			t.Errorf("%s: %v, want %v", url, err, want)
		}
	}
}

// TestFile: the file is for nobody else, and when another takes its place that is what counts.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a#?%20é.db")
	s := open(t, "sqlite:"+path)
	put(t, s, Record{Identity: "a", Sealed: sealed("r")})
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(found) != 3 {
		t.Fatalf("%q, %v", found, err)
	}
	for _, name := range found {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for _, name := range found {
		if err := os.Rename(name, name+".away"); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); ; {
		if _, err := s.Find(t.Context(), "a"); !errors.Is(err, ErrGone) {
			t.Errorf("%v", err)
		}
		if _, err := s.Born(t.Context(), "a"); errors.Is(err, ErrGone) {
			break
		} else if time.Since(began) > 30*time.Second {
			t.Fatalf("%v", err)
		}
	}
	other := open(t, "sqlite:"+path)
	put(t, other, Record{Identity: "b", Sealed: sealed("r")})
	if born, err := s.Born(t.Context(), "a"); born != 0 || err != nil {
		t.Errorf("%d, %v", born, err)
	}
	if find(t, s, "b").Born == 0 {
		t.Error("the file that has come is not read")
	}
}

// TestNewer: tables of a later version are left alone.
func TestNewer(t *testing.T) {
	for kind, at := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open(t, at)
			statement := "PRAGMA user_version = 2"
			if kind == "PostgreSQL" {
				statement = "INSERT INTO mslkeep_version VALUES (2)"
			}
			if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), at); !errors.Is(err, ErrSchema) {
				t.Errorf("%v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if _, err := s.Find(t.Context(), "a"); !errors.Is(err, sql.ErrConnDone) {
				t.Errorf("closed: %v", err)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"identity":"a","record":"AQI="}`))
	f.Add([]byte(`{"identity":"\u0000\ud800","record":"AQI="}`))
	f.Add([]byte(`{"identity":"a"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseLine(line)
		if err != nil {
			return
		}
		r.KeyOf()
		again, err := r.AppendLine(nil)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := ParseLine(again); err != nil || same.Identity != r.Identity || !bytes.Equal(same.Sealed, r.Sealed) {
			t.Fatalf("%+v became %+v, %v", r, same, err)
		}
	})
}
