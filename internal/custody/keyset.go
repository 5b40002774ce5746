// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// The three keys of a crypto context in a provider, by the suffixes of their names.
const (
	encSuffix  = ".enc"  // AES
	macSuffix  = ".mac"  // HMAC-SHA-256
	wrapSuffix = ".wrap" // AES; optional
)

const (
	// maxVersions is how many versions of a key set are tried, newest first. Each costs the device one
	// operation for a token that nobody here issued.
	maxVersions = 16
	// keySetLife is for how long a role's key set is used before it is looked up again, so that a
	// rotation by another process is noticed. It is keySetPatience when something does not verify.
	keySetLife     = 5 * time.Second
	keySetPatience = time.Second
	// maxKeySets bounds the role key sets that are remembered.
	maxKeySets = 256
)

// A keySet is a crypto context whose keys are in a provider (§2.4, §2.6): the newest version protects,
// and all open.
type keySet struct {
	name     string
	latest   uint32   // newest version of the MAC key
	versions []*suite // newest first; never empty
}

// newest is the version that protects.
func (k *keySet) newest() *suite { return k.versions[0] }

func (k *keySet) seal(ctx context.Context, plain []byte) (wire.Part, error) {
	return k.newest().seal(ctx, plain)
}

func (k *keySet) open(ctx context.Context, part wire.Part) ([]byte, error) {
	s, err := k.verify(ctx, nil, part.Data, rawSignature(part.Signature))
	if err != nil {
		return nil, err
	}
	return s.decrypt(ctx, part.Data)
}

// verify returns the version under which the signature is good. One that was tried already is left out.
func (k *keySet) verify(ctx context.Context, tried *suite, data, signature []byte) (*suite, error) {
	var err error = unverified(noNumber, "verifying a signature")
	for _, s := range k.versions {
		if s == tried {
			continue
		}
		if err = s.verify(ctx, data, signature); err == nil {
			return s, nil
		}
		if codeOf(err) != wire.VerificationFailed {
			return nil, err
		}
	}
	return nil, err
}

// unwrap undoes wrap, which any version may have done. The caller wipes the result.
func (k *keySet) unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	var err error = unsupported(mslUnwrapNotSupported, "unwrapping without a key")
	for _, s := range k.versions {
		if s.kw == nil {
			continue
		}
		var key []byte
		if key, err = s.unwrap(ctx, wrapped); err == nil || codeOf(err) != wire.VerificationFailed {
			return key, err
		}
	}
	return nil, err
}

