// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// What a process leaves in a chip when it is killed, or when a response was lost, stays there until the next reset, and soon fills
// it; only behind /dev/tpmrm0 the kernel cleans up. So what is ours is found again and flushed: objects by their names, which
// are the storage root key's and those of the keys in the folder, and sessions, which have no names, by a file that says which
// were begun since the last reset. Everything else is somebody else's.

// sessionsFile, in the folder of keys, names the sessions that are open.
const sessionsFile = "sessions"

// noteSessions writes down which sessions are open. An error is not worth an operation.
func (c *chip) noteSessions() {
	if managed(c.config.Device) {
		return
	}
	text := fmt.Appendf(nil, "%s\n", c.bootLine())
	for _, h := range c.sessions {
		text = fmt.Appendf(text, "%08x\n", uint32(h))
	}
	_ = os.WriteFile(filepath.Join(c.config.Folder, sessionsFile), text, 0o600)
}

// bootLine tells the chip and the time from one reset to the next.
func (c *chip) bootLine() string {
	return fmt.Sprintf("%s %d %d", c.config.Device, c.facts.boot.resets, c.facts.boot.restarts)
}

// opened and flushed keep the list of open sessions.
func (c *chip) opened(h tpm2.TPMHandle) {
	c.sessions = append(c.sessions, h)
	c.noteSessions()
}

func (c *chip) flushed(h tpm2.TPMHandle) {
	if i := slices.Index(c.sessions, h); i >= 0 {
		c.sessions = slices.Delete(c.sessions, i, i+1)
		c.noteSessions()
	}
}

// flushLeft flushes what is ours of a chip that was just connected.
func (c *chip) flushLeft() error {
	c.sessions = nil
	if managed(c.config.Device) {
		return nil
	}
	b, _ := os.ReadFile(filepath.Join(c.config.Folder, sessionsFile)) // it may not be there
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if lines[0] == c.bootLine() {
		for _, line := range lines[1:] {
			var h uint32
			if _, err := fmt.Sscanf(line, "%08x", &h); err == nil && isSession(tpm2.TPMHandle(h)) {
				c.flush(tpm2.TPMHandle(h))
			}
		}
		c.noteSessions()
	}
	objects, err := c.handles(tpm2.TPMHTTransient)
	if err != nil || len(objects) == 0 {
		return err
	}
	ours, err := c.ourNames()
	if err != nil {
		return err
	}
	for _, h := range objects {
		response, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(c)
		if err == nil && ours[string(response.Name.Buffer)] {
			c.flush(h)
		}
	}
	return nil
}

func isSession(h tpm2.TPMHandle) bool {
	kind := binary.BigEndian.AppendUint32(nil, uint32(h))[0]
	return kind == byte(tpm2.TPMHTHMACSession) || kind == byte(tpm2.TPMHTPolicySession)
}

// ourNames returns the names of the storage root key and of the keys in the folder.
func (c *chip) ourNames() (map[string]bool, error) {
	names := make(map[string]bool)
	pinned, err := c.pinnedName()
	if err != nil {
		return nil, err
	}
	if pinned != nil {
		names[string(pinned)] = true
	}
	keys, _, err := c.store.list("")
	for _, k := range keys {
		if k.broken == nil {
			names[string(k.name.Buffer)] = true
		}
	}
	return names, err
}
