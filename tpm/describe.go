// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// Of TPMA_PERMANENT (TPM 2.0 part 2 §8.6).
const (
	ownerAuthSet   = 1 << 0
	lockoutAuthSet = 1 << 2
	inLockout      = 1 << 9
)

// Describe names the chip, and says what an operator should know of it.
func (p *Provider) Describe(ctx context.Context) (providers.Description, error) {
	const op = "describing a TPM"
	keys, _, err := p.store.list("")
	if err != nil {
		return providers.Description{}, failure(providers.Device, op, err)
	}
	var counted []*stored
	for _, k := range keys {
		if p.counted(keys, k) {
			counted = append(counted, k)
		}
	}
	return do(ctx, p, op, useKeys, func(c *chip) (none providers.Description, err error) {
		r := &report{c: c}
		if err := r.all(counted); err != nil {
			return none, err
		}
		types := []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256, providers.RSA2048, providers.ECP256}
		return providers.Description{Name: "tpm " + c.facts.manufacturer, Version: c.facts.firmware, Generates: types, Imports: types, MaxData: maxData,
			Warnings: r.warnings, Facts: r.facts}, nil
	})
}

// A report is what there is to know of a chip: what is as it should be, and what is not.
type report struct {
	c               *chip
	state           map[tpm2.TPMPT]uint32
	facts, warnings []string
}

func (r *report) fact(format string, a ...any) { r.facts = append(r.facts, fmt.Sprintf(format, a...)) }
func (r *report) warn(format string, a ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, a...))
}

// all takes five commands, and one for each key beside which the chip counts.
func (r *report) all(counted []*stored) (err error) {
	// All that varies (part 2 §6.13, PT_VAR), in one command.
	if r.state, err = r.c.properties(tpm2.TPMPTPermanent, 32); err != nil {
		return err
	}
	r.device()
	r.root()
	r.lockout()
	if err := r.room(); err != nil {
		return err
	}
	if err := r.algorithms(); err != nil {
		return err
	}
	r.clock()
	return r.counters(counted)
}

func (r *report) device() {
	how := "raw: whatever others leave in the chip fills it for us, too"
	switch {
	case managed(r.c.config.Device):
		how = "by way of the kernel, which keeps its users apart"
	case simulated(r.c.config.Device):
		how = "a simulator, which protects nothing"
	}
	r.fact("device: %s, %s", r.c.config.Device, how)
}

func (r *report) root() {
	where := "kept at %08x"
	if r.c.root.transient {
		where = "not kept at %08x"
		r.warn("the storage root key is not kept in the TPM, and made at each start (persist-srk keeps it)")
	}
	r.fact("storage root key: "+where+", name %x", uint32(rootHandle), r.c.root.name.Buffer)
}

func (r *report) lockout() {
	failures, limit, interval := r.state[tpm2.TPMPTLockoutCounter], r.state[tpm2.TPMPTMaxAuthFail], r.state[tpm2.TPMPTLockoutInterval]
	permanent := r.state[tpm2.TPMPTPermanent]
	switch {
	case permanent&inLockout != 0:
		r.warn("the TPM is locked: keys with protection from guessing cannot be used; it forgets a failure each %d seconds", interval)
	case failures > 0:
		r.warn("the TPM counts %d wrong authorisation values, and is locked at %d", failures, limit)
	}
	r.fact("lockout: %d wrong authorisation values counted of %d; one is forgotten each %d seconds", failures, limit, interval)
	set := func(bit uint32) string {
		if permanent&bit != 0 {
			return "has a password"
		}
		return "has none"
	}
	r.fact("passwords: owner %s, lockout %s (without one, any user of the chip can clear it)", set(ownerAuthSet), set(lockoutAuthSet))
}

// room tells of what the chip has little. Some of it is ours already.
func (r *report) room() error {
	objects, sessions, err := r.c.others()
	if err != nil {
		return err
	}
	if objects+sessions > 0 {
		r.warn("others have left %d objects and %d sessions in the TPM, which has room for few", objects, sessions)
	}
	r.fact("room: for %d more objects, %d more loaded sessions, %d more persistent keys, about %d more counters", r.state[tpm2.TPMPTHRTransientAvail],
		r.state[tpm2.TPMPTHRLoadedAvail], r.state[tpm2.TPMPTHRPersistentAvail], r.state[tpm2.TPMPTNVCountersAvail])
	return nil
}

// algorithmNames are those that keys need, and what is missing without them.
var algorithmNames = []struct {
	id          tpm2.TPMAlgID
	name, costs string
}{
	{tpm2.TPMAlgRSA, "RSA", "no RSA keys"},
	{tpm2.TPMAlgRSASSA, "RSASSA", "no RSA signatures"},
	{tpm2.TPMAlgOAEP, "OAEP", "no key exchange with a key of the TPM"},
	{tpm2.TPMAlgECDSA, "ECDSA", "no ECDSA signatures"},
	{tpm2.TPMAlgECDH, "ECDH", "no agreed secrets"},
	{tpm2.TPMAlgHMAC, "HMAC", "no HMAC keys"},
	{tpm2.TPMAlgSHA1, "SHA-1", "no OAEP as MSL has it, and so no key exchange with a key of the TPM"},
	{tpm2.TPMAlgSHA256, "SHA-256", "no signatures, HMAC keys or sessions"},
}

func (r *report) algorithms() error {
	data, err := r.c.capability(tpm2.TPMCapAlgs, uint32(tpm2.TPMAlgRSA), 127)
	if err != nil {
		return err
	}
	list, err := data.Data.Algorithms()
	if err != nil {
		return errResponse
	}
	var there []string
	for _, a := range algorithmNames {
		if slices.ContainsFunc(list.AlgProperties, func(p tpm2.TPMSAlgProperty) bool { return p.Alg == a.id }) {
			there = append(there, a.name)
		} else {
			r.warn("the TPM has no %s: %s", a.name, a.costs)
		}
	}
	if r.c.facts.ciphers {
		there = append(there, "AES")
	} else {
		r.warn("the TPM has no AES: AES keys are sealed by it, and in this provider's memory while they are used")
	}
	r.fact("algorithms: %s", strings.Join(there, ", "))
	return nil
}

func (r *report) clock() {
	k := r.c.facts.clock
	safe := "safe"
	if !k.Safe {
		safe = "not safe: the power went without notice, so it may say less than before"
	}
	r.fact("clock: %v, after %d resets and %d restarts; %s", (time.Duration(k.Clock) * time.Millisecond).Round(time.Second), k.ResetCount, k.RestartCount, safe)
}

// counters tells of keys beside which the chip does not count though it should.
func (r *report) counters(counted []*stored) error {
	for _, k := range counted {
		err := r.c.checkCounter(k)
		e, ours := errors.AsType[*providers.Error](err)
		switch {
		case err == nil:
			r.fact("counter: beside %s, at %08x", k.info.Name, uint32(counterIndex(k)))
		case ours && (e.Code == providers.NotSupported || e.Code == providers.Denied):
			r.warn("an older session that is put back is not noticed, since nothing is counted beside %s: %v", k.info.Name, e.Err)
		default:
			return err
		}
	}
	return nil
}
