// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package entities

import (
	"context"
	"crypto/tls"
	"database/sql"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	postgresConnections = 16
	postgresConnectTime = 2 * time.Second
	postgresConnAge     = 30 * time.Minute // so that a database that has moved is found again
)

type postgresql struct{}

// usePostgreSQL makes s a store in PostgreSQL. How to get in is a matter of the URL, of a passfile that it names or of
// PGPASSFILE, and of certificates.
func (s *Store) usePostgreSQL(u *url.URL) error {
	if _, set := u.User.Password(); set || u.Query().Has("password") || u.Query().Has("sslpassword") {
		return ErrSecret
	}
	config, err := pgx.ParseConfig(u.String())
	if err != nil {
		return ErrURL // which parsing quotes
	}
	if !private(config.Host, config.TLSConfig) {
		return ErrOpen
	}
	for _, f := range config.Fallbacks {
		if !private(f.Host, f.TLSConfig) {
			return ErrOpen
		}
	}
	config.ConnectTimeout = postgresConnectTime
	config.RuntimeParams["application_name"] = "mslkeep"
	s.kind = postgresql{}
	s.open = func(context.Context, bool) (*sql.DB, error) {
		db := stdlib.OpenDB(*config)
		db.SetMaxOpenConns(postgresConnections)
		db.SetMaxIdleConns(postgresConnections)
		db.SetConnMaxLifetime(postgresConnAge)
		return db, nil
	}
	return nil
}

// private reports whether nobody else can read or change what goes to a host.
func private(host string, t *tls.Config) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" {
		return true
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return true
	}
	return t != nil && (!t.InsecureSkipVerify || t.VerifyPeerCertificate != nil || t.VerifyConnection != nil)
}

func (postgresql) text(query string) string { return query }

// postgresLock is the number of the advisory lock under which the tables are made and changed.
const postgresLock = 0x6d736c6b65657001

var postgresTables = []string{
	"CREATE TABLE IF NOT EXISTS mslkeep_entities (identity bytea PRIMARY KEY, born bigint NOT NULL, record bytea NOT NULL)",
	"CREATE TABLE IF NOT EXISTS mslkeep_imports (import text PRIMARY KEY, line bigint NOT NULL)",
	"CREATE TABLE IF NOT EXISTS mslkeep_version (version integer NOT NULL)",
	"INSERT INTO mslkeep_version SELECT 1 WHERE NOT EXISTS (SELECT FROM mslkeep_version)",
}

func (postgresql) begin(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(postgresLock))
	return err
}

func (k postgresql) schema(ctx context.Context, db *sql.DB) error {
	// Without the lock at first: the user, or the whole server, may be one that only reads.
	if there, err := k.version(ctx, db); there || err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := k.begin(ctx, tx); err != nil {
		return err
	}
	for _, statement := range postgresTables {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if _, err := k.version(ctx, tx); err != nil { // another process may have been faster
		return err
	}
	return tx.Commit()
}

// version reports whether there are tables, and fails if they are of another version.
func (postgresql) version(ctx context.Context, q querier) (there bool, err error) {
	err = q.QueryRowContext(ctx, "SELECT to_regclass('mslkeep_version') IS NOT NULL").Scan(&there)
	if err != nil || !there {
		return false, err
	}
	var version int
	err = q.QueryRowContext(ctx, "SELECT max(version) FROM mslkeep_version").Scan(&version)
	if err == nil && version != 1 {
		err = ErrSchema
	}
	return true, err
}

// columns takes records apart.
func columns(records []Record) (identities [][]byte, births []int64, sealed [][]byte) {
	for _, r := range records {
		identities, births, sealed = append(identities, []byte(r.Identity)), append(births, r.Born), append(sealed, r.Sealed)
	}
	return identities, births, sealed
}

func (postgresql) put(ctx context.Context, tx *sql.Tx, records []Record) error {
	identities, births, sealed := columns(records)
	_, err := tx.ExecContext(ctx, `INSERT INTO mslkeep_entities AS e (identity, born, record)
		SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[])
		ON CONFLICT (identity) DO UPDATE SET born = excluded.born, record = excluded.record WHERE e.record <> excluded.record`,
		identities, births, sealed)
	return err
}

func (postgresql) replace(ctx context.Context, tx *sql.Tx, old []Record, sealed [][]byte) (int64, error) {
	identities, births, before := columns(old)
	return removed(tx.ExecContext(ctx, `UPDATE mslkeep_entities e SET record = n.sealed
		FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n(identity, born, record, sealed)
		WHERE e.identity = n.identity AND e.born = n.born AND e.record = n.record`, identities, births, before, sealed))
}

func (postgresql) remove(ctx context.Context, tx *sql.Tx, identity string) (int64, error) {
	return removed(tx.ExecContext(ctx, "DELETE FROM mslkeep_entities WHERE identity = $1", []byte(identity)))
}
