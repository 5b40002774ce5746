// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package entities is a store of records: the pre-shared keys of entities, by identity, as a key agent has sealed them.
// The store holds no secret, and so may be anywhere in the protocol process's reach: in a file (SQLite) or in PostgreSQL.
//
// A record is born when it is first put under its identity, or put there anew with other bytes; sealing it anew under
// another version of the wrapping key does not change when. What was issued to an entity by one record is worth nothing
// when that record has gone, even if another takes its place: compare Born.
package entities

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Limits of what a store takes.
const (
	MaxIdentity = 512     // bytes
	MaxSealed   = 2 << 10 // bytes of a record
	MaxBatch    = 4096    // records of one call
)

const (
	lookupTime = 2 * time.Second        // how long one entity may take
	batchTime  = time.Minute            // and a batch
	looking    = 100 * time.Millisecond // how often it is looked whether another file has taken the place of ours
	maxKnown   = 1 << 16                // records that it remembers
)

// A Record is the pre-shared keys of an entity. Only an agent with the wrapping key can open it, and only for this identity.
type Record struct {
	Identity string
	Born     int64 // tells this record from an earlier one of the same identity; never 0; made by Put
	Sealed   []byte
}

// Errors of this package are of type *Error; these are what it may be about.
var (
	ErrURL     = errors.New("not the URL of a database that can be used")
	ErrSecret  = errors.New("a URL must not hold a password: name a passfile")
	ErrOpen    = errors.New("the connection could be read or changed by others: set sslmode=verify-full and sslrootcert")
	ErrMode    = errors.New("other users may read or change the file: chmod 600")
	ErrSchema  = errors.New("a newer version of this program has made the tables")
	ErrGone    = errors.New("the file is not there any more")
	ErrInvalid = errors.New("not a record that can be stored")
)

// An Error says what was being done. It never holds identities or records.
type Error struct {
	Op  string
	Err error // one of the above, or of the database
}

func (e *Error) Error() string { return "entities: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{op, err}
}

// A Store is an open database. It is safe for concurrent use, also by several processes.
type Store struct {
	kind  kind
	open  func(ctx context.Context, create bool) (*sql.DB, error)
	index func() *walIndex
	here  func() bool // that the database is still the one that was opened; nil: it cannot go

	mu     sync.RWMutex // of the following; held while a database is opened again
	db     *sql.DB
	born   *sql.Stmt
	watch  *walIndex // of a file, or nil
	closed bool

	looked atomic.Int64 // when the file was there, in Unix nanoseconds

	knownMu sync.Mutex
	state   walState         // of the file when known was true
	known   map[string]int64 // records that are there
}

// A querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// A kind is what differs between databases.
type kind interface {
	// text is a query in the database's own manner, of one with parameters $1, $2, …
	text(query string) string
	// schema makes the tables.
	schema(ctx context.Context, db *sql.DB) error
	// begin begins a change: there is one at a time, or two could wait for each other.
	begin(ctx context.Context, tx *sql.Tx) error
	// put puts records, no two of which are of the same identity.
	put(ctx context.Context, tx *sql.Tx, records []Record) error
	// replace changes what is sealed of those that are as they were in old.
	replace(ctx context.Context, tx *sql.Tx, old []Record, sealed [][]byte) (int64, error)
	// remove returns how many there were.
	remove(ctx context.Context, tx *sql.Tx, identity string) (int64, error)
}

// Open opens a database, "sqlite:PATH" or "postgres://USER@HOST/NAME?passfile=PATH", and makes its tables if it has none.
func Open(ctx context.Context, database string) (*Store, error) {
	s := &Store{known: make(map[string]int64)}
	var err error
	if path, ok := strings.CutPrefix(database, "sqlite:"); ok {
		err = s.useSQLite(path)
	} else if u, bad := url.Parse(database); bad == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		err = s.usePostgreSQL(u)
	} else {
		err = ErrURL
	}
	if err == nil {
		err = s.connect(ctx, true)
	}
	if err != nil {
		return nil, failed("opening the database", err)
	}
	return s, nil
}

// connect opens the database; mu is held, or nobody else has s.
func (s *Store) connect(ctx context.Context, create bool) error {
	db, err := s.open(ctx, create)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	if err := s.kind.schema(ctx, db); err != nil {
		return errors.Join(err, db.Close())
	}
	born, err := db.PrepareContext(ctx, s.kind.text("SELECT born FROM mslkeep_entities WHERE identity = $1"))
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db, s.born = db, born
	if s.index != nil {
		s.watch = s.index()
	}
	s.forget()
	return nil
}

// Close closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.watch = nil
	return failed("closing the database", s.db.Close())
}

// use calls f with the database, which is opened again if its file was replaced.
func (s *Store) use(ctx context.Context, op string, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.mu.RLock()
	if !s.closed && s.here != nil && !s.here() {
		s.mu.RUnlock()
		if err := s.reopen(ctx); err != nil {
			return failed(op, err)
		}
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.closed {
		return failed(op, sql.ErrConnDone)
	}
	return failed(op, f(ctx))
}

func (s *Store) reopen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.here() {
		return nil
	}
	old := s.db
	if err := s.connect(ctx, false); err != nil {
		return err
	}
	return old.Close()
}

// Find returns the record of an entity. If it is unknown, the record is zero.
func (s *Store) Find(ctx context.Context, identity string) (r Record, err error) {
	err = s.use(ctx, "finding an entity", lookupTime, func(ctx context.Context) error {
		row := s.db.QueryRowContext(ctx, s.kind.text("SELECT born, record FROM mslkeep_entities WHERE identity = $1"), []byte(identity))
		return row.Scan(&r.Born, &r.Sealed)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	r.Identity = identity
	return r, nil
}

// check refuses what no import would have made.
func check(r Record) error {
	if r.Identity == "" || len(r.Identity) > MaxIdentity || !utf8.ValidString(r.Identity) || len(r.Sealed) == 0 || len(r.Sealed) > MaxSealed {
		return ErrInvalid
	}
	return nil
}

// distinct returns records without those that a later one of the same identity replaces.
func distinct(records []Record) []Record {
	last := make(map[string]int, len(records))
	for i, r := range records {
		last[r.Identity] = i
	}
	if len(last) == len(records) {
		return records
	}
	out := make([]Record, 0, len(last))
	for i, r := range records {
		if last[r.Identity] == i {
			out = append(out, r)
		}
	}
	return out
}

// KeyOf returns the name and the version of the wrapping key that a record says it is sealed under, for people to read.
// Nothing proves that it is true.
func (r Record) KeyOf() (name string, version uint32, ok bool) {
	b := r.Sealed
	if len(b) < 2 || len(b) < 2+int(b[1])+4 || !utf8.Valid(b[2:2+int(b[1])]) {
		return "", 0, false
	}
	rest := b[2+int(b[1]):]
	version = uint32(rest[0])<<24 | uint32(rest[1])<<16 | uint32(rest[2])<<8 | uint32(rest[3])
	return string(b[2 : 2+int(b[1])]), version, true
}

// String is for people to read; it does not hold the record.
func (r Record) String() string {
	name, version, _ := r.KeyOf()
	return fmt.Sprintf("%q, sealed under %q version %d", r.Identity, name, version)
}
