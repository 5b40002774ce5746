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

const usage = `Usage: mslkeep-scan --keys FILE... (--process NAME=PID | --fd NAME=MEM:MAPS)...

Looks for every key of the key logs in the memory of each process: raw, in hexadecimal, in base64, and
as AES and HMAC expand it. Prints how many keys it looked for and how many it found in each process, and
never a key.

  --keys FILE           a key log, as written by mslkeep-agent's key-log; may be given several times
  --process NAME=PID    a process to search, which this user must be allowed to trace
  --fd NAME=MEM:MAPS    the same by inherited descriptors of /proc/PID/mem and /proc/PID/maps
  --json                print JSON

Exit status: 0 whatever was found, 1 if something could not be read, 2 for wrong usage.

Example:
  mslkeep-scan --keys agent.keys --process server=4711 --process agent=4712
`

// A target is a process to search. Its descriptors are already open, or are opened by pid.
type target struct {
	name      string
	pid       int
	mem, maps *os.File
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

// parseFDs parses NAME=MEM:MAPS. The process's number is that of the directory that MEM was opened in.
func parseFDs(s string) (*target, error) {
	name, value, ok := strings.Cut(s, "=")
	first, second, ok2 := strings.Cut(value, ":")
	mem, err1 := strconv.ParseUint(first, 10, 16)
	maps, err2 := strconv.ParseUint(second, 10, 16)
	if !ok || !ok2 || name == "" || err1 != nil || err2 != nil || mem < 3 || maps < 3 {
		return nil, errors.New("must be NAME=MEM:MAPS, numbers of inherited descriptors")
	}
	link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", mem)) // /proc/PID/mem
	pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
	return &target{name, pid, os.NewFile(uintptr(mem), "mem"), os.NewFile(uintptr(maps), "maps")}, nil
}

// scan opens what is not open yet, and searches.
func (t *target) scan(s *memscan.Scanner) (*memscan.Report, error) {
	if t.mem == nil {
		dir := filepath.Join("/proc", strconv.Itoa(t.pid))
		var err error
		if t.mem, err = os.Open(filepath.Join(dir, "mem")); err != nil {
			return nil, err
		}
		if t.maps, err = os.Open(filepath.Join(dir, "maps")); err != nil {
			t.mem.Close()
			return nil, err
		}
	}
	defer t.mem.Close()
	defer t.maps.Close()
	return s.Scan(t.maps, t.mem)
}