// openKeySet finds the versions that have both an encryption and a MAC key. Newer keys of only one kind
// are left from a rotation that broke off.
func (a *Agent) openKeySet(ctx context.Context, name string) (*keySet, error) {
	newest, err := a.provider.Open(ctx, name+macSuffix, 0)
	if err != nil {
		return nil, err
	}
	last := newest.Info().Version
	k := &keySet{name: name, latest: last}
	label := keyLabel(name)
	for v := last; v > 0 && last-v < maxVersions; v-- {
		s, err := a.openSuite(ctx, name, v)
		if errors.Is(err, providers.NoSuchKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.label = label
		k.versions = append(k.versions, s)
	}
	if len(k.versions) == 0 {
		return nil, &fault{code: wire.NoSuchKey, number: noNumber, what: "finding an encryption key and a MAC key of one version"}
	}
	return k, nil
}

// openSuite opens one version of a key set.
func (a *Agent) openSuite(ctx context.Context, name string, version uint32) (*suite, error) {
	macKey, err := a.openKey(ctx, name+macSuffix, version)
	if err != nil {
		return nil, err
	}
	encKey, err := a.openKey(ctx, name+encSuffix, version)
	if err != nil {
		return nil, err
	}
	s := &suite{version: version}
	if s.mac, err = newProviderMAC(macKey); err != nil {
		return nil, err
	}
	if s.enc, err = newProviderCBC(encKey); err != nil {
		return nil, err
	}
	wrapKey, err := a.openKey(ctx, name+wrapSuffix, version)
	if errors.Is(err, providers.NoSuchKey) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.kw = newProviderKW(wrapKey)
	return s, nil
}

// A keyRing remembers the key sets of roles for a short while.
type keyRing struct {
	mu   sync.Mutex
	sets map[string]ringEntry
}

type ringEntry struct {
	set *keySet
	at  time.Time
}

// roleKeys returns a key set that is in use again and again: the token keys, service token keys.
func (a *Agent) roleKeys(ctx context.Context, name string) (*keySet, error) {
	return a.freshKeys(ctx, name, keySetLife)
}

// verifyRole returns the version of a role's keys under which the signature is good. One that was tried already is left out.
func (a *Agent) verifyRole(ctx context.Context, name string, tried *suite, data, signature []byte) (*suite, error) {
	set, err := a.roleKeys(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := set.verify(ctx, tried, data, signature)
	if err == nil || codeOf(err) != wire.VerificationFailed {
		return s, err
	}
	fresh, ferr := a.freshKeys(ctx, name, keySetPatience)
	if ferr != nil || fresh.latest == set.latest {
		return nil, err
	}
	return fresh.verify(ctx, nil, data, signature)
}

// unwrapRole unwraps with whichever version of a role's keys has wrapped. The caller wipes the result.
func (a *Agent) unwrapRole(ctx context.Context, name string, wrapped []byte) ([]byte, error) {
	set, err := a.roleKeys(ctx, name)
	if err != nil {
		return nil, err
	}
	key, err := set.unwrap(ctx, wrapped)
	if err == nil || codeOf(err) != wire.VerificationFailed {
		return key, err
	}
	fresh, ferr := a.freshKeys(ctx, name, keySetPatience)
	if ferr != nil || fresh.latest == set.latest {
		return nil, err
	}
	return fresh.unwrap(ctx, wrapped)
}

// freshKeys looks up a key set that was looked up longer ago than life.
func (a *Agent) freshKeys(ctx context.Context, name string, life time.Duration) (*keySet, error) {
	r := &a.ring
	r.mu.Lock()
	e, ok := r.sets[name]
	r.mu.Unlock()
	now := a.now()
	if ok && now.Sub(e.at) < life && !now.Before(e.at) {
		return e.set, nil
	}
	set, err := a.openKeySet(ctx, name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sets == nil || len(r.sets) >= maxKeySets {
		r.sets = make(map[string]ringEntry)
	}
	r.sets[name] = ringEntry{set, now}
	return set, nil
}

// forget makes the next use of every role look up its keys again.
func (r *keyRing) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = nil
}

// A providerCBC encrypts under a key in a provider.
type providerCBC struct {
	key usedKey
	enc providers.Encrypter
	dec providers.Decrypter
}

func newProviderCBC(key usedKey) (*providerCBC, error) {
	enc, ok1 := key.Key.(providers.Encrypter)
	dec, ok2 := key.Key.(providers.Decrypter)
	if !ok1 || !ok2 || !slices.Contains(providers.MechanismsOf(key.Key), providers.AESCBC) {
		return nil, unsupported(noNumber, "encrypting with a key that cannot do AES-CBC")
	}
	return &providerCBC{key, enc, dec}, nil
}

func (c *providerCBC) encrypt(ctx context.Context, dst, iv, plain []byte) ([]byte, error) {
	c.key.used()
	b, err := c.enc.Encrypt(ctx, providers.AESCBC, iv, plain, nil)
	return append(dst, b...), err
}

func (c *providerCBC) decrypt(ctx context.Context, iv, ciphertext []byte) ([]byte, error) {
	c.key.used()
	b, err := c.dec.Decrypt(ctx, providers.AESCBC, iv, ciphertext, nil)
	if err != nil && codeOf(err) == wire.VerificationFailed {
		return nil, &fault{code: wire.VerificationFailed, number: mslCiphertextBadPadding, what: "decrypting", err: err}
	}
	return b, err
}

// A providerMAC is HMAC-SHA-256 under a key in a provider.
type providerMAC struct {
	key      usedKey
	mac      providers.MACer
	verifier providers.MACVerifier // nil: compare here
}

func newProviderMAC(key usedKey) (*providerMAC, error) {
	mac, ok := key.Key.(providers.MACer)
	if !ok {
		return nil, unsupported(noNumber, "signing with a key that is no MAC key")
	}
	v, _ := key.Key.(providers.MACVerifier)
	return &providerMAC{key, mac, v}, nil
}

func (m *providerMAC) sign(ctx context.Context, dst, data []byte) ([]byte, error) {
	m.key.used()
	sum, err := m.mac.MAC(ctx, data)
	if err == nil && len(sum) != macSize {
		err = &fault{code: wire.Device, number: noNumber, what: "reading a MAC of the wrong size"}
	}
	return append(dst, sum...), err
}

func (m *providerMAC) verify(ctx context.Context, data, signature []byte) error {
	if len(signature) != macSize {
		return unverified(noNumber, "verifying a signature")
	}
	m.key.used()
	if m.verifier != nil {
		return m.verifier.VerifyMAC(ctx, data, signature)
	}
	sum, err := m.mac.MAC(ctx, data)
	if err == nil && subtle.ConstantTimeCompare(sum, signature) != 1 {
		err = unverified(noNumber, "verifying a signature")
	}
	return err
}

// A providerKW is AES key wrap under a key in a provider, in whichever directions it can.
type providerKW struct {
	key    usedKey
	wrap   providers.Wrapper   // nil: none
	unwrap providers.Unwrapper // nil: none
}

func newProviderKW(key usedKey) *providerKW {
	w, _ := key.Key.(providers.Wrapper)
	u, _ := key.Key.(providers.Unwrapper)
	return &providerKW{key, w, u}
}

// Wrap wraps key in the provider.
func (w *providerKW) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	if w.wrap == nil {
		return nil, unsupported(mslWrapNotSupported, "wrapping with a key that cannot")
	}
	w.key.used()
	return w.wrap.Wrap(ctx, key)
}

// Unwrap unwraps in the provider.
func (w *providerKW) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	if w.unwrap == nil {
		return nil, unsupported(mslUnwrapNotSupported, "unwrapping with a key that cannot")
	}
	w.key.used()
	return w.unwrap.Unwrap(ctx, wrapped)
}
