// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

const (
	maxImports     = 4       // at once, of a connection
	maxImportLine  = 4 << 10 // bytes
	maxImportBatch = 4096    // lines, and records to be sealed anew
)

// A recordImport is a file of entities that is being read. It holds keys in its buffer until it is closed.
type recordImport struct {
	format   string   // "key": one line, the key of identity
	identity string   // with "key"
	skip     uint64   // lines
	file     *os.File // nil: the standard input

	mu      sync.Mutex // one read at a time
	lines   *bufio.Scanner
	buf     []byte // of lines
	line    uint64
	bytes   uint64 // in these lines
	keys    int    // that were read for identity
	nothing bool   // that a read could return is left
}

func (i *recordImport) wipe() {
	secret.Wipe(i.buf)
	if i.file != nil {
		i.file.Close()
	}
}

func (p *Peer) openImport(r *wire.OpenImportRequest) (*wire.OpenImportReply, error) {
	i := &recordImport{format: strings.Clone(r.Format), identity: strings.Clone(r.Identity), skip: r.Skip}
	switch {
	case r.Identity != "" && r.Format == "" && r.Skip == 0:
		i.format = "key"
	case r.Identity != "" || r.Format != "csv" && r.Format != "jsonl":
		return nil, malformed(noNumber, "reading entities in a format that is neither csv nor jsonl")
	}
	if p.agent.cfg.RecordKey == "" {
		return nil, unsupported(noNumber, "sealing records of entities, for which no key is configured")
	}
	var from io.Reader = p.agent.cfg.Stdin
	if r.Path != "-" {
		f, err := openKeyFile(r.Path)
		if err != nil {
			return nil, err
		}
		i.file, from = f, f
	} else if p.agent.cfg.Stdin == nil {
		return nil, unsupported(noNumber, "reading the standard input, which this agent does not have")
	}
	i.lines = bufio.NewScanner(from)
	i.buf = make([]byte, 16*maxImportLine)
	i.lines.Buffer(i.buf, len(i.buf))
	e, err := p.imports.add(i, nil)
	if err != nil {
		return nil, err
	}
	defer p.imports.release(e, 0, 0)
	return &wire.OpenImportReply{Import: e.handle}, nil
}

// A candidate is a line on its way to become a record.
type candidate struct {
	line     uint64
	identity string
	keys     []byte // Kenc || Khmac || Kwrap
	record   []byte
}

// readImport seals the entities of the next lines. If the provider fails, so does the whole: the import is at its end then.
func (p *Peer) readImport(ctx context.Context, r *wire.ReadImportRequest) (*wire.ReadImportReply, error) {
	e := p.imports.acquire(r.Import)
	if e == nil {
		return nil, wire.StaleHandle
	}
	defer p.imports.release(e, 0, 0)
	i := e.value
	i.mu.Lock()
	defer i.mu.Unlock()
	out := new(wire.ReadImportReply)
	var found []*candidate
	defer func() {
		for _, c := range found {
			secret.Wipe(c.keys)
		}
	}()
	for n := min(r.Lines, maxImportBatch); n > 0 && !i.nothing && ctx.Err() == nil; {
		if !i.lines.Scan() {
			i.nothing = true
			if err := i.lines.Err(); errors.Is(err, bufio.ErrTooLong) {
				out.Bad = append(out.Bad, wire.BadLine{Line: i.line + 1, Why: "the line is too long, and what follows was not read"})
			} else if err != nil {
				return nil, &fault{code: wire.Malformed, number: noNumber, what: "reading the file", err: err}
			}
			break
		}
		i.bytes += uint64(len(i.lines.Bytes())) + 1
		if i.line++; i.line <= i.skip {
			continue
		}
		n--
		c, why := i.parse(i.lines.Bytes())
		switch {
		case why != "":
			out.Bad = append(out.Bad, wire.BadLine{Line: i.line, Why: why})
		case c != nil:
			c.line = i.line
			found = append(found, c)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out.Line, out.Bytes, out.Done = i.line, i.bytes, i.nothing
	if err := p.agent.sealRecords(ctx, found); err != nil {
		return nil, err
	}
	for _, c := range found {
		out.Entities = append(out.Entities, wire.Entity{Identity: c.identity, Record: c.record})
	}
	return out, nil
}

// parse reads a line: IDENTITY,KEY, or {"identity":…,"key":…}, where the key is Kenc || Khmac or Kenc || Khmac || Kwrap,
// in hex or base64. An identity with a comma or a quote needs the second form. Empty lines, those that begin with # and
// the header line of a CSV file are nothing.
func (i *recordImport) parse(line []byte) (c *candidate, why string) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' || i.line == 1 && i.format == "csv" && string(line) == "identity,key" {
		return nil, ""
	}
	var identity string
	var key []byte
	switch i.format {
	case "key":
		if identity, key = i.identity, line; i.keys > 0 {
			return nil, "another key"
		}
		i.keys++
	case "csv":
		before, after, ok := bytes.Cut(line, []byte{','})
		if !ok || bytes.IndexByte(after, ',') >= 0 || bytes.IndexByte(line, '"') >= 0 {
			return nil, "not IDENTITY,KEY"
		}
		identity, key = string(bytes.TrimSpace(before)), bytes.TrimSpace(after)
	default:
		o, err := mslenc.Parse(line)
		if err != nil {
			return nil, "not a JSON object"
		}
		if identity, err = o.String("identity"); err != nil || !o.HasText("key") {
			return nil, "no identity, or no key"
		}
		raw := o.Value("key")
		key = raw[1 : len(raw)-1] // hex and base64 need no escapes
	}
	identity = mslenc.NFC(identity)
	if _, err := KeyName("", identity); err != nil || !utf8.ValidString(identity) {
		return nil, "an identity that cannot be"
	}
	keys, err := decodePreShared(key, "")
	if err != nil {
		return nil, "a key that is not 48 or 64 bytes in hex or base64"
	}
	return &candidate{identity: identity, keys: keys}, ""
}

// decodePreShared decodes Kenc || Khmac || Kwrap; the last part is derived if it is not there. The caller wipes the result.
func decodePreShared(text []byte, format string) ([]byte, error) {
	keys, err := decodeSymmetric(text, format, encKeySize+macKeySize+16)
	if err == nil {
		return keys, nil
	}
	if keys, err = decodeSymmetric(text, format, encKeySize+macKeySize); err != nil {
		return nil, err
	}
	defer secret.Wipe(keys)
	wrap := deriveWrappingKey(keys)
	defer secret.Wipe(wrap)
	return append(append(make([]byte, 0, len(keys)+len(wrap)), keys...), wrap...), nil
}
