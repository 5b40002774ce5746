// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-enrol enrols devices with a TPM: it is the server, and it is what mslkeep device runs on the device.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// Exit codes, which are mslkeep's.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 5 // by the server
)

const usage = `mslkeep-enrol makes devices known to a server by their TPMs. It holds no keys.

Usage: mslkeep-enrol serve FLAGS         the server
       mslkeep device enrol FLAGS        on a device: makes its identity key, and enrols it
       mslkeep device endorsement FLAGS  on a device: prints its TPM's lines for the server's list

Each explains itself with --help.

Exit codes: 0 done, 1 failed, 2 usage, 5 refused by the server
`

const serveUsage = `Usage: mslkeep-enrol serve --devices DIR (--endorsement-keys FILE | --roots FILE) [FLAGS]

Enrols devices over HTTP. It needs no TLS. A device must have an endorsement key that is on the list, or that has a certificate
which leads to one of the roots, or both where both are asked for. It must show that its identity key lives in the same TPM.
Its public key becomes a file of the folder, which mslkeep serve reads (public-key-directory in [peers]); the device
authenticates with scheme ECC or RSA, its identity and key-id the same. Removing the file undoes it; whoever is on the list
can enrol again.

A list has a line for each endorsement key, and is read again when it changes:
  SHA256 [IDENTITY]    # the SHA-256 of the key's public area, as mslkeep device endorsement prints it

With roots alone, whoever has any TPM of that maker can have any identity that is free. Use a list to say which has which.

Examples:
  mslkeep-enrol serve --devices devices --endorsement-keys endorsement-keys
  mslkeep-enrol serve --devices devices --roots makers.pem --identities 'sensor-*' --listen :8090
`

const deviceUsage = `Usage: mslkeep device enrol --identity NAME --url URL --keys DIR [FLAGS]

Makes an identity key in this device's TPM, if there is none yet, and has an enrolment server (mslkeep-enrol serve) take it for
that identity. The key is ec/NAME or rsa/NAME in the folder, where mslkeep-provider-tpm finds it.

Example:
  mslkeep device enrol --identity sensor-1 --url http://server:8090/ --keys /var/lib/mslkeep/tpm
`

const endorsementUsage = `Usage: mslkeep device endorsement [FLAGS]

Prints a line for each endorsement key of this device's TPM, for the list of an enrolment server. One of them will do.

Example:
  mslkeep device endorsement --identity sensor-1
`

func main() {
	plugin.Harden(false)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	os.Exit(code)
}

// A usageError is the error of a command that was asked in a way that it does not understand.
type usageError struct{ error }

// run runs a command and returns the exit code.
func run(ctx context.Context, out, said io.Writer, args []string) int {
	commands := map[string]func(context.Context, io.Writer, io.Writer, []string) error{
		"serve": serve, "enrol": enrolDevice, "endorsement": endorsement,
	}
	if len(args) == 0 {
		fmt.Fprint(said, usage)
		return exitUsage
	}
	if args[0] == "--help" || args[0] == "-h" || args[0] == "help" {
		fmt.Fprint(out, usage)
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(said, "mslkeep-enrol: there is no command %q; mslkeep-enrol --help lists them\n", args[0])
		return exitUsage
	}
	err := command(ctx, out, said, args[1:])
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(said, "mslkeep-enrol: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*enrol.Refusal](err); ok {
		return exitRefused
	}
	return exitFailure
}

// parse parses the flags of a command, which takes nothing else.
func parse(out io.Writer, flags *flag.FlagSet, text string, args []string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, text, "\nFlags:\n")
		flags.SetOutput(out)
		flags.PrintDefaults()
		return err
	case err != nil:
		return usageError{fmt.Errorf("%w; --help explains", err)}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q; --help explains", flags.Arg(0))}
	}
	return nil
}
