// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"math/big"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// pairBits is the size of the key pairs that the agent makes for key exchange.
const pairBits = 2048

// A keyPair serves the key exchanges of a while. Its private part is wiped, as far as that is possible,
// when it serves no new ones and the last is done.
type keyPair struct {
	id   string // keypairid
	spki []byte

	mu      sync.Mutex
	private *rsa.PrivateKey // nil: wiped
	refs    int
	retired bool
}

func newKeyPair() (*keyPair, error) {
	private, err := rsa.GenerateKey(rand.Reader, pairBits)
	if err != nil {
		return nil, &fault{code: wire.Device, number: noNumber, what: "making a key pair", err: err}
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, &fault{code: wire.Device, number: noNumber, what: "making a key pair", err: err}
	}
	return &keyPair{id: pairID(spki), spki: spki, private: private}, nil
}

// DecryptRSA decrypts with the private key.
func (p *keyPair) DecryptRSA(_ context.Context, m providers.Mechanism, ciphertext []byte) (plain []byte, err error) {
	p.mu.Lock()
	private := p.private
	p.mu.Unlock()
	switch {
	case private == nil:
		return nil, unsupported(mslPrivateKeyMissing, "decrypting without a private key")
	case len(ciphertext) > private.Size():
		return nil, unverified(mslCiphertextBlockSize, "decrypting with an RSA key")
	case m == providers.RSAPKCS1:
		//lint:ignore SA1019 the mechanism JWK_RSAES prescribes it (§7.2), and is off by default
		plain, err = rsa.DecryptPKCS1v15(nil, private, ciphertext)
	default:
		plain, err = rsa.DecryptOAEP(sha1.New(), nil, private, ciphertext, nil)
	}
	if err != nil {
		return nil, unverified(mslCiphertextBadPadding, "decrypting with an RSA key")
	}
	return plain, nil
}

func (p *keyPair) retain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refs++
}

func (p *keyPair) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refs--
	p.wipeUnused()
}

// retire means that the pair serves no new exchange.
func (p *keyPair) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	p.wipeUnused()
}

// wipeUnused zeroes the numbers. What crypto/rsa keeps beside them is dropped for the collector.
func (p *keyPair) wipeUnused() {
	if !p.retired || p.refs > 0 || p.private == nil {
		return
	}
	k := p.private
	for _, n := range append([]*big.Int{k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv}, k.Primes...) {
		if n != nil {
			clear(n.Bits())
		}
	}
	p.private = nil
}

// keyPairs makes key pairs. One serves all exchanges for a while, and one that will follow it is made
// in the background, because making one takes long.
type keyPairs struct {
	age  time.Duration
	uses int
	now  func() time.Time

	mu     sync.Mutex
	pair   *keyPair // nil: none
	born   time.Time
	taken  int
	making chan struct{} // closed when spare or err is there; nil: nothing is being made
	spare  *keyPair
	err    error
	timer  *time.Timer // retires pair
}

func (k *keyPairs) init(l Limits, now func() time.Time) {
	k.age, k.uses, k.now = l.PairAge, l.PairUses, now
}

// take returns a pair, which the caller releases.
func (k *keyPairs) take(ctx context.Context) (*keyPair, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		if k.pair != nil && (k.taken >= k.uses || k.now().Sub(k.born) >= k.age) {
			k.retirePair()
		}
		if k.pair == nil && k.spare != nil {
			k.pair, k.spare, k.born, k.taken = k.spare, nil, k.now(), 0
			k.timer = time.AfterFunc(k.age+time.Second, k.expire)
		}
		if k.pair != nil {
			k.taken++
			k.pair.retain()
			if k.taken >= k.uses/2 && k.spare == nil && k.making == nil {
				k.make()
			}
			return k.pair, nil
		}
		if k.making == nil {
			k.make()
		}
		making := k.making
		k.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
		}
		k.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if k.err != nil {
			return nil, k.err
		}
	}
}

// make makes a spare in the background.
func (k *keyPairs) make() {
	done := make(chan struct{})
	k.making, k.err = done, nil
	go func() {
		pair, err := newKeyPair()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.spare, k.err, k.making = pair, err, nil
		close(done)
	}()
}

// expire retires a pair that is not asked for any more.
func (k *keyPairs) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && k.now().Sub(k.born) >= k.age {
		k.retirePair()
	}
}

func (k *keyPairs) retirePair() {
	k.timer.Stop()
	k.pair.retire()
	k.pair = nil
}
