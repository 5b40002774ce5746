// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/providers"
)

// rootHandle is where the storage root key is by convention (TCG TPM v2.0 Provisioning Guidance §7.8).
const rootHandle tpm2.TPMHandle = 0x81000001

// rootFile is the file in the folder of keys that says which storage root key they are under.
const rootFile = "srk.name"

var (
	errNoRoot    = errors.New("the TPM has no storage root key at its handle, and its owner has set a password, so none can be made")
	errTemplate  = errors.New("the key at the storage root key's handle is not made by the standard template; configure its name if it is to be trusted all the same")
	errForeign   = errors.New("the storage root key is not that of this TPM's owner")
	errOtherRoot = errors.New("this TPM has another storage root key than the one that the keys are under: it is another TPM, or it was cleared")
	errRootName  = errors.New("the name of the storage root key is 000b and 64 more hexadecimal digits")
)

// A root is the storage root key, the parent of all others.
type root struct {
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    *tpm2.TPMTPublic
	transient bool
}

// nameOf returns the TPM name of a public area with SHA-256 (TPM 2.0 part 1 §16).
func nameOf(public []byte) tpm2.TPM2BName {
	sum := sha256.Sum256(public)
	return tpm2.TPM2BName{Buffer: append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)}
}

// findRoot finds the storage root key at its handle, or makes it anew from the owner's seed, which gives the
// same key each time. The name of the one that was found first is kept with the keys: to that one
// sessions are salted, and under no other are keys loaded or made.
func (c *chip) findRoot() (*root, error) {
	const op = "finding the storage root key"
	pinned, err := c.pinnedName()
	if err != nil {
		return nil, err
	}
	r, err := c.readRoot()
	if is(err, tpm2.TPMRCHandle, tpm2.TPMRCReferenceH0) {
		r, err = c.makeRoot()
	}
	if err != nil {
		return nil, err
	}
	template := likeTemplate(r.public)
	switch {
	case pinned != nil && !bytes.Equal(pinned, r.name.Buffer):
		err = failure(providers.Corrupt, op, errOtherRoot)
	case pinned == nil && !template:
		err = failure(providers.Denied, op, errTemplate)
	case !storageKey(r.public):
		err = failure(providers.Denied, op, errTemplate)
	case pinned == nil && !r.transient:
		err = c.checkRoot(r)
	}
	if err == nil && pinned == nil {
		err = c.pin(r.name.Buffer)
	}
	if err != nil {
		if r.transient {
			c.flush(r.handle)
		}
		return nil, err
	}
	return r, nil
}

// readRoot reads the public area of the key at the storage root key's handle.
func (c *chip) readRoot() (*root, error) {
	response, err := (tpm2.ReadPublic{ObjectHandle: rootHandle}).Execute(c)
	if err != nil {
		return nil, err
	}
	public, err := response.OutPublic.Contents()
	if err != nil || public.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, failure(providers.Denied, "finding the storage root key", errTemplate)
	}
	return &root{handle: rootHandle, name: nameOf(response.OutPublic.Bytes()), public: public}, nil
}

// ownerHasPassword asks before it is tried to do without: what is refused is never tried.
func (c *chip) ownerHasPassword() (bool, error) {
	p, err := c.properties(tpm2.TPMPTPermanent, 1)
	return p[tpm2.TPMPTPermanent]&ownerAuthSet != 0, err
}

// makeRoot makes the storage root key, and keeps it in the chip if the configuration says so.
func (c *chip) makeRoot() (*root, error) {
	const op = "making the storage root key"
	if locked, err := c.ownerHasPassword(); err != nil || locked {
		if err == nil {
			err = failure(providers.Denied, op, errNoRoot)
		}
		return nil, err
	}
	r, err := c.primary(&tpm2.ECCSRKTemplate)
	if err != nil || !c.config.PersistRoot {
		return r, err
	}
	_, err = tpm2.EvictControl{
		Auth: owner(), ObjectHandle: tpm2.NamedHandle{Handle: r.handle, Name: r.name}, PersistentHandle: rootHandle,
	}.Execute(c)
	c.flush(r.handle)
	if err != nil {
		return nil, err
	}
	return c.readRoot()
}

func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)} // which is empty
}

// primary makes a key from the owner's seed.
func (c *chip) primary(template *tpm2.TPMTPublic) (*root, error) {
	response, err := tpm2.CreatePrimary{PrimaryHandle: owner(), InPublic: tpm2.New2B(*template)}.Execute(c)
	if err != nil {
		return nil, err
	}
	r := &root{handle: response.ObjectHandle, transient: true}
	if r.public, err = response.OutPublic.Contents(); err != nil {
		c.flush(r.handle)
		return nil, errResponse
	}
	r.name = nameOf(response.OutPublic.Bytes())
	return r, nil
}

// checkRoot makes the storage root key again, once in the life of a folder of keys, to see that the one at the handle
// is no key that somebody has put there and knows. It cannot if the owner has a password.
func (c *chip) checkRoot(r *root) error {
	if locked, err := c.ownerHasPassword(); err != nil || locked {
		return err
	}
	template := &tpm2.ECCSRKTemplate
	if r.public.Type == tpm2.TPMAlgRSA {
		template = &tpm2.RSASRKTemplate
	}
	again, err := c.primary(template)
	if err != nil {
		return err
	}
	c.flush(again.handle)
	if !bytes.Equal(again.name.Buffer, r.name.Buffer) {
		return failure(providers.Denied, "checking the storage root key", errForeign)
	}
	return nil
}

// likeTemplate reports whether a public area is a template's but for the key itself.
func likeTemplate(public *tpm2.TPMTPublic) bool {
	for _, template := range []tpm2.TPMTPublic{tpm2.ECCSRKTemplate, tpm2.RSASRKTemplate} {
		if public.Type == template.Type {
			template.Unique = public.Unique
			return bytes.Equal(tpm2.Marshal(*public), tpm2.Marshal(template))
		}
	}
	return false
}

// storageKey reports whether a key can be a parent that never leaves its chip.
func storageKey(public *tpm2.TPMTPublic) bool {
	a := public.ObjectAttributes
	return a.Restricted && a.Decrypt && !a.SignEncrypt && a.FixedTPM && a.FixedParent && a.SensitiveDataOrigin &&
		(public.Type == tpm2.TPMAlgECC || public.Type == tpm2.TPMAlgRSA)
}

// pinnedName returns the name of the storage root key to be trusted, or nil if there is none yet.
func (c *chip) pinnedName() ([]byte, error) {
	const op = "reading the storage root key's name"
	if c.pinned != nil {
		return c.pinned, nil
	}
	text := c.config.RootName
	if text == "" {
		b, err := os.ReadFile(filepath.Join(c.config.Folder, rootFile))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, failure(providers.Device, op, err)
		}
		text = strings.TrimSpace(string(b))
	}
	name, err := hex.DecodeString(text)
	if err != nil || len(name) != 2+sha256.Size || binary.BigEndian.Uint16(name) != uint16(tpm2.TPMAlgSHA256) {
		return nil, failure(providers.Malformed, op, providers.Because(providers.CauseSettings, errRootName))
	}
	c.setPinned(name)
	return name, nil
}

// pin keeps the name of the storage root key with the keys.
func (c *chip) pin(name []byte) error {
	if err := atomicfile.Create(filepath.Join(c.config.Folder, rootFile), fmt.Appendf(nil, "%x\n", name), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return failure(providers.Device, "keeping the storage root key's name", err)
	}
	c.setPinned(name)
	return nil
}

func (c *chip) setPinned(name []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = name
}
