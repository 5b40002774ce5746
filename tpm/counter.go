// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// A counter is an NV index that goes up and never back (TPM 2.0 part 1 §37.2.4). One that is removed and made again goes on
// where the highest of all had been, so it is not made smaller that way either. It has no authorisation value: who can count
// up can make the device forget its session, and so can whoever may remove the index; and what nobody can guess wrong
// locks no chip. It is not orderly: a power cut must not take back what was counted.

const (
	// counterRange is where indices of the owner begin (TCG Registry of Reserved TPM 2.0 Handles and Localities §2.2).
	counterRange tpm2.TPMHandle = 0x01800000
	counterMask  tpm2.TPMHandle = 0x003FFFFF
	counterSize                 = 8 // bytes
)

var (
	errNoCounter    = errors.New("the TPM does not count beside that key, which is not there or not among the configured counters")
	errCounterRoom  = errors.New("the TPM has no room for a counter, so nothing shows that an older session was put back")
	errCounterOwner = errors.New("the TPM's owner has set a password, so no counter can be made")
	errCounterTaken = errors.New("the counter's NV index is used for something else")
)

// A counter is one that is there.
type counter struct {
	index   tpm2.TPMHandle
	name    tpm2.TPM2BName
	written bool
}

// counterIndex returns the NV index of the counter beside a key, of which k is the oldest version. It follows from the key itself,
// so that no file says which counter it is, and keys in two folders with the same name have two.
func counterIndex(k *stored) tpm2.TPMHandle {
	sum := sha256.Sum256(append([]byte("mslkeep counter "), k.name.Buffer...))
	return counterRange + tpm2.TPMHandle(binary.BigEndian.Uint32(sum[:]))&counterMask
}

func counterPublic(index tpm2.TPMHandle) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: counterSize,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTCounter}}
}

// Count implements [providers.Counter] for the keys that the configuration names. The counter is made when it is first used. Where
// the chip has no room, or its owner does not let us make one, it is as if there were none, unless the configuration demands it.
func (p *Provider) Count(ctx context.Context, key string, up bool) (uint64, error) {
	const op = "counting"
	if !matches(p.config.Counters, key) {
		return 0, p.chip.uncounted(errNoCounter)
	}
	keys, _, err := p.store.list(key)
	if err != nil {
		return 0, failure(providers.Device, op, err)
	}
	if key == "" || len(keys) == 0 {
		return 0, p.chip.uncounted(errNoCounter)
	}
	if keys[0].broken != nil { // it may have another index than it had when it was whole
		return 0, failure(providers.Corrupt, op, keys[0].broken)
	}
	index := counterIndex(keys[0])
	return do(ctx, p, op, useKeys, func(c *chip) (uint64, error) {
		n, err := c.counter(index)
		if err != nil {
			return 0, err
		}
		if up || !n.written {
			if err := c.countUp(n); err != nil {
				return 0, err
			}
		}
		return c.readCounter(n)
	})
}

// counted reports whether a key is one that the chip counts beside: the oldest version of its name among keys.
func (p *Provider) counted(keys []*stored, k *stored) bool {
	older := func(o *stored) bool { return o.info.Name == k.info.Name && o.info.Version < k.info.Version }
	return k.broken == nil && matches(p.config.Counters, k.info.Name) && !slices.ContainsFunc(keys, older)
}

// counter returns the counter at an index, which is made if it is not there.
func (c *chip) counter(index tpm2.TPMHandle) (*counter, error) {
	if n := c.counters[index]; n != nil {
		return n, nil
	}
	n, err := c.findCounter(index)
	if err == nil && n == nil {
		if err = c.makeCounter(index); err == nil {
			n, err = c.findCounter(index)
		}
	}
	if err == nil && n == nil {
		err = lostError{errNoCounter} // which somebody has removed just now
	}
	if err != nil {
		return nil, err
	}
	c.keepCounter(n)
	return n, nil
}

func (c *chip) keepCounter(n *counter) {
	if c.counters == nil {
		c.counters = make(map[tpm2.TPMHandle]*counter)
	}
	c.counters[n.index] = n
}

// findCounter returns the counter at an index, or nil if nothing is there.
func (c *chip) findCounter(index tpm2.TPMHandle) (*counter, error) {
	response, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := response.NVPublic.Contents()
	if err != nil {
		return nil, lostError{errResponse}
	}
	sum := sha256.Sum256(tpm2.Marshal(*public))
	n := &counter{index, tpm2.TPM2BName{Buffer: append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)}, public.Attributes.Written}
	public.Attributes.Written = false
	if string(tpm2.Marshal(*public)) != string(tpm2.Marshal(counterPublic(index))) {
		return nil, c.uncounted(fmt.Errorf("%w: %08x", errCounterTaken, uint32(index)))
	}
	return n, nil
}

