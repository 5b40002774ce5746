// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
)

// An Op is what a key can be asked to do, and for OpRandom, OpCount and OpCountUp the provider. Each but OpNone is the one method of one
// interface.
type Op uint8

const (
	OpNone       Op = iota
	OpEncrypt       // Encrypter
	OpDecrypt       // Decrypter
	OpMAC           // MACer
	OpVerifyMAC     // MACVerifier
	OpSign          // Signer
	OpDecryptRSA    // RSADecrypter
	OpAgree         // Agreer
	OpWrap          // Wrapper
	OpUnwrap        // Unwrapper
	OpPublicKey     // PublicKeyer
	OpRandom        // Randomer, of the provider: Key is empty
	OpCount         // Counter, of the provider: Key is that beside which is counted
	OpCountUp       // likewise
)

// MaxRandom is how many random bytes one operation makes.
const MaxRandom = 1024

// An Operation is one use of one version of a key. Fields that its Op does not take are empty.
type Operation struct {
	Key       string
	Version   uint32 // 0: the newest
	Op        Op
	Mechanism Mechanism
	IV        []byte
	Input     []byte // plaintext, ciphertext, message, point of the peer, or key to be wrapped or unwrapped
	AAD       []byte
	MAC       []byte // of OpVerifyMAC
	Length    int    // bytes, of OpRandom
}

// A Result is what an Operation came to. Err is an [*Error] or nil.
type Result struct {
	Output []byte // belongs to the caller
	Err    error
}

// A Batcher is a provider that does several operations at once, in order. With stop, the first that fails
// is the last to be done, and the results end with it. It never returns more results than operations, and
// less only with stop. [Do] is how callers use it.
type Batcher interface {
	Do(ctx context.Context, ops []Operation, stop bool) []Result
}

// A Batch is what one caller wants done, as [Batcher] says.
type Batch struct {
	Ops  []Operation
	Stop bool
}

// A ManyBatcher is a [Batcher] that does better when it has the batches of several callers together. It returns
// the results of each, and whatever becomes of one has no effect on the others.
type ManyBatcher interface {
	DoMany(ctx context.Context, batches []Batch) [][]Result
}

// A MechanismLister is a key that knows which mechanisms it can be used with. For one that is not, see
// [MechanismsOf].
type MechanismLister interface {
	Mechanisms() []Mechanism
}

// A Randomer is a provider whose device makes random bytes. n is 1 to [MaxRandom].
type Randomer interface {
	Random(ctx context.Context, n int) ([]byte, error)
}

// A Describer is a provider that tells what it is.
type Describer interface {
	Describe(ctx context.Context) (Description, error)
}

// A Description is for operators. It holds nothing secret.
type Description struct {
	Name, Version string
	Generates     []KeyType // empty: not told
	Imports       []KeyType // empty: not told
	MaxData       int       // most bytes that an operation takes; 0: not told
	Random        bool      // Do takes OpRandom; of a provider at the other end of a pipe
	Warnings      []string  // what an operator should see to; one line each, no secrets
	Facts         []string  // what an operator may want to know of the device; likewise
}

// Do does operations in order, in one round trip if p is a [Batcher].
func Do(ctx context.Context, p Provider, ops []Operation, stop bool) []Result {
	if b, ok := p.(Batcher); ok {
		return b.Do(ctx, ops, stop)
	}
	return doEach(ctx, p, ops, stop)
}

func doEach(ctx context.Context, p Provider, ops []Operation, stop bool) []Result {
	results := make([]Result, 0, len(ops))
	for i := range ops {
		out, err := doOne(ctx, p, &ops[i])
		results = append(results, Result{out, err})
		if err != nil && stop {
			break
		}
	}
	return results
}

func doOne(ctx context.Context, p Provider, o *Operation) ([]byte, error) {
	switch o.Op {
	case OpRandom:
		return random(ctx, p, o)
	case OpCount, OpCountUp:
		return count(ctx, p, o)
	}
	key, err := p.Open(ctx, o.Key, o.Version)
	if err != nil {
		return nil, err
	}
	return use(ctx, key, o)
}

