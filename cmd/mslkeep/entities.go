// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/entities"
	"github.com/mslkeep/mslkeep/msl"
)

const entitiesUsage = `Usage: mslkeep entities OPERATION (--config FILE | --database URL [--agent-config FILE]) [FLAGS] [ARGUMENT…]

Works on the database with the pre-shared keys of entities, which an agent has sealed: only an agent with the same
record-key can open a record, and only for the identity that it was sealed for. import, add and rewrap need the agent,
which reads the keys itself: no key passes through this program. A service that runs sees every change at once.

  import FILE|-       entities from a file: lines IDENTITY,KEY, or with --format jsonl {"identity":…,"key":…}, where a key
                      is 48 or 64 bytes in hex or base64. Bad lines are listed, good ones imported. When it is stopped, by
                      whatever, and run again, it goes on where it was
  add IDENTITY        one entity, whose key is in --file or standard input
  remove IDENTITY…    revokes entities: what they send next is refused, also under tokens that they have
  rewrap              seals all records under the newest version of the record key, while the service runs. It may be
                      stopped and run again at any time
  export              every record as a JSON line, for import --records; it holds no key
  list [PREFIX]       identities, and under which version of which key their records are sealed
  count [PREFIX]      how many there are

Examples:
  mslkeep entities import --config serve.toml devices.csv
  mslkeep entities import --config serve.toml --format jsonl --from 50001 - < devices.jsonl
  openssl rand -hex 48 | mslkeep entities add --config serve.toml device-7
  mslkeep entities remove --config serve.toml stolen-1 stolen-2
  mslkeep entities rewrap --config serve.toml
  mslkeep entities export --config serve.toml > backup.jsonl
  mslkeep entities import --config serve.toml --records backup.jsonl
  mslkeep entities list --config serve.toml --prefix device-
  mslkeep entities count --config serve.toml
`

// entitiesConfig is the section [entities].
type entitiesConfig struct {
	Database string `toml:"database"` // "sqlite:PATH" or "postgres://…"; empty: there is none
}

// entitiesFlags are the flags of entities.
type entitiesFlags struct {
	config, agentConfig, database, format, file, prefix string
	from                                                uint64
	records, json                                       bool
}

// An entitiesCall is what an operation works with.
type entitiesCall struct {
	*cli
	entitiesFlags
	args  []string
	cfg   *config
	store *entities.Store
}

// entitiesOperations is the table of operations, and how many arguments they take.
var entitiesOperations = map[string]struct {
	work     func(context.Context, *entitiesCall) error
	min, max int
}{
	"import": {importEntities, 1, 1},
	"add":    {addEntity, 1, 1},
	"remove": {removeEntities, 1, entities.MaxBatch},
	"rewrap": {rewrapEntities, 0, 0},
	"export": {exportEntities, 0, 0},
	"list":   {listEntities, 0, 1},
	"count":  {countEntities, 0, 1},
}

func entitiesCommand(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("entities", flag.ContinueOnError)
	call := &entitiesCall{cli: c}
	flags.StringVar(&call.config, "config", "", "configuration `file` of serve, which names the agent and the database")
	flags.StringVar(&call.agentConfig, "agent-config", "", "the agent's own configuration `file`, if there is no other")
	flags.StringVar(&call.database, "database", "", "`URL` of the database, sqlite:PATH or postgres://…, instead of the configuration's")
	flags.StringVar(&call.format, "format", "csv", "`format` to import: csv or jsonl")
	flags.Uint64Var(&call.from, "from", 0, "first `line` to import; 1 is the first (default: where an import of the same file ended)")
	flags.BoolVar(&call.records, "records", false, "import what export has written")
	flags.StringVar(&call.file, "file", "-", "`file` with the key to add; - is standard input")
	flags.StringVar(&call.prefix, "prefix", "", "list, count or export only identities that begin with `text`")
	flags.BoolVar(&call.json, "json", false, "print JSON")
	operation := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		operation, args = args[0], args[1:]
	}
	if err := parse(c, flags, entitiesUsage, args, -1); err != nil {
		return err
	}
	op, ok := entitiesOperations[operation]
	if !ok {
		return usageError("there is no operation %q", operation)
	}
	if call.args = flags.Args(); len(call.args) < op.min || len(call.args) > op.max {
		return usageError("%s takes another number of arguments than %d", operation, len(call.args))
	}
	if (operation == "list" || operation == "count") && len(call.args) == 1 {
		call.prefix = call.args[0]
	}
	var err error
	if call.cfg, err = call.load(); err != nil {
		return err
	}
	if call.store, err = call.cfg.openEntities(ctx); err != nil {
		return err
	}
	defer call.store.Close()
	return op.work(ctx, call)
}

