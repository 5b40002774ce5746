// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	driver "modernc.org/sqlite"
)

const (
	sqliteBusy = 5 // SQLITE_BUSY
	busyTime   = 5 * time.Second
	busyPause  = 10 * time.Millisecond
)

// sqliteConnections bounds how many lookups go on at once.
const sqliteConnections = 8

// sqliteParams: readers do not wait for the writer (WAL), writers wait for each other for five seconds, and what was
// committed is there after a loss of power.
const sqliteParams = "?mode=rw&_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" +
	"&_pragma=trusted_schema(off)&_pragma=cell_size_check(on)"

type sqlite struct{}

// useSQLite makes s a store in a file.
func (s *Store) useSQLite(path string) error {
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return ErrURL
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	var opened atomic.Pointer[os.FileInfo]
	s.kind = sqlite{}
	s.here = func() bool {
		now, err := os.Stat(path)
		was := opened.Load()
		return err == nil && was != nil && os.SameFile(now, *was)
	}
	s.open = func(ctx context.Context, create bool) (*sql.DB, error) {
		info, err := sqliteFile(path, create)
		if err != nil {
			return nil, err
		}
		opened.Store(&info)
		file := url.URL{Scheme: "file", OmitHost: true, Path: path}
		db, err := sql.Open("sqlite", file.String()+sqliteParams)
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(sqliteConnections)
		db.SetMaxIdleConns(sqliteConnections)
		return db, nil
	}
	s.index = func() *walIndex { return openWALIndex(path + "-shm") }
	return nil
}

// sqliteFile looks at the file, which must be ours alone, and makes it if it may. It does not open one that is there: when a
// process closes a file, it gives up all POSIX locks on it, those of SQLite, too.
func sqliteFile(path string, create bool) (os.FileInfo, error) {
	if create {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, ErrGone
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, ErrURL
	case info.Mode().Perm()&0o007 != 0:
		return nil, ErrMode
	}
	return info, nil
}

func (sqlite) text(query string) string { return strings.ReplaceAll(query, "$", "?") }

// sqliteTables are the tables of version 1.
const sqliteTables = `
CREATE TABLE mslkeep_entities (identity BLOB PRIMARY KEY, born INTEGER NOT NULL, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE mslkeep_imports (import TEXT PRIMARY KEY, line INTEGER NOT NULL) STRICT;
PRAGMA user_version = 1;`

// schema tries again where others open the database, too: of those that make it one with WAL at once, SQLite lets none wait.
func (k sqlite) schema(ctx context.Context, db *sql.DB) error {
	for until := time.Now().Add(busyTime); ; {
		err := k.tables(ctx, db)
		busy, ok := errors.AsType[*driver.Error](err)
		if !ok || busy.Code()&0xFF != sqliteBusy || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (sqlite) tables(ctx context.Context, db *sql.DB) error {
	version := func(q querier) (v int, err error) {
		err = q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v)
		return v, err
	}
	v, err := version(db)
	if err != nil || v == 1 {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	switch v, err = version(tx); { // another process may have been faster
	case err != nil || v == 1:
		return err
	case v != 0:
		return ErrSchema
	}
	if _, err := tx.ExecContext(ctx, sqliteTables); err != nil {
		return err
	}
	return tx.Commit()
}

// begin has nothing to do: transactions begin with the lock (_txlock).
func (sqlite) begin(context.Context, *sql.Tx) error { return nil }

func (sqlite) put(ctx context.Context, tx *sql.Tx, records []Record) error {
	stmt, err := tx.PrepareContext(ctx, `INSERT INTO mslkeep_entities (identity, born, record) VALUES (?1, ?2, ?3)
		ON CONFLICT (identity) DO UPDATE SET born = excluded.born, record = excluded.record WHERE record <> excluded.record`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, r := range records {
		if _, err := stmt.ExecContext(ctx, []byte(r.Identity), r.Born, r.Sealed); err != nil {
			return err
		}
	}
	return nil
}

func (sqlite) replace(ctx context.Context, tx *sql.Tx, old []Record, sealed [][]byte) (n int64, err error) {
	stmt, err := tx.PrepareContext(ctx, "UPDATE mslkeep_entities SET record = ?4 WHERE identity = ?1 AND born = ?2 AND record = ?3")
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	for i, r := range old {
		done, err := stmt.ExecContext(ctx, []byte(r.Identity), r.Born, r.Sealed, sealed[i])
		if err != nil {
			return 0, err
		}
		changed, err := done.RowsAffected()
		if err != nil {
			return 0, err
		}
		n += changed
	}
	return n, nil
}

func (sqlite) remove(ctx context.Context, tx *sql.Tx, identity string) (int64, error) {
	return removed(tx.ExecContext(ctx, "DELETE FROM mslkeep_entities WHERE identity = ?1", []byte(identity)))
}

func removed(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
