// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// Describe names the chip, and says what an operator should know of it.
func (p *Provider) Describe(ctx context.Context) (providers.Description, error) {
	return do(ctx, p, "describing a TPM", useKeys, func(c *chip) (none providers.Description, err error) {
		types := []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048, providers.ECP256}
		warnings, err := c.warnings()
		if err != nil {
			return none, err
		}
		return providers.Description{Name: "tpm " + c.facts.manufacturer, Version: c.facts.firmware, Generates: types, Imports: types, MaxData: maxData,
			Warnings: warnings}, nil
	})
}

// Of TPMA_PERMANENT (TPM 2.0 part 2 §8.6).
const (
	ownerAuthSet = 1 << 0
	inLockout    = 1 << 9
)

func (c *chip) warnings() (list []string, err error) {
	warn := func(format string, a ...any) { list = append(list, fmt.Sprintf(format, a...)) }
	if !c.facts.ciphers {
		warn("the TPM has no AES: AES keys are sealed by it, and in this provider's memory while they are used")
	}
	if c.root.transient {
		warn("the storage root key is not kept in the TPM, and made at each start (persist-srk keeps it)")
	}
	state, err := c.properties(tpm2.TPMPTPermanent, 1)
	if err != nil {
		return nil, err
	}
	p, err := c.properties(tpm2.TPMPTLockoutCounter, 4)
	if err != nil {
		return nil, err
	}
	failures, limit := p[tpm2.TPMPTLockoutCounter], p[tpm2.TPMPTMaxAuthFail]
	switch {
	case state[tpm2.TPMPTPermanent]&inLockout != 0:
		warn("the TPM is locked: keys with protection from guessing cannot be used; it forgets a failure each %d seconds", p[tpm2.TPMPTLockoutInterval])
	case failures > 0:
		warn("the TPM counts %d wrong authorisation values, and is locked at %d", failures, limit)
	}
	objects, sessions, err := c.others()
	if err == nil && objects+sessions > 0 {
		warn("others have left %d objects and %d sessions in the TPM, which has room for few", objects, sessions)
	}
	return list, err
}