func random(ctx context.Context, p Provider, o *Operation) ([]byte, error) {
	const op = "making random bytes"
	r, ok := p.(Randomer)
	if !ok {
		return nil, &Error{Code: NotSupported, Op: op, Err: errCannot}
	}
	if o.Length < 1 || o.Length > MaxRandom || o.Key != "" {
		return nil, &Error{Code: Malformed, Op: op}
	}
	return r.Random(ctx, o.Length)
}

// Random returns n bytes, 1 to [MaxRandom], of the device's generator. It fails with NotSupported if the device has none.
func Random(ctx context.Context, p Provider, n int) ([]byte, error) {
	results := Do(ctx, p, []Operation{{Op: OpRandom, Length: n}}, true)
	if len(results) == 1 && results[0].Err != nil {
		return nil, results[0].Err
	}
	if len(results) != 1 || len(results[0].Output) != n {
		return nil, &Error{Code: Device, Op: "making random bytes", Err: errAnswer}
	}
	return results[0].Output, nil
}

// use does one operation with a key.
func use(ctx context.Context, key Key, o *Operation) ([]byte, error) {
	if !Can(key, o.Op) {
		return nil, &Error{Code: NotSupported, Op: "using a key", Err: errors.New("it cannot do that")}
	}
	switch o.Op {
	case OpEncrypt:
		return key.(Encrypter).Encrypt(ctx, o.Mechanism, o.IV, o.Input, o.AAD)
	case OpDecrypt:
		return key.(Decrypter).Decrypt(ctx, o.Mechanism, o.IV, o.Input, o.AAD)
	case OpMAC:
		return key.(MACer).MAC(ctx, o.Input)
	case OpVerifyMAC:
		return nil, key.(MACVerifier).VerifyMAC(ctx, o.Input, o.MAC)
	case OpSign:
		return key.(Signer).Sign(ctx, o.Mechanism, o.Input)
	case OpDecryptRSA:
		return key.(RSADecrypter).DecryptRSA(ctx, o.Mechanism, o.Input)
	case OpAgree:
		return key.(Agreer).Agree(ctx, o.Input)
	case OpWrap:
		return key.(Wrapper).Wrap(ctx, o.Input)
	case OpUnwrap:
		return key.(Unwrapper).Unwrap(ctx, o.Input)
	default:
		return key.(PublicKeyer).PublicKey(ctx)
	}
}

// Can reports whether a key has the capability for an operation.
func Can(key Key, op Op) (can bool) {
	switch op {
	case OpEncrypt:
		_, can = key.(Encrypter)
	case OpDecrypt:
		_, can = key.(Decrypter)
	case OpMAC:
		_, can = key.(MACer)
	case OpVerifyMAC:
		_, can = key.(MACVerifier)
	case OpSign:
		_, can = key.(Signer)
	case OpDecryptRSA:
		_, can = key.(RSADecrypter)
	case OpAgree:
		_, can = key.(Agreer)
	case OpWrap:
		_, can = key.(Wrapper)
	case OpUnwrap:
		_, can = key.(Unwrapper)
	case OpPublicKey:
		_, can = key.(PublicKeyer)
	}
	return can
}

// MechanismsOf returns the mechanisms of a key: those that it lists, or else all that its type has.
func MechanismsOf(key Key) []Mechanism {
	if l, ok := key.(MechanismLister); ok {
		return l.Mechanisms()
	}
	switch key.Info().Type {
	case AES128, AES256:
		return []Mechanism{AESCBC, AESGCM}
	case RSA2048, RSA3072, RSA4096:
		return []Mechanism{RSAPKCS1, RSAOAEP}
	case ECP256:
		return []Mechanism{ECDSAP256}
	}
	return nil
}
