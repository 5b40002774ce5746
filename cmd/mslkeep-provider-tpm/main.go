// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-provider-tpm lets the key agent use keys of a TPM 2.0. The agent starts it, with these settings,
// of which package tpm tells more:
//
//	folder          where the key files are
//	device          /dev/tpmrm0 (default), /dev/tpm0, swtpm:unix:/PATH or swtpm:tcp:HOST:PORT
//	srk-name        name of the storage root key, in hexadecimal; default: what was found first
//	persist-srk     keeps the storage root key in the chip if it is not there
//	auth-source     authorisation value of the keys: file:/PATH or credential:NAME
//	auth-is-random  the value cannot be guessed, so new keys need no protection from guessing
//	pcrs            PCRs that new keys are bound to, such as [0, 7]
//	policy-key      PEM file with the public key of who approves of other values of the PCRs
//	approvals       folder of what was approved: NAME.policy and NAME.sig
//	decrypting      names of the key pairs that decrypt rather than sign; default ["exchange", "*.exchange", "*.decrypt", "*.agree"]
//	wrapping        names of the AES keys that wrap keys; default ["*.wrap"]
//	sealed          names of the AES keys that are used in memory; default ["storage", "*.storage", "*.sealed"]
//	counters        names of the keys beside which the chip counts, so that what was sealed earlier can be told from what was
//	                sealed last; default ["storage", "*.storage"]; [] for none
//	counters-required  says that nothing is to be sealed with a key while the chip does not count beside it
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/tpm"
)

type settings struct {
	Device           string   `json:"device"`
	Folder           string   `json:"folder"`
	RootName         string   `json:"srk-name"`
	PersistRoot      bool     `json:"persist-srk"`
	AuthSource       string   `json:"auth-source"`
	AuthIsRandom     bool     `json:"auth-is-random"`
	PCRs             []uint   `json:"pcrs"`
	PolicyKey        string   `json:"policy-key"`
	Approvals        string   `json:"approvals"`
	Decrypting       []string `json:"decrypting"`
	Wrapping         []string `json:"wrapping"`
	Sealed           []string `json:"sealed"`
	Counters         []string `json:"counters"`
	CountersRequired bool     `json:"counters-required"`
}

func main() {
	plugin.Harden(false)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mslkeep-provider-tpm:", err)
		os.Exit(providers.ExitCode(err))
	}
}

func run() error {
	var s settings
	if err := providers.ReadSettings(&s); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := tpm.Open(ctx, tpm.Config(s))
	if err != nil {
		return err
	}
	return providers.Serve(p)
}
