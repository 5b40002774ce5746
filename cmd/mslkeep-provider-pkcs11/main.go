// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Command mslkeep-provider-pkcs11 lets the key agent use the keys of a PKCS #11 token: a hardware security
// module, or SoftHSM. The agent starts it, with these settings, of which package pkcs11 tells more:
//
//	module           path of the PKCS #11 library
//	sha256           its SHA-256, in hexadecimal
//	token            RFC 7512 URI: pkcs11:token=NAME?pin-source=file:/PATH
//	sessions         operations at a time; default 8
//	wrapping         names of the AES keys that wrap keys; default ["*.wrap"]
//	keys             names of keys with other labels: {"name": ["pkcs11:object=…;id=%01", …]}
//	allow-rsa-pkcs1  lets RSA keys decrypt with PKCS #1 v1.5
//	without          mechanisms that are not to be used, such as ["AES-GCM"]
//	any-mechanism    makes keys without CKA_ALLOWED_MECHANISMS, which some tokens cannot keep
//	try-pin-again    tries the PIN although it was wrong the last time
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/mslkeep/mslkeep/pkcs11"
	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
)

type settings struct {
	Module        string                `json:"module"`
	SHA256        string                `json:"sha256"`
	Token         string                `json:"token"`
	Sessions      int                   `json:"sessions"`
	Wrapping      []string              `json:"wrapping"`
	Keys          map[string][]string   `json:"keys"`
	AllowRSAPKCS1 bool                  `json:"allow-rsa-pkcs1"`
	Without       []providers.Mechanism `json:"without"`
	AnyMechanism  bool                  `json:"any-mechanism"`
	TryPINAgain   bool                  `json:"try-pin-again"`
}

func main() {
	plugin.Harden(false)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mslkeep-provider-pkcs11:", err)
		os.Exit(providers.ExitCode(err))
	}
	os.Exit(0) // at once: some modules crash when the C library unloads them
}

func run() error {
	var s settings
	if err := providers.ReadSettings(&s); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := pkcs11.Open(ctx, pkcs11.Config(s))
	if err != nil {
		return err
	}
	return providers.Serve(p)
}
