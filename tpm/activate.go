// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

var errCredential = errors.New("the credential is not for this endorsement key and this key")

// PublicArea returns the public area (TPM2B_PUBLIC) of a version of a key, of which 0 is the newest. Its hash is the TPM's name
// of the key.
func (p *Provider) PublicArea(name string, version uint32) ([]byte, error) {
	k, err := p.stored(name, version)
	if err != nil {
		return nil, err
	}
	return sized(k.file.public), nil
}

// stored finds a key that can be used.
func (p *Provider) stored(name string, version uint32) (*stored, error) {
	const op = "looking for a key"
	k, err := p.store.find(name, version)
	switch {
	case err != nil:
		return nil, failure(providers.Device, op, err)
	case k == nil:
		return nil, failure(providers.NoSuchKey, op, nil)
	case k.broken != nil:
		return nil, failure(providers.Corrupt, op, k.broken)
	}
	return k, nil
}

// Activate opens a credential that somebody has made for an endorsement key of this chip and for the TPM's name of a key
// (TPM 2.0 part 3 §12.5). One that was made for others is VerificationFailed.
func (p *Provider) Activate(ctx context.Context, e Endorsement, name string, version uint32, credential, encryptedSecret []byte) ([]byte, error) {
	const op = "activating a credential"
	k, err := p.stored(name, version)
	if err != nil {
		return nil, err
	}
	if e.template == nil {
		return nil, failure(providers.Malformed, op, errors.New("not an endorsement key of this TPM"))
	}
	credential, encryptedSecret = slices.Clone(credential), slices.Clone(encryptedSecret)
	return do(ctx, p, op, useKeys, func(c *chip) ([]byte, error) { return c.activate(k, e.template, credential, encryptedSecret) })
}

// activate does it. What comes out is encrypted on the bus. Whoever administers the key may do this: its authorisation value
// is asked for, and a policy for its use is not.
func (c *chip) activate(k *stored, t *endorsementTemplate, credential, encryptedSecret []byte) ([]byte, error) {
	policy, err := c.start(tpm2.TPMSEPolicy) // first, since it needs room for the storage root key
	if err != nil {
		return nil, err
	}
	defer policy.wipe()
	defer c.flush(policy.handle)
	handle, err := c.load(k)
	if err != nil {
		return nil, err
	}
	ek, err := c.endorse(t)
	if err != nil {
		return nil, err
	}
	defer c.flush(ek.ObjectHandle)
	auth, done, err := c.authOf(k)
	if err != nil {
		return nil, err
	}
	endorsement := tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: tpm2.PasswordAuth(nil)} // the high range
	if !t.public.ObjectAttributes.UserWithAuth {
		_, err = tpm2.PolicySecret{AuthHandle: endorsementHierarchy(), PolicySession: policy.handle}.Execute(c)
		endorsement.Auth = policy.with(nil, encryptNone)
	}
	var response *tpm2.ActivateCredentialResponse
	if err == nil {
		response, err = tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: handle, Name: k.name, Auth: c.plain.with(auth, encryptOut)},
			KeyHandle:      endorsement,
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encryptedSecret},
		}.Execute(c)
		err = c.blame(c.plain, err)
	}
	if err := done(err); err != nil {
		return nil, activationError(err)
	}
	return response.CertInfo.Buffer, nil
}

// activationError tells a credential that is not for us from a chip that fails.
func activationError(err error) error {
	if is(err, tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCECCPoint, tpm2.TPMRCInsufficient) {
		return failure(providers.VerificationFailed, "activating a credential", errCredential)
	}
	return err
}
