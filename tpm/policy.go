// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mslkeep/mslkeep/providers"
)

// A key may have a policy: that the platform was booted with certain software, as the PCRs tell (TPM 2.0 part 1 §19.7).
// Without an authority the PCRs must be as they were when the key was made. With one, what they must be is
// whatever the authority has signed, so that firmware can be updated without losing the keys.

var (
	errPolicyKey  = errors.New("the policy key's file must hold one public key in PEM, RSA-2048 or P-256")
	errPolicyFile = errors.New("the key's file does not say how to fulfil its policy, or says it in a way that is not known here")
	errNoPCR      = errors.New("the chip has no such PCR in its bank of SHA-256")
	errUnapproved = errors.New("the platform's state is not among those that are approved")
)

// fulfil runs the commands of a key's policy in the policy session.
func (c *chip) fulfil(k *stored) (err error) {
	if len(k.file.policy) == 0 {
		return failure(providers.Denied, "fulfilling a key's policy", errPolicyFile)
	}
	if c.policy == nil {
		if c.policy, err = c.start(tpm2.TPMSEPolicy); err != nil {
			return err
		}
	}
	return c.runPolicy(c.policy.handle, k.file.policy, false)
}

// endPolicy ends the policy session. The next key with a policy begins a new one.
func (c *chip) endPolicy() {
	if c.policy != nil {
		c.flush(c.policy.handle)
		c.policy.wipe()
		c.policy = nil
	}
}