// load returns the configuration that the flags name.
func (f *entitiesFlags) load() (*config, error) {
	cfg := new(config)
	switch {
	case f.config != "" && f.agentConfig != "" || f.config == "" && f.database == "":
		return nil, usageError("give either --config, or --database and perhaps --agent-config")
	case f.config != "":
		var err error
		if cfg, err = loadConfig(f.config); err != nil {
			return nil, err
		}
	default:
		cfg.Agent.Config = f.agentConfig
	}
	if f.database != "" {
		path, ok := strings.CutPrefix(f.database, "sqlite:")
		if ok && path != "" {
			path, err := filepath.Abs(path)
			if err != nil {
				return nil, err
			}
			cfg.Entities.Database = "sqlite:" + path
		} else {
			cfg.Entities.Database = f.database
		}
	}
	if cfg.Entities.Database == "" {
		return nil, configError(errors.New("[entities] names no database"), `set database = "sqlite:entities.db"`)
	}
	return cfg, nil
}

// openEntities opens the database that the configuration names.
func (c *config) openEntities(ctx context.Context) (*entities.Store, error) {
	database := c.Entities.Database
	if path, ok := strings.CutPrefix(database, "sqlite:"); ok && path != "" {
		database = "sqlite:" + c.path(path)
	}
	s, err := entities.Open(ctx, database)
	if err == nil {
		return s, nil
	}
	for _, wrong := range []error{entities.ErrURL, entities.ErrSecret, entities.ErrOpen, entities.ErrMode} {
		if errors.Is(err, wrong) {
			return nil, configError(fmt.Errorf("[entities] database: %w", err), "write sqlite:PATH, or postgres://USER@HOST/NAME?passfile=PATH")
		}
	}
	return nil, configError(fmt.Errorf("[entities] database: %w", err), "")
}

// agent connects to an agent that manages keys.
func (c *entitiesCall) agent(ctx context.Context) (*agent.Client, error) {
	if c.cfg.Agent.Config == "" && c.cfg.Agent.Socket == "" {
		return nil, usageError("this needs the agent: give --config or --agent-config")
	}
	keys, err := c.cfg.connect(ctx, "--manage")
	if err != nil {
		return nil, err
	}
	if err := checkRecordKey(ctx, keys); err != nil {
		keys.Close()
		return nil, err
	}
	return keys, nil
}

// checkRecordKey makes sure that the agent has a key for records. keys is in no other use.
func checkRecordKey(ctx context.Context, keys *agent.Client) error {
	keys.UseRecords(func(context.Context, string) ([]byte, error) { return damagedRecord, nil })
	defer keys.UseRecords(nil)
	_, err := keys.EntityContext(ctx, "PSK", "mslkeep", "")
	var failure msl.FailureError
	if !errors.As(err, &failure) {
		return err
	}
	if f, _ := failure.Failure(); f == msl.NotSupported {
		return configError(errors.New("there is a database of entities, but the agent has no record-key, without which it opens no record"),
			"set record-key in the agent's configuration, make that key with mslkeep-agent init, and start the agent again")
	}
	return nil // a record that no agent opens was not opened
}

