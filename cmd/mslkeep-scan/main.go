// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-scan looks for the keys of a key log in the memory of running processes.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mslkeep/mslkeep/internal/memscan"
)

const usage = `Usage: mslkeep-scan --keys FILE... (--process NAME=PID | --fd NAME=MEM:MAPS[:PAGEMAP])...

Looks for every key of the key logs in the memory of each process: raw, in hexadecimal, in base64, and
as AES and HMAC expand it. Prints how many keys it looked for and how many it found in each process, and
never a key.

  --keys FILE           a key log, as written by mslkeep-agent's key-log; may be given several times
  --process NAME=PID    a process to search, which this user must be allowed to trace
  --fd NAME=MEM:MAPS[:PAGEMAP]
                        the same by inherited descriptors of /proc/PID/mem, /proc/PID/maps and, which makes
                        it faster, /proc/PID/pagemap
  --json                print JSON

Exit status: 0 whatever was found, 1 if something could not be read, 2 for wrong usage.

Example:
  mslkeep-scan --keys agent.keys --process server=4711 --process agent=4712
`

// A target is a process to search, by its files in /proc.
type target struct {
	name  string
	pid   int        // 0: not known
	files []*os.File // mem, maps and perhaps pagemap; nil: to be opened by pid
}

// A result is what --json prints of a process.
type result struct {
	Name       string        `json:"name"`
	PID        int           `json:"pid"` // 0: not known
	Found      int           `json:"found"`
	Labels     []string      `json:"labels"`
	Hits       []memscan.Hit `json:"hits"`
	Bytes      int64         `json:"bytes"`
	Unreadable int64         `json:"unreadable"`
}

func main() {
	err := run(os.Args[1:], os.Stdout)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "mslkeep-scan: %v\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "mslkeep-scan: %v\n", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("see mslkeep-scan --help")

func run(args []string, out io.Writer) error {
	var logs []string
	var targets []*target
	flags := flag.NewFlagSet("mslkeep-scan", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("keys", "", func(s string) error { logs = append(logs, s); return nil })
	add := func(parse func(string) (*target, error)) func(string) error {
		return func(s string) error {
			t, err := parse(s)
			targets = append(targets, t)
			return err
		}
	}
	flags.Func("process", "", add(parseProcess))
	flags.Func("fd", "", add(parseFDs))
	asJSON := flags.Bool("json", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	if len(logs) == 0 || len(targets) == 0 || flags.NArg() > 0 {
		return fmt.Errorf("a key log and a process are needed, and nothing else: %w", errUsage)
	}

	scanner, err := load(logs)
	if err != nil {
		return err
	}
	results := make([]result, 0, len(targets))
	for _, t := range targets {
		r, err := t.scan(scanner)
		if err != nil {
			return fmt.Errorf("process %s: %w", t.name, err)
		}
		results = append(results, result{t.name, t.pid, r.Found, r.Labels(), r.Hits, r.Bytes, r.Unreadable})
	}
	if *asJSON {
		return json.NewEncoder(out).Encode(struct {
			Keys      int      `json:"keys"`
			Processes []result `json:"processes"`
		}{scanner.Keys(), results})
	}
	return printText(out, scanner.Keys(), results)
}

func printText(out io.Writer, keys int, results []result) error {
	fmt.Fprintf(out, "looked for %d keys\n", keys)
	for _, r := range results {
		fmt.Fprintf(out, "%s: found %d, in %d MiB\n", r.Name, r.Found, r.Bytes>>20)
		for _, h := range r.Hits {
			fmt.Fprintf(out, "    %s as %s in %s\n", h.Label, h.Form, h.Mapping)
		}
	}
	return nil
}

// load reads the key logs.
func load(logs []string) (*memscan.Scanner, error) {
	var keys []memscan.Key
	for _, path := range logs {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		more, err := memscan.ReadKeyLog(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		keys = append(keys, more...)
	}
	return memscan.New(keys)
}

// parseProcess parses NAME=PID.
func parseProcess(s string) (*target, error) {
	name, value, ok := strings.Cut(s, "=")
	pid, err := strconv.ParseUint(value, 10, 31)
	if !ok || name == "" || err != nil || pid == 0 {
		return nil, errors.New("must be NAME=PID")
	}
	return &target{name: name, pid: int(pid)}, nil
}

// parseFDs parses NAME=MEM:MAPS[:PAGEMAP]. The process's number is that of the folder of MEM.
func parseFDs(s string) (*target, error) {
	name, value, _ := strings.Cut(s, "=")
	fields := strings.Split(value, ":")
	if name == "" || len(fields) < 2 || len(fields) > 3 {
		return nil, errors.New("must be NAME=MEM:MAPS or NAME=MEM:MAPS:PAGEMAP")
	}
	t := &target{name: name}
	for i, field := range fields {
		fd, err := strconv.ParseUint(field, 10, 16)
		if err != nil || fd < 3 {
			return nil, errors.New("must have numbers of inherited descriptors")
		}
		t.files = append(t.files, os.NewFile(uintptr(fd), files[i]))
	}
	link, _ := os.Readlink("/proc/self/fd/" + fields[0]) // /proc/PID/mem
	t.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(link)))
	return t, nil
}

// files are the names of a target's files.
var files = [...]string{"mem", "maps", "pagemap"}

// scan opens the files if they are not open yet, and searches.
func (t *target) scan(s *memscan.Scanner) (*memscan.Report, error) {
	defer func() {
		for _, f := range t.files {
			f.Close()
		}
	}()
	if t.files == nil {
		for _, name := range files {
			f, err := os.Open(filepath.Join("/proc", strconv.Itoa(t.pid), name))
			if err != nil {
				return nil, err
			}
			t.files = append(t.files, f)
		}
	}
	var pagemap io.ReaderAt
	if len(t.files) == len(files) {
		pagemap = t.files[2]
	}
	return s.Scan(t.files[1], t.files[0], pagemap)
}
