// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/entities"
)

const (
	importLines = 2000 // of one step, which is one transaction
	maxListed   = 1000 // bad lines that are listed; all are counted
)

// A step is the next lines of an import.
type step struct {
	records []entities.Record
	bad     []agent.BadLine
	line    uint64 // so many lines are read
	bytes   uint64 // about so many
	done    bool
}

// A lineSource reads them.
type lineSource interface {
	next(ctx context.Context) (step, error)
	close()
}

// imported is how an import went.
type imported struct {
	Imported  int             `json:"imported"`
	Bad       int             `json:"bad"`
	BadLines  []agent.BadLine `json:"bad_lines"`
	From      uint64          `json:"from"` // the first line
	Lines     uint64          `json:"lines"`
	Seconds   float64         `json:"seconds"`
	PerSecond float64         `json:"per_second"`
}

func importEntities(ctx context.Context, c *entitiesCall) error {
	path, err := importPath(c.args[0])
	if err != nil {
		return err
	}
	if c.format != "csv" && c.format != "jsonl" {
		return usageError("--format is csv or jsonl")
	}
	name, size, err := c.importName(path)
	if err != nil {
		return err
	}
	skip := max(c.from, 1) - 1
	if c.from == 0 && name != "" {
		if skip, err = c.store.Marked(ctx, name); err != nil {
			return databaseError(err)
		}
		if skip > 0 {
			fmt.Fprintf(c.err, "going on from line %d, where an import of this file has ended\n", skip+1)
		}
	}
	source, err := c.source(ctx, path, skip)
	if err != nil {
		return err
	}
	defer source.close()
	all, err := c.runImport(ctx, source, name, size, skip)
	if err != nil {
		hint := "run it again: it goes on where it was"
		if name == "" {
			hint = fmt.Sprintf("go on with --from %d", all.Lines+1)
		}
		return &exitError{exitFailure, fmt.Errorf("after line %d: %w", all.Lines, err), hint}
	}
	if err := c.result(all, "%d entities imported, %.0f per second", all.Imported, all.PerSecond); err != nil {
		return err
	}
	if all.Bad > 0 {
		return &exitError{exitFailure, fmt.Errorf("bad lines, which were not imported: %d", all.Bad), "correct them and import them again"}
	}
	return nil
}

