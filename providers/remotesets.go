// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

// Go finds out by a type assertion what a key can do, so there is a type for every set of capabilities
// that a key of some type can have. The sets are spelled out: nothing shorter makes absent methods absent.

// The capabilities of a key at the other end of the pipe, one by one.
type (
	encrypts  struct{ *remoteKey }
	decrypts  struct{ *remoteKey }
	macs      struct{ *remoteKey }
	verifies  struct{ *remoteKey }
	signs     struct{ *remoteKey }
	opensRSA  struct{ *remoteKey }
	agrees    struct{ *remoteKey }
	wraps     struct{ *remoteKey }
	unwraps   struct{ *remoteKey }
	publishes struct{ *remoteKey }
)

// has makes a set of operations.
func has(ops ...Op) (set uint16) {
	for _, op := range ops {
		set |= 1 << op
	}
	return set
}

// withCapabilities returns k with the methods of the operations in the set, and no others. It returns
// false for a set that no type of key has.
func withCapabilities(k *remoteKey, set uint16) (Key, bool) {
	switch set {
	case 0:
		return k, true
	case has(OpEncrypt):
		return struct {
			*remoteKey
			encrypts
		}{k, encrypts{k}}, true
	case has(OpDecrypt):
		return struct {
			*remoteKey
			decrypts
		}{k, decrypts{k}}, true
	case has(OpEncrypt, OpDecrypt):
		return struct {
			*remoteKey
			encrypts
			decrypts
		}{k, encrypts{k}, decrypts{k}}, true
	case has(OpWrap):
		return struct {
			*remoteKey
			wraps
		}{k, wraps{k}}, true
	case has(OpEncrypt, OpWrap):
		return struct {
			*remoteKey
			encrypts
			wraps
		}{k, encrypts{k}, wraps{k}}, true
	case has(OpDecrypt, OpWrap):
		return struct {
			*remoteKey
			decrypts
			wraps
		}{k, decrypts{k}, wraps{k}}, true
	case has(OpEncrypt, OpDecrypt, OpWrap):
		return struct {
			*remoteKey
			encrypts
			decrypts
			wraps
		}{k, encrypts{k}, decrypts{k}, wraps{k}}, true
	case has(OpUnwrap):
		return struct {
			*remoteKey
			unwraps
		}{k, unwraps{k}}, true
	case has(OpEncrypt, OpUnwrap):
		return struct {
			*remoteKey
			encrypts
			unwraps
		}{k, encrypts{k}, unwraps{k}}, true
	case has(OpDecrypt, OpUnwrap):
		return struct {
			*remoteKey
			decrypts
			unwraps
		}{k, decrypts{k}, unwraps{k}}, true
	case has(OpEncrypt, OpDecrypt, OpUnwrap):
		return struct {
			*remoteKey
			encrypts
			decrypts
			unwraps
		}{k, encrypts{k}, decrypts{k}, unwraps{k}}, true
	case has(OpWrap, OpUnwrap):
		return struct {
			*remoteKey
			wraps
			unwraps
		}{k, wraps{k}, unwraps{k}}, true
	case has(OpEncrypt, OpWrap, OpUnwrap):
		return struct {
			*remoteKey
			encrypts
			wraps
			unwraps
		}{k, encrypts{k}, wraps{k}, unwraps{k}}, true
	case has(OpDecrypt, OpWrap, OpUnwrap):
		return struct {
			*remoteKey
			decrypts
			wraps
			unwraps
		}{k, decrypts{k}, wraps{k}, unwraps{k}}, true
	case has(OpEncrypt, OpDecrypt, OpWrap, OpUnwrap):
		return struct {
			*remoteKey
			encrypts
			decrypts
			wraps
			unwraps
		}{k, encrypts{k}, decrypts{k}, wraps{k}, unwraps{k}}, true
	case has(OpMAC):
		return struct {
			*remoteKey
			macs
		}{k, macs{k}}, true
	case has(OpVerifyMAC):
		return struct {
			*remoteKey
			verifies
		}{k, verifies{k}}, true
	case has(OpMAC, OpVerifyMAC):
		return struct {
			*remoteKey
			macs
			verifies
		}{k, macs{k}, verifies{k}}, true
	case has(OpSign):
		return struct {
			*remoteKey
			signs
		}{k, signs{k}}, true
	case has(OpDecryptRSA):
		return struct {
			*remoteKey
			opensRSA
		}{k, opensRSA{k}}, true
	case has(OpSign, OpDecryptRSA):
		return struct {
			*remoteKey
			signs
			opensRSA
		}{k, signs{k}, opensRSA{k}}, true
	case has(OpPublicKey):
		return struct {
			*remoteKey
			publishes
		}{k, publishes{k}}, true
	case has(OpSign, OpPublicKey):
		return struct {
			*remoteKey
			signs
			publishes
		}{k, signs{k}, publishes{k}}, true
	case has(OpDecryptRSA, OpPublicKey):
		return struct {
			*remoteKey
			opensRSA
			publishes
		}{k, opensRSA{k}, publishes{k}}, true
	case has(OpSign, OpDecryptRSA, OpPublicKey):
		return struct {
			*remoteKey
			signs
			opensRSA
			publishes
		}{k, signs{k}, opensRSA{k}, publishes{k}}, true
	case has(OpAgree):
		return struct {
			*remoteKey
			agrees
		}{k, agrees{k}}, true
	case has(OpSign, OpAgree):
		return struct {
			*remoteKey
			signs
			agrees
		}{k, signs{k}, agrees{k}}, true
	case has(OpAgree, OpPublicKey):
		return struct {
			*remoteKey
			agrees
			publishes
		}{k, agrees{k}, publishes{k}}, true
	case has(OpSign, OpAgree, OpPublicKey):
		return struct {
			*remoteKey
			signs
			agrees
			publishes
		}{k, signs{k}, agrees{k}, publishes{k}}, true
	}
	return nil, false
}
