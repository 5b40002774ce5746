// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// managed reports whether the kernel keeps users of a device apart, and flushes what they leave.
func managed(device string) bool { return strings.HasPrefix(filepath.Base(device), "tpmrm") }

// ask asks the chip what it is.
func (c *chip) ask() (*facts, error) {
	properties, err := c.properties(tpm2.TPMPTManufacturer, 32)
	if err != nil {
		return nil, err
	}
	f := &facts{inputBuffer: int(properties[tpm2.TPMPTInputBuffer])}
	f.manufacturer = strings.TrimRight(string(binary.BigEndian.AppendUint32(nil, properties[tpm2.TPMPTManufacturer])), "\x00 ")
	version := properties[tpm2.TPMPTFirmwareVersion1]
	f.firmware = fmt.Sprintf("%d.%d", version>>16, version&0xffff)
	if f.inputBuffer < 64 {
		f.inputBuffer = 1024 // what the specification demands of PCs
	}
	commands, err := c.capability(tpm2.TPMCapCommands, uint32(tpm2.TPMCCEncryptDecrypt2), 1)
	if err != nil {
		return nil, err
	}
	if list, err := commands.Data.Command(); err == nil && len(list.CommandAttributes) > 0 {
		f.ciphers = list.CommandAttributes[0].CommandIndex == uint16(tpm2.TPMCCEncryptDecrypt2)
	}
	clock, err := (tpm2.ReadClock{}).Execute(c)
	if err != nil {
		return nil, err
	}
	f.clock = clock.CurrentTime.ClockInfo
	f.boot = boot{clock.CurrentTime.ClockInfo.ResetCount, clock.CurrentTime.ClockInfo.RestartCount}
	return f, nil
}

// hasCipher reports whether the chip can use keys of that kind to encrypt. Some have the algorithm only for their own use.
func (c *chip) hasCipher(area *tpm2.TPMTPublic) (bool, error) {
	if !c.facts.ciphers {
		return false, nil
	}
	_, err := tpm2.TestParms{Parameters: tpm2.TPMTPublicParms{Type: area.Type, Parameters: area.Parameters}}.Execute(c)
	if is(err, tpm2.TPMRCValue, tpm2.TPMRCKeySize, tpm2.TPMRCMode, tpm2.TPMRCSymmetric, tpm2.TPMRCType, tpm2.TPMRCCommandCode) {
		return false, nil
	}
	return err == nil, err
}

func (c *chip) capability(kind tpm2.TPMCap, first, count uint32) (*tpm2.TPMSCapabilityData, error) {
	response, err := (tpm2.GetCapability{Capability: kind, Property: first, PropertyCount: count}).Execute(c)
	if err != nil {
		return nil, err
	}
	return &response.CapabilityData, nil
}

// properties reads count properties from first on.
func (c *chip) properties(first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	data, err := c.capability(tpm2.TPMCapTPMProperties, uint32(first), count)
	if err != nil {
		return nil, err
	}
	list, err := data.Data.TPMProperties()
	if err != nil {
		return nil, errResponse
	}
	values := make(map[tpm2.TPMPT]uint32)
	for _, p := range list.TPMProperty {
		values[p.Property] = p.Value
	}
	return values, nil
}

// handles lists the handles of a kind that are in use.
func (c *chip) handles(kind tpm2.TPMHT) ([]tpm2.TPMHandle, error) {
	data, err := c.capability(tpm2.TPMCapHandles, uint32(kind)<<24, 64)
	if err != nil {
		return nil, err
	}
	list, err := data.Data.Handles()
	if err != nil {
		return nil, errResponse
	}
	return list.Handle, nil
}

// others counts the objects and sessions in the chip that are not ours.
func (c *chip) others() (objects, sessions int, err error) {
	ours := make(map[tpm2.TPMHandle]bool)
	for _, k := range c.loaded {
		ours[k.handle] = true
	}
	for _, s := range []*session{c.plain, c.policy} {
		if s != nil {
			ours[s.handle] = true
		}
	}
	if c.root != nil {
		ours[c.root.handle] = true
	}
	count := func(kind tpm2.TPMHT) (n int) {
		list, herr := c.handles(kind)
		if herr != nil {
			err = herr
		}
		for _, h := range list {
			if !ours[h] {
				n++
			}
		}
		return n
	}
	objects = count(tpm2.TPMHTTransient)
	sessions = count(tpm2.TPMHTLoadedSession)
	return objects, sessions, err
}
