// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/entities"
)

func exportEntities(ctx context.Context, c *entitiesCall) error {
	total, err := c.store.Count(ctx, c.prefix)
	if err != nil {
		return databaseError(err)
	}
	out := bufio.NewWriterSize(c.out, 1<<16)
	p, done := newProgress(c.err), 0
	var line []byte
	err = c.pages(ctx, pageSize, func(page []entities.Record) error {
		for _, r := range page {
			var err error
			if line, err = r.AppendLine(line[:0]); err != nil {
				return err
			}
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		done += len(page)
		p.at("exported", done, float64(done)/float64(max(total, 1)))
		return nil
	})
	return errors.Join(err, out.Flush())
}

// rewrapped is how a rewrap went.
type rewrapped struct {
	Sealed  int      `json:"sealed"`  // anew
	Newest  int      `json:"newest"`  // were it already
	Changed int      `json:"changed"` // by others, meanwhile
	Damaged int      `json:"damaged"` // cannot be opened
	First   []string `json:"damaged_identities"`
	Seconds float64  `json:"seconds"`
}

func rewrapEntities(ctx context.Context, c *entitiesCall) error {
	keys, err := c.agent(ctx)
	if err != nil {
		return err
	}
	defer keys.Close()
	total, err := c.store.Count(ctx, c.prefix)
	if err != nil {
		return databaseError(err)
	}
	p, done := newProgress(c.err), 0
	all := &rewrapped{First: []string{}}
	err = c.pages(ctx, pageSize, func(page []entities.Record) error {
		if err := c.rewrapPage(ctx, keys, page, all); err != nil {
			return err
		}
		done += len(page)
		p.at("looked at", done, float64(done)/float64(max(total, 1)))
		return nil
	})
	if err != nil {
		return &exitError{exitFailure, fmt.Errorf("after %d of %d: %w", done, total, err), "run it again: it does what is left"}
	}
	all.Seconds = p.seconds()
	err = c.result(all, "%d sealed anew, %d were already, %d were changed meanwhile", all.Sealed, all.Newest, all.Changed)
	if err == nil && all.Damaged > 0 {
		err = &exitError{exitFailure, fmt.Errorf("records that this agent cannot open: %d", all.Damaged), "add or import these entities again, or remove them"}
	}
	return err
}

// rewrapPage has some records sealed anew.
func (c *entitiesCall) rewrapPage(ctx context.Context, keys *agent.Client, page []entities.Record, all *rewrapped) error {
	ask := make([]agent.EntityRecord, len(page))
	for i, r := range page {
		ask[i] = agent.EntityRecord{Identity: r.Identity, Record: r.Sealed}
	}
	answer, err := keys.RewrapEntities(ctx, ask)
	if err != nil {
		return err
	}
	var old []entities.Record
	var sealed [][]byte
	for i, a := range answer {
		switch {
		case len(a.Record) == 0:
			if all.Damaged++; all.Damaged > maxListed {
				continue
			}
			all.First = append(all.First, a.Identity)
			if !c.json {
				fmt.Fprintf(c.err, "%s cannot be opened\n", shown(a.Identity))
			}
		case bytes.Equal(a.Record, page[i].Sealed):
			all.Newest++
		default:
			old, sealed = append(old, page[i]), append(sealed, a.Record)
		}
	}
	n, err := c.store.Replace(ctx, old, sealed)
	all.Sealed += int(n)
	all.Changed += len(old) - int(n)
	return err
}
