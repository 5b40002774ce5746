// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// use runs one command with a key, which it loads and authorises.
func (c *chip) use(k *stored, d direction, command func(tpm2.AuthHandle) error) error {
	handle, err := c.load(k)
	if err != nil {
		return err
	}
	auth, done, err := c.authOf(k)
	if err != nil {
		return err
	}
	s, err := c.authorised(k, auth, d)
	if err == nil {
		err = c.blame(s, command(tpm2.AuthHandle{Handle: handle, Name: k.name, Auth: s}))
		if s == c.policy && err != nil {
			c.endPolicy() // what of it is fulfilled is not known
		}
	}
	return done(err)
}

// authorised returns a session for one command with a key.
func (c *chip) authorised(k *stored, auth *secret.Bytes, d direction) (*session, error) {
	if len(k.area.AuthPolicy.Buffer) == 0 || k.area.ObjectAttributes.UserWithAuth {
		return c.plain.with(auth, d), nil
	}
	if err := c.fulfil(k); err != nil {
		c.endPolicy()
		return nil, err
	}
	return c.policy.with(auth, d), nil
}

// parent is the storage root key, to load and make keys under.
func (c *chip) parent(d direction) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: c.root.handle, Name: c.root.name, Auth: c.plain.with(nil, d)}
}

// load returns the handle of a key, which is loaded unless it is already.
func (c *chip) load(k *stored) (tpm2.TPMHandle, error) {
	if k.broken != nil {
		return 0, failure(providers.Corrupt, "loading a key", k.broken)
	}
	if i := slices.IndexFunc(c.loaded, func(l *loadedKey) bool { return l.stored == k }); i >= 0 {
		l := c.loaded[i]
		c.loaded = append(slices.Delete(c.loaded, i, i+1), l)
		return l.handle, nil
	}
	c.unload(maxLoaded - 1)
	response, err := tpm2.Load{
		ParentHandle: c.parent(encryptNone), InPrivate: tpm2.TPM2BPrivate{Buffer: k.file.private},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](k.file.public),
	}.Execute(c)
	if err != nil {
		return 0, loadError(err)
	}
	c.loaded = append(c.loaded, &loadedKey{k, response.ObjectHandle})
	if !bytes.Equal(response.Name.Buffer, k.name.Buffer) {
		c.unload(0)
		return 0, failure(providers.Corrupt, "loading a key", errKeyPublic)
	}
	return response.ObjectHandle, nil
}

// loadError tells a key file that is damaged, or of another chip, from a chip that fails.
func loadError(err error) error {
	rc, ok := responseCode(err)
	if e := (tpm2.TPMFmt1Error{}); ok && rc.As(&e) {
		if about, _ := e.Parameter(); about { // the blob, or the public area
			return failure(providers.Corrupt, "loading a key", err)
		}
	}
	return err
}
