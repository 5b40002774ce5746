// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mslkeep/mslkeep/agent"
)

const deviceUsage = `Usage: mslkeep device enrol --identity NAME --url URL --keys DIR [FLAGS]
       mslkeep device endorsement [FLAGS]

Works on the TPM of this device, by running mslkeep-enrol, which is beside this program: this one never talks to a TPM. The
server that enrols devices is mslkeep-enrol serve.

  enrol        makes this device's identity key in its TPM, and has a server take it for an identity
  endorsement  prints the lines of this device's TPM for the server's list of endorsement keys

Each explains itself: mslkeep device enrol --help

Example:
  mslkeep device enrol --identity sensor-1 --url http://server:8090/ --keys /var/lib/mslkeep/tpm
`

// device runs mslkeep-enrol, if it is the one that was built with this program.
func device(ctx context.Context, c *cli, args []string) error {
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h" || args[0] == "-help") {
		fmt.Fprint(c.out, deviceUsage)
		return nil
	}
	if len(args) == 0 || args[0] != "enrol" && args[0] != "endorsement" {
		return usageError("takes enrol or endorsement")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if enrolSHA256 == "" {
		return configError(errors.New("nothing says which mslkeep-enrol is the right one"), "build both with: make build")
	}
	var said bytes.Buffer
	code, err := agent.Command(ctx, agent.Config{Path: filepath.Join(filepath.Dir(self), "mslkeep-enrol"), SHA256: enrolSHA256, Args: args,
		Env: []string{"PATH", "CREDENTIALS_DIRECTORY", "TMPDIR"}, Log: &said}, c.out)
	if err != nil {
		return configError(err, "build both with: make build")
	}
	if code == 0 {
		_, err = c.err.Write(said.Bytes())
		return err
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	reason := strings.TrimPrefix(lines[len(lines)-1], "mslkeep-enrol: ")
	if code != exitUsage && code != exitRefused {
		code = exitFailure
	}
	return &exitError{code, errors.New(reason), ""}
}
