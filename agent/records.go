// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
)

// A FindRecord looks up the pre-shared keys of an entity, as an agent has sealed them. It returns nil if there are none,
// and an error only if it could not look. It is called whenever an entity's keys are needed and not at hand, by many
// goroutines at once, with identities that anybody may have sent.
type FindRecord func(ctx context.Context, identity string) ([]byte, error)

// UseRecords has the client show the agent records of entities. It must be called before the client is used.
func (c *Client) UseRecords(find FindRecord) { c.find = find }

// record looks up the record of an entity of some scheme.
func (c *Client) record(ctx context.Context, scheme, identity string) ([]byte, error) {
	if c.find == nil || scheme != "PSK" && scheme != "PSK_PROFILE" {
		return nil, nil
	}
	record, err := c.find(ctx, identity)
	if err != nil && ctx.Err() == nil {
		return nil, wire.Fail(wire.Transient, "looking up the record of an entity")
	}
	return record, err
}

// recordOf looks up the record of whom a token is issued to, if the key exchange may need it.
func (c *Client) recordOf(ctx context.Context, r *msl.IssueRequest) ([]byte, error) {
	switch r.Scheme {
	case "SYMMETRIC_WRAPPED", "JWE_LADDER", "JWK_LADDER":
	default:
		return nil, nil
	}
	identity := r.Identity
	if r.Session != nil {
		identity = r.Session.Identity
	}
	if identity == "" {
		return nil, nil
	}
	return c.record(ctx, "PSK", identity)
}

// An EntityRecord is the pre-shared keys of an entity, which only an agent with the same wrapping key can open, and only for
// this identity.
type EntityRecord struct {
	Identity string
	Record   []byte
}

// A BadLine is a line of an import that is none.
type BadLine struct {
	Line uint64 `json:"line"` // 1 is the first
	Why  string `json:"why"`
}

// An EntityImport is a file of pre-shared keys that the agent reads and seals. It must be closed.
type EntityImport struct {
	c           *Client
	handle      wire.Handle
	line, bytes uint64
	done        bool
}

// ImportEntities has the agent read a file of pre-shared keys, or for path "-" its standard input, after that many lines.
// format is "csv", with lines IDENTITY,KEY, or "jsonl", with {"identity":…,"key":…}; a key is those for encryption, signature
// and, if it is not to be derived from them, wrapping, 48 or 64 bytes in all, in hex or base64. The keys do not pass
// through this process.
func (c *Client) ImportEntities(ctx context.Context, path, format string, skip uint64) (*EntityImport, error) {
	return c.openImport(ctx, &wire.OpenImportRequest{Path: path, Format: format, Skip: skip})
}

func (c *Client) openImport(ctx context.Context, r *wire.OpenImportRequest) (*EntityImport, error) {
	var reply wire.OpenImportReply
	if err := c.call(ctx, "import entities", r, &reply); err != nil {
		return nil, err
	}
	return &EntityImport{c: c, handle: reply.Import}, nil
}

// ImportEntity has the agent read the key of one entity from a file that holds nothing else, on one line.
func (c *Client) ImportEntity(ctx context.Context, path, identity string) (EntityRecord, error) {
	i, err := c.openImport(ctx, &wire.OpenImportRequest{Path: path, Identity: identity})
	if err != nil {
		return EntityRecord{}, err
	}
	defer i.Close()
	const several = 8 // lines, of which one may hold a key
	records, bad, done, err := i.Next(ctx, several)
	switch {
	case err != nil:
		return EntityRecord{}, err
	case len(bad) > 0:
		return EntityRecord{}, &BadLinesError{bad}
	case len(records) != 1 || !done:
		return EntityRecord{}, &BadLinesError{[]BadLine{{i.Line(), "not one key"}}}
	}
	return records[0], nil
}

// A BadLinesError says which lines of a file are none.
type BadLinesError struct {
	Lines []BadLine // at least one
}

func (e *BadLinesError) Error() string {
	return fmt.Sprintf("line %d: %s", e.Lines[0].Line, e.Lines[0].Why)
}

// Next returns the records of the next lines, at most so many, and the lines that are none. When nothing is left, done is
// true. After an error the import is at its end; Line tells where another may go on.
func (i *EntityImport) Next(ctx context.Context, lines int) (records []EntityRecord, bad []BadLine, done bool, err error) {
	if i.done {
		return nil, nil, true, nil
	}
	var reply wire.ReadImportReply
	if err := i.c.call(ctx, "import entities", &wire.ReadImportRequest{Import: i.handle, Lines: uint32(lines)}, &reply); err != nil {
		return nil, nil, false, err
	}
	for _, b := range reply.Bad {
		bad = append(bad, BadLine(b))
	}
	i.line, i.bytes, i.done = reply.Line, reply.Bytes, reply.Done
	return fromEntities(reply.Entities), bad, i.done, nil
}

// Line returns how many lines were read so far.
func (i *EntityImport) Line() uint64 { return i.line }

// Bytes returns about how many bytes these lines had.
func (i *EntityImport) Bytes() uint64 { return i.bytes }

// Close closes the file.
func (i *EntityImport) Close() {
	_ = i.c.call(context.Background(), "close import", &wire.ReleaseRequest{Handles: []wire.Handle{i.handle}}, new(wire.ReleaseReply))
}

// RewrapEntities has the agent seal records anew under the newest version of the wrapping key. A record that it cannot open
// comes back empty.
func (c *Client) RewrapEntities(ctx context.Context, records []EntityRecord) ([]EntityRecord, error) {
	req := &wire.RewrapRequest{Entities: make([]wire.Entity, len(records))}
	for i, r := range records {
		req.Entities[i] = wire.Entity(r)
	}
	var reply wire.RewrapReply
	if err := c.call(ctx, "rewrap entities", req, &reply); err != nil {
		return nil, err
	}
	if len(reply.Entities) != len(records) {
		return nil, badReply("rewrap entities")
	}
	for i, r := range reply.Entities {
		if r.Identity != records[i].Identity {
			return nil, errors.New("agent: rewrap entities: an answer for another entity")
		}
	}
	return fromEntities(reply.Entities), nil
}

func fromEntities(entities []wire.Entity) []EntityRecord {
	records := make([]EntityRecord, len(entities))
	for i, e := range entities {
		records[i] = EntityRecord(e)
	}
	return records
}