func (c *chip) runPolicy(session tpm2.TPMHandle, steps []policyStep, trial bool) (err error) {
	for _, s := range steps {
		switch s.code {
		case tpm2.TPMCCPolicyPCR:
			err = c.policyPCR(session, s.parameters)
		case tpm2.TPMCCPolicyAuthValue:
			_, err = tpm2.PolicyAuthValue{PolicySession: session}.Execute(c)
		case tpm2.TPMCCPolicyAuthorize:
			err = c.policyAuthorize(session, s.parameters, trial)
		default:
			err = failure(providers.Denied, "fulfilling a key's policy", errPolicyFile)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newPolicy makes the policy that the configuration asks for, for the chip as it is now.
func (c *chip) newPolicy(auth bool) (digest []byte, steps []policyStep, err error) {
	if len(c.config.PCRs) == 0 {
		return nil, nil, nil
	}
	for _, n := range c.config.PCRs {
		if err := c.checkPCR(n); err != nil {
			return nil, nil, err
		}
	}
	selection := selectPCRs(c.config.PCRs...)
	steps = []policyStep{{tpm2.TPMCCPolicyPCR, append(sized(nil), tpm2.Marshal(selection)...)}}
	if c.config.PolicyKey != "" {
		public, err := readPolicyKey(c.config.PolicyKey)
		if err != nil {
			return nil, nil, failure(providers.Malformed, "reading the policy key", err)
		}
		parameters := append(sized(tpm2.Marshal(*public)), sized(nil)...)
		parameters = append(parameters, byte(tpm2.TPMAlgNull>>8), byte(tpm2.TPMAlgNull&0xff)) // no signature yet
		steps = append(steps, policyStep{tpm2.TPMCCPolicyAuthorize, parameters})
	}
	if auth {
		steps = append(steps, policyStep{tpm2.TPMCCPolicyAuthValue, nil})
	}
	trial, err := c.start(tpm2.TPMSETrial)
	if err != nil {
		return nil, nil, err
	}
	defer trial.wipe()
	defer c.flush(trial.handle)
	if err := c.runPolicy(trial.handle, steps, true); err != nil {
		return nil, nil, err
	}
	response, err := tpm2.PolicyGetDigest{PolicySession: trial.handle}.Execute(c)
	if err != nil {
		return nil, nil, err
	}
	return response.PolicyDigest.Buffer, steps, nil
}

func selectPCRs(pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// checkPCR fails if the chip does not have a PCR. A policy about such a one would be about nothing, and the chip would not mind.
func (c *chip) checkPCR(n uint) error {
	response, err := tpm2.PCRRead{PCRSelectionIn: selectPCRs(n)}.Execute(c)
	if err == nil && len(response.PCRValues.Digests) != 1 {
		err = failure(providers.NotSupported, "binding a key to PCRs", fmt.Errorf("%w: %d", errNoPCR, n))
	}
	return err
}

// policyPCR binds to the PCRs: to the digest if one is given, or else to what they are now, which the key's policy
// must then be about.
func (c *chip) policyPCR(session tpm2.TPMHandle, parameters []byte) error {
	in := cryptobyte.String(parameters)
	var digest cryptobyte.String
	if !in.ReadUint16LengthPrefixed(&digest) {
		return failure(providers.Corrupt, "fulfilling a key's policy", errPolicyFile)
	}
	selection, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](in)
	if err != nil {
		return failure(providers.Corrupt, "fulfilling a key's policy", errPolicyFile)
	}
	_, err = tpm2.PolicyPCR{PolicySession: session, PcrDigest: tpm2.TPM2BDigest{Buffer: digest}, Pcrs: *selection}.Execute(c)
	return err
}

// policyAuthorize replaces what was fulfilled so far by the authority's word that it will do.
func (c *chip) policyAuthorize(session tpm2.TPMHandle, parameters []byte, trial bool) error {
	in := cryptobyte.String(parameters)
	var area, ref cryptobyte.String
	if !in.ReadUint16LengthPrefixed(&area) || !in.ReadUint16LengthPrefixed(&ref) {
		return failure(providers.Corrupt, "fulfilling a key's policy", errPolicyFile)
	}
	now, err := tpm2.PolicyGetDigest{PolicySession: session}.Execute(c)
	if err != nil {
		return err
	}
	ticket := tpm2.TPMTTKVerified{Tag: tpm2.TPMSTVerified, Hierarchy: tpm2.TPMRHNull}
	if !trial {
		if ticket, err = c.approval(area, ref, now.PolicyDigest.Buffer); err != nil {
			return err
		}
	}
	_, err = tpm2.PolicyAuthorize{PolicySession: session, ApprovedPolicy: now.PolicyDigest, PolicyRef: tpm2.TPM2BDigest{Buffer: ref},
		KeySign: nameOf(area), CheckTicket: ticket}.Execute(c)
	return err
}

// approval has the chip verify the authority's signature of a policy, once after each reset.
func (c *chip) approval(area, ref, policy []byte) (none tpm2.TPMTTKVerified, err error) {
	id := string(area) + string(ref) + string(policy)
	if ticket, ok := c.approved[id]; ok {
		return ticket, nil
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return none, failure(providers.Corrupt, "fulfilling a key's policy", errPolicyFile)
	}
	signature, err := c.findApproval(public, policy)
	if err != nil {
		return none, err
	}
	c.unload(maxLoaded - 1)
	c.room()
	loaded, err := tpm2.LoadExternal{InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](area), Hierarchy: tpm2.TPMRHOwner}.Execute(c)
	if err != nil {
		return none, err
	}
	defer c.flush(loaded.ObjectHandle)
	digest := sha256.Sum256(append(append([]byte(nil), policy...), ref...))
	response, err := tpm2.VerifySignature{KeyHandle: tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name},
		Digest: tpm2.TPM2BDigest{Buffer: digest[:]}, Signature: *signature}.Execute(c)
	if _, refused := responseCode(err); refused {
		return none, failure(providers.Denied, "verifying an approval", err)
	}
	if err != nil {
		return none, err
	}
	if c.approved == nil || len(c.approved) > 64 {
		c.approved = make(map[string]tpm2.TPMTTKVerified)
	}
	c.approved[id] = response.Validation
	return response.Validation, nil
}

// findApproval looks for a policy among the approvals: NAME.policy is its digest, as tpm2_policypcr makes it, and NAME.sig
// the authority's signature of that file by SHA-256, as openssl dgst makes it.
func (c *chip) findApproval(authority *tpm2.TPMTPublic, policy []byte) (*tpm2.TPMTSignature, error) {
	const op = "looking for an approval"
	if c.config.Approvals == "" {
		return nil, failure(providers.Denied, op, errUnapproved)
	}
	files, err := filepath.Glob(filepath.Join(c.config.Approvals, "*.policy"))
	if err != nil {
		return nil, failure(providers.Denied, op, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || string(b) != string(policy) {
			continue
		}
		b, err := os.ReadFile(f[:len(f)-len("policy")] + "sig")
		if err != nil {
			return nil, failure(providers.Denied, op, err)
		}
		return parseSignature(authority, b)
	}
	return nil, failure(providers.Denied, op, fmt.Errorf("%w: %x", errUnapproved, policy))
}

func parseSignature(authority *tpm2.TPMTPublic, b []byte) (*tpm2.TPMTSignature, error) {
	if authority.Type == tpm2.TPMAlgRSA {
		return &tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: b}})}, nil
	}
	in, r, s := cryptobyte.String(b), new(big.Int), new(big.Int)
	var inner cryptobyte.String
	if !in.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) || r.Sign() < 0 || s.Sign() < 0 ||
		r.BitLen() > 256 || s.BitLen() > 256 {
		return nil, failure(providers.Denied, "reading an approval", errors.New("not a signature of that key"))
	}
	return &tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))}})}, nil
}

// readPolicyKey reads the authority's public key, as a TPM has it.
func readPolicyKey(path string) (*tpm2.TPMTPublic, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errPolicyKey
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errPolicyKey
	}
	attributes := tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() == 2048 && key.E == 65537 {
			return rsaPublic(attributes, 2048, key.N.Bytes(), tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull}), nil
		}
	case *ecdsa.PublicKey:
		if point, err := key.Bytes(); err == nil && key.Curve == elliptic.P256() {
			return ecPublic(attributes, point[1:33], point[33:], tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}), nil
		}
	}
	return nil, errPolicyKey
}