// importName names a file as it is now, for the mark of its import, and returns its size. The standard input has no name.
func (c *entitiesCall) importName(path string) (string, int64, error) {
	if path == "-" {
		return "", 0, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	kind := c.format
	if c.records {
		kind = "records"
	}
	return fmt.Sprintf("%s %d %d %s", kind, info.Size(), info.ModTime().UnixNano(), path), info.Size(), nil
}

func (c *entitiesCall) source(ctx context.Context, path string, skip uint64) (lineSource, error) {
	if c.records {
		return c.recordLines(path, skip)
	}
	keys, err := c.agent(ctx)
	if err != nil {
		return nil, err
	}
	lines, err := keys.ImportEntities(ctx, path, c.format, skip)
	if err != nil {
		keys.Close()
		return nil, keyError(err)
	}
	return &agentLines{keys, lines}, nil
}

// runImport stores what a source reads. While one step is being stored the next is being read.
func (c *entitiesCall) runImport(ctx context.Context, source lineSource, name string, size int64, skip uint64) (all *imported, err error) {
	ctx, stop := context.WithCancel(ctx)
	type read struct {
		step
		err error
	}
	steps := make(chan read, 1)
	go func() {
		defer close(steps)
		for {
			s, err := source.next(ctx)
			select {
			case steps <- read{s, err}:
			case <-ctx.Done():
				return
			}
			if s.done || err != nil {
				return
			}
		}
	}()
	defer func() {
		stop()
		for range steps { // source is not in use any more when it is closed
		}
	}()
	all = &imported{BadLines: []agent.BadLine{}, From: skip + 1, Lines: skip}
	p := newProgress(c.err)
	for s := range steps {
		if s.err != nil {
			return all, s.err
		}
		all.list(c, s.bad) // before they are marked as read
		var mark *entities.Mark
		if name != "" {
			mark = &entities.Mark{Import: name, Line: s.line, Done: s.done}
		}
		if err := c.store.Put(ctx, s.records, mark); err != nil {
			return all, err
		}
		all.Imported += len(s.records)
		all.Lines = max(all.Lines, s.line)
		all.Seconds, all.PerSecond = p.seconds(), p.rate(all.Imported)
		if s.done {
			return all, nil
		}
		part := 0.0
		if size > 0 {
			part = float64(s.bytes) / float64(size)
		}
		p.at(fmt.Sprintf("up to line %d: imported", s.line), all.Imported, part)
	}
	return all, ctx.Err()
}

// list lists bad lines.
func (all *imported) list(c *entitiesCall, bad []agent.BadLine) {
	for _, b := range bad {
		if all.Bad++; all.Bad > maxListed {
			continue
		}
		all.BadLines = append(all.BadLines, b)
		if !c.json {
			fmt.Fprintf(c.err, "line %d: %s\n", b.Line, b.Why)
		}
	}
}

// agentLines are lines with keys, which the agent reads and seals.
type agentLines struct {
	keys  *agent.Client
	lines *agent.EntityImport
}

func (a *agentLines) next(ctx context.Context) (step, error) {
	records, bad, done, err := a.lines.Next(ctx, importLines)
	s := step{bad: bad, line: a.lines.Line(), bytes: a.lines.Bytes(), done: done}
	for _, r := range records {
		s.records = append(s.records, entities.Record{Identity: r.Identity, Sealed: r.Record})
	}
	return s, err
}

func (a *agentLines) close() {
	a.lines.Close()
	a.keys.Close()
}

// recordLines are lines of an export.
type recordLines struct {
	file  io.Closer // or nil
	lines *bufio.Scanner
	skip  uint64
	at    step
}

func (c *entitiesCall) recordLines(path string, skip uint64) (*recordLines, error) {
	r := &recordLines{lines: bufio.NewScanner(c.in), skip: skip}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		r.file, r.lines = f, bufio.NewScanner(f)
	}
	r.lines.Buffer(nil, entities.MaxLine)
	return r, nil
}

func (r *recordLines) next(ctx context.Context) (step, error) {
	s := &r.at
	s.records, s.bad = nil, nil
	for n := 0; n < importLines && ctx.Err() == nil; {
		if !r.lines.Scan() {
			s.done = true
			err := r.lines.Err()
			if errors.Is(err, bufio.ErrTooLong) {
				s.bad = append(s.bad, agent.BadLine{Line: s.line + 1, Why: "the line is too long, and what follows was not read"})
				err = nil
			}
			return *s, err
		}
		line := r.lines.Bytes()
		s.bytes += uint64(len(line)) + 1
		if s.line++; s.line <= r.skip {
			continue
		}
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		record, err := entities.ParseLine(line)
		if err != nil {
			s.bad = append(s.bad, agent.BadLine{Line: s.line, Why: "not a record"})
			continue
		}
		s.records = append(s.records, record)
	}
	return *s, ctx.Err()
}

func (r *recordLines) close() {
	if r.file != nil {
		r.file.Close()
	}
}

func addEntity(ctx context.Context, c *entitiesCall) error {
	path, err := importPath(c.file)
	if err != nil {
		return err
	}
	keys, err := c.agent(ctx)
	if err != nil {
		return err
	}
	defer keys.Close()
	r, err := keys.ImportEntity(ctx, path, c.args[0])
	if bad, ok := errors.AsType[*agent.BadLinesError](err); ok {
		return &exitError{exitFailure, bad, "a key is 48 or 64 bytes in hex or base64, on one line"}
	}
	if err != nil {
		return keyError(err)
	}
	if err := c.store.Put(ctx, []entities.Record{{Identity: r.Identity, Sealed: r.Record}}, nil); err != nil {
		return databaseError(err)
	}
	return c.result(map[string]string{"added": r.Identity}, "added %s", shown(r.Identity))
}
