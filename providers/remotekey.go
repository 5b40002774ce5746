// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"bytes"
	"context"
)

// A remoteKey is a key at the other end of the pipe. It survives restarts of the provider.
type remoteKey struct {
	c          *Connection
	info       KeyInfo
	mechanisms []Mechanism
	public     []byte // of a key pair, if it was told when the key was opened
}

// Info describes the key, as it was when it was opened.
func (k *remoteKey) Info() KeyInfo { return k.info }

// Mechanisms returns what the key advertises.
func (k *remoteKey) Mechanisms() []Mechanism { return k.mechanisms }

// do does one operation.
func (k *remoteKey) do(ctx context.Context, o Operation) ([]byte, error) {
	o.Key, o.Version = k.info.Name, k.info.Version
	results, err := k.c.do(ctx, []Operation{o}, true)
	if err != nil {
		return nil, err
	}
	if results[0].Err != nil {
		return nil, results[0].Err
	}
	return results[0].Output, nil
}

func (k encrypts) Encrypt(ctx context.Context, m Mechanism, iv, plaintext, aad []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpEncrypt, Mechanism: m, IV: iv, Input: plaintext, AAD: aad})
}

func (k decrypts) Decrypt(ctx context.Context, m Mechanism, iv, ciphertext, aad []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpDecrypt, Mechanism: m, IV: iv, Input: ciphertext, AAD: aad})
}

func (k macs) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpMAC, Input: message})
}

func (k verifies) VerifyMAC(ctx context.Context, message, mac []byte) error {
	_, err := k.do(ctx, Operation{Op: OpVerifyMAC, Input: message, MAC: mac})
	return err
}

func (k signs) Sign(ctx context.Context, m Mechanism, message []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpSign, Mechanism: m, Input: message})
}

func (k opensRSA) DecryptRSA(ctx context.Context, m Mechanism, ciphertext []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpDecryptRSA, Mechanism: m, Input: ciphertext})
}

func (k agrees) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpAgree, Input: peer})
}

func (k wraps) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpWrap, Input: key})
}

func (k unwraps) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return k.do(ctx, Operation{Op: OpUnwrap, Input: wrapped})
}

func (k publishes) PublicKey(ctx context.Context) ([]byte, error) {
	if len(k.public) > 0 {
		return bytes.Clone(k.public), nil
	}
	return k.do(ctx, Operation{Op: OpPublicKey})
}
