// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
)

// A Mark says how far an import has come. It is stored in the transaction that stores the records, so that an import which
// ended anywhere, by whatever cause, goes on where it was.
type Mark struct {
	Import string // names it: what is imported, in which state
	Line   uint64 // so many lines are done
	Done   bool   // with the import, which then has no mark any more
}

// Put stores records, all or none. A record takes the place of another of the same identity; one with the same bytes is
// left as it is. Born is made here. mark may be nil.
func (s *Store) Put(ctx context.Context, records []Record, mark *Mark) error {
	records = distinct(records)
	for i := range records {
		if err := check(records[i]); err != nil {
			return failed("storing records", err)
		}
	}
	if len(records) > MaxBatch {
		return failed("storing records", ErrInvalid)
	}
	records = append([]Record(nil), records...)
	births := make([]byte, 8*len(records))
	rand.Read(births)
	for i := range records {
		// 63 bits that cannot be told in advance, or have been another record's.
		records[i].Born = int64(binary.BigEndian.Uint64(births[8*i:])>>1) | 1
	}
	return s.change(ctx, "storing records", func(ctx context.Context, tx *sql.Tx) error {
		if len(records) > 0 {
			if err := s.kind.put(ctx, tx, records); err != nil {
				return err
			}
		}
		return s.setMark(ctx, tx, mark)
	})
}

func (s *Store) setMark(ctx context.Context, tx *sql.Tx, mark *Mark) error {
	if mark == nil {
		return nil
	}
	if mark.Done {
		_, err := tx.ExecContext(ctx, s.kind.text("DELETE FROM mslkeep_imports WHERE import = $1"), mark.Import)
		return err
	}
	_, err := tx.ExecContext(ctx, s.kind.text(`INSERT INTO mslkeep_imports (import, line) VALUES ($1, $2)
		ON CONFLICT (import) DO UPDATE SET line = excluded.line`), mark.Import, int64(mark.Line))
	return err
}

// Marked returns how many lines of an import are done, 0 if it has no mark.
func (s *Store) Marked(ctx context.Context, name string) (line uint64, err error) {
	err = s.use(ctx, "looking for an import", lookupTime, func(ctx context.Context) error {
		var n int64
		err := s.db.QueryRowContext(ctx, s.kind.text("SELECT line FROM mslkeep_imports WHERE import = $1"), name).Scan(&n)
		line = uint64(max(n, 0))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return line, err
}

// Replace changes what is sealed of the records in old that are still as they are there, and leaves those alone that were
// changed or removed. They stay born as they were. It returns how many it has changed.
func (s *Store) Replace(ctx context.Context, old []Record, sealed [][]byte) (n int64, err error) {
	if len(old) != len(sealed) || len(old) > MaxBatch {
		return 0, failed("changing records", ErrInvalid)
	}
	for i := range old {
		if err := check(Record{Identity: old[i].Identity, Sealed: sealed[i]}); err != nil {
			return 0, failed("changing records", err)
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	err = s.change(ctx, "changing records", func(ctx context.Context, tx *sql.Tx) error {
		n, err = s.kind.replace(ctx, tx, old, sealed)
		return err
	})
	return n, err
}

// Remove removes the records of entities, all in one transaction, and returns the identities that had none.
func (s *Store) Remove(ctx context.Context, identities ...string) (unknown []string, err error) {
	err = s.change(ctx, "removing records", func(ctx context.Context, tx *sql.Tx) error {
		unknown = nil
		for _, identity := range identities {
			n, err := s.kind.remove(ctx, tx, identity)
			if err != nil {
				return err
			}
			if n == 0 {
				unknown = append(unknown, identity)
			}
		}
		return nil
	})
	s.forget()
	return unknown, err
}

// Page returns at most limit records, by identity in bytewise order, of identities that begin with prefix and follow after.
func (s *Store) Page(ctx context.Context, prefix, after string, limit int) (records []Record, err error) {
	low, high := interval(prefix)
	compare := ">="
	if after >= prefix && after != "" {
		low, compare = []byte(after), ">"
	}
	query := s.kind.text("SELECT identity, born, record FROM mslkeep_entities WHERE identity " + compare + " $1 AND identity < $2 ORDER BY identity LIMIT $3")
	err = s.use(ctx, "listing records", batchTime, func(ctx context.Context) error {
		rows, err := s.db.QueryContext(ctx, query, low, high, min(max(limit, 1), MaxBatch))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r Record
			if err := rows.Scan(&r.Identity, &r.Born, &r.Sealed); err != nil {
				return err
			}
			records = append(records, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// Count counts the records of identities that begin with prefix.
func (s *Store) Count(ctx context.Context, prefix string) (n int64, err error) {
	low, high := interval(prefix)
	err = s.use(ctx, "counting records", batchTime, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, s.kind.text("SELECT count(*) FROM mslkeep_entities WHERE identity >= $1 AND identity < $2"), low, high).Scan(&n)
	})
	return n, err
}

// interval returns the first that begins with prefix, and what follows the last. No identity has a byte 0xFF, since they
// are UTF-8; none is empty.
func interval(prefix string) (low, high []byte) {
	return append([]byte{}, prefix...), append([]byte(prefix), 0xFF)
}

// change does something in one transaction.
func (s *Store) change(ctx context.Context, op string, f func(context.Context, *sql.Tx) error) error {
	return s.use(ctx, op, batchTime, func(ctx context.Context) error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		err = s.kind.begin(ctx, tx)
		if err == nil {
			err = f(ctx, tx)
		}
		if err != nil {
			_ = tx.Rollback()
			return err
		}
		return tx.Commit()
	})
}
