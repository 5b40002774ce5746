// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	// maxLoaded is how many keys stay loaded: chips have room for three objects, of which the storage root
	// key takes one, if only while it is used, and a sequence or the key of a policy one.
	maxLoaded = 2
	// commandTime and slowTime are how long a command may take before the chip is given up.
	commandTime = 20 * time.Second
	slowTime    = 3 * time.Minute // makes a key
	// A command that the chip wants again is sent again up to maxRetries times, after pauses that double:
	// some five seconds in all.
	maxRetries = 24
	firstPause = 2 * time.Millisecond
	lastPause  = 256 * time.Millisecond
)

// A chip is the TPM as the queue's goroutine sees it: the connection, and what of it is in use. It implements
// transport.TPM.
type chip struct {
	config *Config
	store  *store
	// ctx is of the job under way. It is here because the library's commands take none.
	ctx context.Context

	device   device // nil: not connected
	response []byte // the last one
	facts    facts
	root     *root    // nil: not found yet
	plain    *session // for what has no policy; nil: not begun
	policy   *session
	loaded   []*loadedKey     // the last one was used last
	sessions []tpm2.TPMHandle // that are open
	approved map[string]tpm2.TPMTTKVerified
	checked  map[*stored]bool // keys that were found to be good
	counters map[tpm2.TPMHandle]*counter

	proven map[string]bool // authorisation values, by what authOf knows them: true were accepted, and false were not

	mu     sync.Mutex // for what others than the queue's goroutine read
	counts map[tpm2.TPMCC]uint64
	pinned []byte // the storage root key's name
}

// A loadedKey is a key in the chip.
type loadedKey struct {
	stored *stored
	handle tpm2.TPMHandle
}

// facts are what the chip says of itself.
type facts struct {
	manufacturer, firmware string
	inputBuffer            int
	ciphers                bool // EncryptDecrypt2
	boot                   boot
	clock                  tpm2.TPMSClockInfo // when we connected
}

// A boot is the time from one reset of the chip to the next.
type boot struct{ resets, restarts uint32 }

// Send implements transport.TPM. It sends a command again if the chip asks for that.
func (c *chip) Send(command []byte) ([]byte, error) {
	cc := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
	pause := firstPause
	for try := 0; ; try++ {
		response, err := c.send(cc, command)
		if err != nil {
			return nil, err
		}
		rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
		if !asksForRetry(rc) || try == maxRetries {
			return response, nil // the library makes an error of the code
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
			return nil, c.ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}

// send sends a command once. What cleans up is sent though nobody waits for it any more.
func (c *chip) send(cc tpm2.TPMCC, command []byte) ([]byte, error) {
	if err := c.ctx.Err(); err != nil && cc != tpm2.TPMCCFlushContext {
		return nil, err
	}
	if c.device == nil {
		return nil, lostError{errClosed}
	}
	c.mu.Lock()
	c.counts[cc]++
	c.mu.Unlock()
	limit := commandTime
	if cc == tpm2.TPMCCCreate || cc == tpm2.TPMCCCreatePrimary || cc == tpm2.TPMCCImport {
		limit = slowTime
	}
	c.wipe()
	response, err := c.device.exchange(command, time.Now().Add(limit))
	c.response = response
	if err == nil {
		err = checkHeader(response)
	}
	if err != nil {
		return nil, lostError{err}
	}
	return response, nil
}

// wipe forgets the last response. The library decrypts it where it is, and copies out of it.
func (c *chip) wipe() {
	secret.Wipe(c.response)
	c.response = nil
}

// ready connects, if need be, and finds the storage root key.
func (c *chip) ready() error {
	if c.root != nil {
		return nil
	}
	if c.device == nil {
		d, err := openDevice(c.config.Device)
		if errors.Is(err, errDevice) {
			return failure(providers.Malformed, "opening a TPM", providers.Because(providers.CauseSettings, err))
		}
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w; users of the group tss may open it, where udev's usual rules are", err)
		}
		if err != nil {
			return failure(providers.Transient, "opening a TPM", providers.Because(providers.CauseDevice, err))
		}
		c.device = d
	}
	facts, err := c.ask()
	if is(err, tpm2.TPMRCInitialize) && simulated(c.config.Device) {
		if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(c); err != nil {
			return err
		}
		facts, err = c.ask()
	}
	if err != nil {
		return err
	}
	c.facts = *facts
	if err := c.flushLeft(); err != nil {
		return err
	}
	root, err := c.findRoot()
	if err != nil {
		return err
	}
	c.root = root
	if c.plain, err = c.start(tpm2.TPMSEHMAC); err != nil {
		if isFull(err) {
			err = c.crowded(err)
		}
		c.drop()
		return err
	}
	return nil
}

// drop forgets the connection and all that was loaded. What is still in the chip is found when it is connected again.
func (c *chip) drop() {
	for _, s := range []*session{c.plain, c.policy} {
		s.wipe()
	}
	c.root, c.plain, c.policy, c.loaded, c.approved, c.checked, c.counters = nil, nil, nil, nil, nil, nil, nil
	if c.device != nil {
		c.device.Close() // nothing can be done about an error
		c.device = nil
	}
}

// flush removes an object or session. It may be gone.
func (c *chip) flush(h tpm2.TPMHandle) {
	(tpm2.FlushContext{FlushHandle: h}).Execute(c) // nothing can be done about an error
	c.flushed(h)
}

// unload flushes the keys that were not used for longest until n are left.
func (c *chip) unload(n int) {
	for len(c.loaded) > max(n, 0) {
		c.flush(c.loaded[0].handle)
		c.loaded = c.loaded[1:]
	}
}

// room makes room for one more object beside the key in use.
func (c *chip) room() {
	if c.root.transient {
		c.unload(maxLoaded - 1)
	}
}

// close flushes all that is ours.
func (c *chip) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.ctx = ctx
	if c.device == nil {
		return
	}
	c.unload(0)
	for _, s := range []*session{c.plain, c.policy} {
		if s != nil {
			c.flush(s.handle)
			s.wipe()
		}
	}
	if c.root != nil && c.root.transient {
		c.flush(c.root.handle)
	}
	if !managed(c.config.Device) {
		// Else a chip that loses power counts that as a wrong authorisation value (TPM 2.0 part 1 §19.8.6).
		(tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(c)
	}
	c.device.Close()
	c.device, c.root, c.plain, c.policy = nil, nil, nil, nil
}
