// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// Health asks the chip for its state, and after each connection or reset loads every version of every key, which the chip does
// only if it is whole and its own. It says what is wrong with the first that fails. Keys are not used: that would take a chip up
// to a second each.
func (p *Provider) Health(ctx context.Context) error {
	const op = "checking a TPM"
	_, err := do(ctx, p, op, checkKeys, func(c *chip) (none struct{}, err error) { return none, c.health() })
	if err != nil {
		return err
	}
	keys, _, err := p.store.list("")
	if err != nil {
		return failure(providers.Device, op, err)
	}
	for _, k := range keys {
		// One at a time, so that what is more urgent comes in between.
		_, err := do(ctx, p, "checking key "+k.info.Name, checkKeys, func(c *chip) (none struct{}, err error) {
			if err := c.check(k); err != nil || !p.config.CountersRequired || !p.counted(keys, k) {
				return none, err
			}
			return none, c.checkCounter(k)
		})
		if err != nil && k.exists() {
			return err
		}
	}
	return nil
}

// check loads a key, unless that was done since the last reset.
func (c *chip) check(k *stored) error {
	if errors.Is(k.broken, errUnused) || c.checked[k] {
		return nil
	}
	if _, err := c.load(k); err != nil {
		return err
	}
	if c.checked == nil || len(c.checked) >= maxKeys {
		c.checked = make(map[*stored]bool)
	}
	c.checked[k] = true
	return nil
}

// health tells what is wrong with the chip.
func (c *chip) health() error {
	response, err := tpm2.GetRandom{BytesRequested: 16}.Execute(c, c.plain.with(nil, encryptOut)) // that the session works, too
	if err != nil {
		return err
	}
	if len(response.RandomBytes.Buffer) != 16 {
		return lostError{errResponse}
	}
	// That nobody has cleared the chip.
	root, err := tpm2.ReadPublic{ObjectHandle: c.root.handle}.Execute(c)
	if err != nil {
		return err
	}
	if name := nameOf(root.OutPublic.Bytes()); !bytes.Equal(name.Buffer, c.root.name.Buffer) {
		c.drop()
		return failure(providers.Corrupt, "checking a TPM", errOtherRoot)
	}
	p, err := c.properties(tpm2.TPMPTPermanent, 1)
	if err != nil {
		return err
	}
	if p[tpm2.TPMPTPermanent]&inLockout == 0 {
		return nil
	}
	p, err = c.properties(tpm2.TPMPTLockoutCounter, 4)
	if err != nil {
		return err
	}
	return failure(providers.Transient, "checking a TPM", fmt.Errorf("it is locked after %d wrong authorisation values; it forgets one each %d seconds",
		p[tpm2.TPMPTLockoutCounter], p[tpm2.TPMPTLockoutInterval]))
}
