// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/mslkeep/mslkeep/msl"
)

const inspectUsage = `Usage: mslkeep inspect [--json] [FILE]

Prints everything in a recorded message that needs no key: who sent it, its master token's times and
numbers, what protects its header and payloads, and whatever is not encrypted. Nothing is verified.
Reads standard input without FILE.

Example:
  mslkeep inspect --json message.msl
`

func inspect(_ context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("inspect", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(c, flags, inspectUsage, args, -1); err != nil {
		return err
	}
	if flags.NArg() > 1 {
		return usageError("takes one file, not %d", flags.NArg())
	}
	var in io.Reader = c.in
	if flags.NArg() == 1 && flags.Arg(0) != "-" {
		file, err := os.Open(flags.Arg(0))
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	m, err := msl.Inspect(in, msl.Limits{})
	var bad *msl.Error
	switch {
	case errors.As(err, &bad):
		return &exitError{exitFailure, fmt.Errorf("not an MSL message: %w", err), "a message begins with { and a header object"}
	case err != nil:
		return err
	case *asJSON:
		return printJSON(c.out, m)
	}
	_, err = io.WriteString(c.out, strings.Map(printable, m.Text()))
	return err
}

// printable keeps what a peer wrote from steering the terminal.
func printable(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}