// result prints how something went: as JSON, or as a sentence.
func (c *entitiesCall) result(v any, format string, args ...any) error {
	if c.json {
		return printJSON(c.out, v)
	}
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}

func removeEntities(ctx context.Context, c *entitiesCall) error {
	unknown, err := c.store.Remove(ctx, c.args...)
	if err != nil {
		return databaseError(err)
	}
	removed := len(c.args) - len(unknown)
	if unknown == nil {
		unknown = []string{}
	}
	err = c.result(map[string]any{"removed": removed, "unknown": unknown}, "%d removed", removed)
	if err == nil && len(unknown) > 0 {
		err = &exitError{exitFailure, fmt.Errorf("not there: %d, the first is %q", len(unknown), unknown[0]), "mslkeep entities list shows what is"}
	}
	return err
}

func countEntities(ctx context.Context, c *entitiesCall) error {
	n, err := c.store.Count(ctx, c.prefix)
	if err != nil {
		return databaseError(err)
	}
	return c.result(map[string]int64{"entities": n}, "%d", n)
}

// pages calls f with all records, in pages.
func (c *entitiesCall) pages(ctx context.Context, size int, f func([]entities.Record) error) error {
	for after := ""; ; {
		page, err := c.store.Page(ctx, c.prefix, after, size)
		if err != nil {
			return databaseError(err)
		}
		if len(page) == 0 {
			return ctx.Err()
		}
		if err := f(page); err != nil {
			return err
		}
		after = page[len(page)-1].Identity
	}
}

// listed is an entity as list prints it.
type listed struct {
	Identity string `json:"identity"`
	Key      string `json:"key"`
	Version  uint32 `json:"version"`
}

func listEntities(ctx context.Context, c *entitiesCall) error {
	if !c.json {
		w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "IDENTITY\tKEY\tVERSION")
		err := c.pages(ctx, pageSize, func(page []entities.Record) error {
			for _, r := range page {
				key, version, _ := r.KeyOf()
				fmt.Fprintf(w, "%s\t%s\t%d\n", shown(r.Identity), shown(key), version)
			}
			return w.Flush()
		})
		return errors.Join(err, w.Flush())
	}
	separator := "["
	err := c.pages(ctx, pageSize, func(page []entities.Record) error {
		for _, r := range page {
			key, version, _ := r.KeyOf()
			line, err := json.Marshal(listed{r.Identity, key, version})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.out, "%s\n  %s", separator, line); err != nil {
				return err
			}
			separator = ","
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.out, strings.TrimPrefix(separator, ",")+"\n]\n")
	return err
}

// shown quotes what could do something to a terminal, or cannot be told from something else.
func shown(s string) string {
	if quoted := fmt.Sprintf("%q", s); quoted != `"`+s+`"` || s == "" || strings.TrimSpace(s) != s {
		return quoted
	}
	return s
}

// databaseError adds a hint to what the database said.
func databaseError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &exitError{exitFailure, err, "try again when the database can be reached"}
}

const (
	pageSize      = 1000 // records
	progressEvery = time.Second
)

// A progress says on standard error how far long work has come.
type progress struct {
	to    io.Writer
	began time.Time
	last  time.Time
}

func newProgress(to io.Writer) *progress {
	now := time.Now()
	return &progress{to, now, now}
}

// at says, at most once a second, how many are done; part is how much of the whole that is, or 0 if nobody knows.
func (p *progress) at(what string, done int, part float64) {
	now := time.Now()
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	left := ""
	if part > 0 && part <= 1 {
		rest := time.Duration(float64(now.Sub(p.began)) * (1 - part) / part)
		left = fmt.Sprintf(", %.0f %%, %v left", 100*part, rest.Round(time.Second))
	}
	fmt.Fprintf(p.to, "%s %d, %.0f per second%s\n", what, done, p.rate(done), left)
}

func (p *progress) seconds() float64 { return time.Since(p.began).Seconds() }

func (p *progress) rate(done int) float64 { return float64(done) / max(p.seconds(), 1e-6) }
