// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"filippo.io/bigmod"

	"github.com/mslkeep/mslkeep/internal/secret"
)

// A Group is the numbers of a Diffie-Hellman group (§7.4), big-endian: the prime and the generator.
type Group struct{ P, G []byte }

// StandardGroup returns a group of RFC 3526: "modp2048", "modp3072", "modp4096", "modp6144" or "modp8192".
func StandardGroup(name string) (g Group, ok bool) {
	digits, ok := modp[name]
	if !ok {
		return g, false
	}
	p, err := hex.DecodeString(digits)
	return Group{P: p, G: []byte{2}}, err == nil
}

// Sizes of primes, in bits. Smaller ones than minGroup have to be allowed by name, and smaller ones than
// leastGroup can be broken on a laptop.
const (
	minGroup   = 2048
	leastGroup = 512
	maxGroup   = 8192
)

// Sizes of secret exponents, in bytes: an eighth of the prime's, within these bounds. That is more than RFC 7919
// §5.2 asks for, where (p-1)/2 is prime.
const (
	minExponentSize = 32
	maxExponentSize = 64
)

// A group is a Diffie-Hellman group that was checked. Its exponentiation takes a time that does not depend on
// the exponent.
type group struct {
	p *bigmod.Modulus
	g *bigmod.Nat
}

// newGroup checks that (p-1)/2 is prime, as it is in all groups of RFC 2409 and RFC 3526: then the only small
// subgroups are those of 1 and p-1, and a short exponent is safe.
func newGroup(numbers Group, small bool) (*group, error) {
	p, g := new(big.Int).SetBytes(numbers.P), new(big.Int).SetBytes(numbers.G)
	least := minGroup
	if small {
		least = leastGroup
	}
	one := big.NewInt(1)
	last := new(big.Int).Sub(p, one)
	switch n := p.BitLen(); {
	case n < least || n > maxGroup:
		return nil, fmt.Errorf("p has %d bits, and must have %d to %d", n, least, maxGroup)
	case g.Cmp(one) <= 0 || g.Cmp(last) >= 0:
		return nil, errors.New("g must be from 2 to p-2")
	case !standard(p) && !(p.ProbablyPrime(4) && last.Rsh(last, 1).ProbablyPrime(4)):
		return nil, errors.New("p and (p-1)/2 must be prime")
	}
	m, err := bigmod.NewModulus(p.Bytes())
	if err != nil {
		return nil, err
	}
	n, err := bigmod.NewNat().SetBytes(g.Bytes(), m)
	if err != nil {
		return nil, err
	}
	return &group{p: m, g: n}, nil
}

// newGroups checks all groups of a configuration.
func newGroups(groups map[string]Group, allow []string) (map[string]*group, error) {
	checked := make(map[string]*group, len(groups))
	for id, numbers := range groups {
		g, err := newGroup(numbers, slices.Contains(allow, schemeDiffieHellman+"/"+id))
		if err != nil {
			return nil, fmt.Errorf("Diffie-Hellman group %q: %w", id, err)
		}
		checked[id] = g
	}
	return checked, nil
}

// smallGroup reports whether allowed names one of the groups that have to be.
func smallGroup(groups map[string]*group, allowed string) bool {
	id, ok := strings.CutPrefix(allowed, schemeDiffieHellman+"/")
	return ok && groups[id] != nil && groups[id].p.BitLen() < minGroup
}

// standard reports whether p is a prime of RFC 3526, which need not be tested again.
func standard(p *big.Int) bool {
	return modp["modp"+strconv.Itoa(p.BitLen())] == p.Text(16)
}

// keyPair makes an exponent, and the public number that belongs to it, normalised.
func (g *group) keyPair() (x *secret.Bytes, y []byte) {
	x = secret.Random(min(max(g.p.Size()/8, minExponentSize), maxExponentSize))
	return x, g.public(x)
}

func (g *group) public(x *secret.Bytes) []byte {
	return normalised(bigmod.NewNat().Exp(g.g, secret.Reveal(x), g.p).Bytes(g.p))
}

// agree makes session keys from an exponent and the peer's public number, in any form.
func (g *group) agree(x *secret.Bytes, peer []byte) (*sessionKeys, error) {
	refused := malformed(mslKeyxInvalidPublicKey, "reading publickey")
	peer = bytes.TrimLeft(peer, "\x00")
	if len(peer) > g.p.Size() {
		return nil, refused
	}
	y, err := bigmod.NewNat().SetBytes(peer, g.p) // refuses p and above
	if err != nil || g.trivial(y) {
		return nil, refused
	}
	z := bigmod.NewNat().Exp(y, secret.Reveal(x), g.p)
	defer clear(z.Bits())
	if g.trivial(z) {
		return nil, refused
	}
	b := z.Bytes(g.p)
	defer secret.Wipe(b)
	return agreedKeys(b), nil
}

// trivial reports whether n is 0, 1 or p-1, from which nobody learns anything that others do not know.
func (g *group) trivial(n *bigmod.Nat) bool {
	return n.IsZero()|n.IsOne()|n.IsMinusOne(g.p) == 1
}

// agreedKeys derives the session keys from the shared secret (§2.11).
func agreedKeys(z []byte) *sessionKeys {
	z = normalised(z)
	defer secret.Wipe(z)
	sum := sha512.Sum384(z)
	defer clear(sum[:])
	return &sessionKeys{
		enc:       secret.Take(bytes.Clone(sum[:encKeySize])),
		mac:       secret.Take(bytes.Clone(sum[encKeySize:])),
		algorithm: hmacSHA256,
	}
}

// normalised returns a copy of a number in the form that §7.4 prescribes for public numbers and for the
// shared secret: big-endian, after exactly one zero byte.
//
// How many zero bytes a shared secret begins with thus shows in the time that hashing it takes. That is of use
// only against an exponent that serves again and again (the Raccoon attack). Here each serves one exchange.
func normalised(b []byte) []byte {
	b = bytes.TrimLeft(b, "\x00")
	return append(make([]byte, 1, 1+len(b)), b...)
}