// makeCounter makes a counter, unless another process just has.
func (c *chip) makeCounter(index tpm2.TPMHandle) error {
	if locked, err := c.ownerHasPassword(); err != nil || locked {
		if err == nil {
			err = c.uncounted(ownerCounter(index))
		}
		return err
	}
	_, err := tpm2.NVDefineSpace{AuthHandle: c.ownerSession(), PublicInfo: tpm2.New2B(counterPublic(index))}.Execute(c)
	switch {
	case is(err, tpm2.TPMRCNVDefined):
		return nil
	case is(err, tpm2.TPMRCNVSpace), is(err, tpm2.TPMRCNVRange):
		return c.uncounted(errCounterRoom)
	}
	return err
}

// ownerCounter says how the owner makes a counter.
func ownerCounter(index tpm2.TPMHandle) error {
	return fmt.Errorf(`%w; tpm2_nvdefine 0x%08x -C o -P PASSWORD -s 8 -a "nt=counter|authread|authwrite|no_da" makes it`, errCounterOwner, uint32(index))
}

// ownerSession authorises what the owner may do, with the empty value.
func (c *chip) ownerSession() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: c.plain.with(nil, encryptNone)}
}

// uncounted is the error for a counter that cannot be had.
func (c *chip) uncounted(cause error) error {
	code := providers.NotSupported
	if c.config.CountersRequired {
		code = providers.Denied
	}
	return failure(code, "making a counter", cause)
}

// handle returns the counter's index as what authorises, by a session that authenticates both command and answer, and as itself.
func (n *counter) handle(c *chip) (tpm2.AuthHandle, tpm2.NamedHandle) {
	return tpm2.AuthHandle{Handle: n.index, Name: n.name, Auth: c.plain.with(nil, encryptNone)}, tpm2.NamedHandle{Handle: n.index, Name: n.name}
}

// countUp counts up. The first time changes the index's name.
func (c *chip) countUp(n *counter) error {
	auth, index := n.handle(c)
	if _, err := (tpm2.NVIncrement{AuthHandle: auth, NVIndex: index}).Execute(c); err != nil {
		return counterError(err)
	}
	if n.written {
		return nil
	}
	again, err := c.findCounter(n.index)
	if err == nil && (again == nil || !again.written) {
		err = lostError{errNoCounter}
	}
	if err == nil {
		*n = *again
	}
	return err
}

func (c *chip) readCounter(n *counter) (uint64, error) {
	auth, index := n.handle(c)
	response, err := tpm2.NVRead{AuthHandle: auth, NVIndex: index, Size: counterSize}.Execute(c)
	if err != nil {
		return 0, counterError(err)
	}
	if len(response.Data.Buffer) != counterSize {
		return 0, lostError{errResponse}
	}
	return binary.BigEndian.Uint64(response.Data.Buffer), nil
}

// counterError makes us look again when the index was removed, or made anew, since we have looked.
func counterError(err error) error {
	if isAuth(err) || is(err, tpm2.TPMRCNVUninitialized) {
		return lostError{err}
	}
	return err
}

// freeCounter removes the counter of a key whose oldest version was destroyed, if the owner lets us. One that stays does no harm.
func (c *chip) freeCounter(index tpm2.TPMHandle) error {
	n, err := c.findCounter(index)
	if err != nil || n == nil {
		return err
	}
	if locked, err := c.ownerHasPassword(); err != nil || locked {
		return err
	}
	delete(c.counters, index)
	_, err = tpm2.NVUndefineSpace{AuthHandle: c.ownerSession(), NVIndex: tpm2.NamedHandle{Handle: index, Name: n.name}}.Execute(c)
	return err
}

// checkCounter tells what keeps the chip from counting beside a key, of which k is the oldest version. It makes no counter.
func (c *chip) checkCounter(k *stored) error {
	index := counterIndex(k)
	n, err := c.findCounter(index)
	if n != nil {
		c.keepCounter(n)
	}
	if err != nil || n != nil {
		return err
	}
	if locked, err := c.ownerHasPassword(); err != nil || locked {
		if err == nil {
			err = c.uncounted(ownerCounter(index))
		}
		return err
	}
	p, err := c.properties(tpm2.TPMPTNVCountersAvail, 1)
	if room, told := p[tpm2.TPMPTNVCountersAvail]; err == nil && told && room == 0 {
		err = c.uncounted(errCounterRoom)
	}
	return err
}
