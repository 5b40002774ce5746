// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/providers"
)

// maxTried is how many keys doctor tries of those that a prefix names, each of which is an operation of the device.
const maxTried = 1000

// A duty is what a key of a role must be able to do.
type duty struct {
	types []providers.KeyType   // nil: whatever can do the rest
	ops   []providers.Op        // all of them
	with  []providers.Mechanism // one of these; nil: none is needed
}

var (
	encryptDuty = duty{ops: []providers.Op{providers.OpEncrypt, providers.OpDecrypt}, with: []providers.Mechanism{providers.AESCBC}}
	macDuty     = duty{types: []providers.KeyType{providers.HMACSHA256}, ops: []providers.Op{providers.OpMAC}}
	wrapDuty    = duty{types: []providers.KeyType{providers.AES128, providers.AES256}, ops: []providers.Op{providers.OpWrap, providers.OpUnwrap}}
	storageDuty = duty{types: []providers.KeyType{providers.AES256}, ops: []providers.Op{providers.OpEncrypt, providers.OpDecrypt}, with: []providers.Mechanism{providers.AESGCM}}
	rsaDuty     = duty{types: []providers.KeyType{providers.RSA2048, providers.RSA3072, providers.RSA4096},
		ops: []providers.Op{providers.OpSign, providers.OpPublicKey}, with: []providers.Mechanism{providers.RSAPKCS1}}
	exchangeDuty = duty{types: rsaDuty.types, ops: []providers.Op{providers.OpDecryptRSA, providers.OpPublicKey}, with: []providers.Mechanism{providers.RSAOAEP}}
	recordDuty   = duty{ops: []providers.Op{providers.OpEncrypt, providers.OpDecrypt}, with: []providers.Mechanism{providers.AEAD, providers.AESGCM}}
	ecDuty       = duty{types: []providers.KeyType{providers.ECP256}, ops: []providers.Op{providers.OpSign, providers.OpPublicKey}, with: []providers.Mechanism{providers.ECDSAP256}}
)

// A part is one of the keys that a role consists of.
type part struct {
	suffix string
	duty   duty
	needed bool
}

var (
	keySet   = []part{{".enc", encryptDuty, true}, {".mac", macDuty, true}, {".wrap", wrapDuty, false}}
	storage  = []part{{"", storageDuty, true}}
	exchange = []part{{"", exchangeDuty, true}}
	record   = []part{{"", recordDuty, true}}
	rsaPair  = []part{{"", rsaDuty, true}}
	ecPair   = []part{{"", ecDuty, true}}
)

// kinds are those of --needs.
var kinds = map[string][]part{"psk": keySet, "service": keySet, "rsa": rsaPair, "ec": ecPair}

// A keyDoctor looks at the keys of roles.
type keyDoctor struct {
	*findings
	cfg      *config
	provider providers.Provider
	versions map[string][]uint32 // of each key that is there
	away     map[string]bool     // providers that do not run
	tried    map[string]bool     // keys
}

// roles looks at every key that the configuration names, or whoever runs doctor needs, in the form KIND/NAME.
func (f *findings) roles(ctx context.Context, cfg *config, running connected, all providers.Provider, needs []string) {
	d := &keyDoctor{findings: f, cfg: cfg, provider: all, versions: make(map[string][]uint32), away: make(map[string]bool), tried: make(map[string]bool)}
	for _, p := range cfg.Providers {
		d.away[p.Name] = running[p.Name] == nil
	}
	infos, err := all.Keys(ctx)
	if err != nil {
		f.problem(roleAdvice(err, cfg), "%v", err)
	}
	for _, i := range infos {
		d.versions[i.Name] = append(d.versions[i.Name], i.Version)
	}
	for _, r := range []struct {
		field, name string
		parts       []part
	}{{"token-keys", cfg.TokenKeys, keySet}, {"storage-key", cfg.StorageKey, storage}, {"exchange-key", cfg.ExchangeKey, exchange}, {"record-key", cfg.RecordKey, record}} {
		if r.name != "" {
			d.role(ctx, r.field, r.name, r.parts, "mslkeep-agent init --config "+cfg.path)
		}
	}
	for _, need := range needs {
		d.need(ctx, need)
	}
	prefixes := cfg.prefixes()
	for _, kind := range slices.Sorted(maps.Keys(prefixes)) {
		d.others(ctx, kind, prefixes[kind])
	}
}

// prefixes are those of the kinds.
func (c *config) prefixes() map[string]string {
	return map[string]string{"psk": c.PSKPrefix, "rsa": c.RSAPrefix, "ec": c.ECPrefix, "service": c.ServicePrefix}
}

func (d *keyDoctor) need(ctx context.Context, need string) {
	kind, id, _ := strings.Cut(need, "/")
	name, err := custody.KeyName(d.cfg.prefixes()[kind], id)
	if err != nil {
		d.problem(advice{"key", "correct the identity, key-id or name of service token keys"}, "%s cannot be the name of a key", need)
		return
	}
	types := map[string]string{"psk": "keyset", "service": "keyset", "rsa": "rsa-2048", "ec": "ec-p256"}
	verb := "generate"
	if kind == "psk" {
		verb = "import"
	}
	d.role(ctx, need, name, kinds[kind], fmt.Sprintf("mslkeep keys %s --agent-config %s --type %s %s", verb, d.cfg.path, types[kind], name))
}

// role looks at the keys of one role, which must be there; make is how they are made.
func (d *keyDoctor) role(ctx context.Context, role, name string, parts []part, make string) {
	if who, _, ok := strings.Cut(name, ":"); ok {
		if away, configured := d.away[who]; away {
			return // that is a problem of its own
		} else if !configured {
			d.problem(advice{"key", "add [[providers]] of that name to " + d.cfg.path}, "%s is %s, but there is no provider %s", role, name, who)
			return
		}
	}
	bad, count := d.problems(), 0
	for _, p := range parts {
		key := name + p.suffix
		if d.versions[key] == nil && p.needed {
			// A key that is named by a PKCS #11 URI is not listed, and opens all the same.
			if k, err := d.provider.Open(ctx, key, 0); err == nil {
				d.versions[key] = []uint32{k.Info().Version}
			} else if a := roleAdvice(err, d.cfg); a.check == "key" {
				d.problem(advice{"key", "make it with: " + make}, "%s: there is no key %s", role, key)
			} else {
				d.problem(a, "%s: %s: %v", role, key, err)
			}
		}
		count += d.key(ctx, role, key, p.duty)
	}
	if len(parts) > 1 {
		d.halves(role, name)
	}
	if d.problems() == bad {
		d.ok("key", "%s: %s can be used (keys and versions tried: %d)", role, name, count)
	}
}

// halves tells of versions that have an encryption key or a MAC key only, which are not used.
func (d *keyDoctor) halves(role, name string) {
	enc, mac := d.versions[name+".enc"], d.versions[name+".mac"]
	for _, v := range slices.Concat(enc, mac) {
		if len(enc) > 0 && len(mac) > 0 && slices.Contains(enc, v) != slices.Contains(mac, v) {
			d.warn(advice{"key-version", "rotate the keys again"}, "%s: version %d of %s is not whole: a rotation broke off", role, v, name)
		}
	}
}

// key tries all versions of a key, and returns how many there are.
func (d *keyDoctor) key(ctx context.Context, role, name string, must duty) int {
	d.tried[name] = true
	for _, v := range d.versions[name] {
		k, err := d.provider.Open(ctx, name, v)
		if errors.Is(err, providers.NoSuchKey) {
			continue // destroyed since
		}
		if err != nil {
			d.problem(roleAdvice(err, d.cfg), "%s: %s version %d: %v", role, name, v, err)
		} else if lacks := must.lacks(k); lacks != "" {
			d.problem(roleAdvice(providers.NotSupported, d.cfg), "%s: %s version %d, %s, %s", role, name, v, k.Info().Type, lacks)
		} else if err := providers.TryKey(ctx, k); err != nil {
			d.problem(advice{"key-use", "see the device's own log; destroy this version if no token needs it any more"}, "%s: %s version %d: %v", role, name, v, err)
		}
	}
	return len(d.versions[name])
}

// lacks says what a key cannot do that it must, or "".
func (must duty) lacks(k providers.Key) string {
	if must.types != nil && !slices.Contains(must.types, k.Info().Type) {
		return fmt.Sprintf("is not of type %v", must.types)
	}
	for _, op := range must.ops {
		if !providers.Can(k, op) {
			return "cannot " + opNames[op]
		}
	}
	can := providers.MechanismsOf(k)
	if must.with != nil && !slices.ContainsFunc(must.with, func(m providers.Mechanism) bool { return slices.Contains(can, m) }) {
		return fmt.Sprintf("cannot be used with %v", must.with)
	}
	return ""
}

var opNames = map[providers.Op]string{
	providers.OpEncrypt: "encrypt", providers.OpDecrypt: "decrypt", providers.OpDecryptRSA: "decrypt", providers.OpMAC: "sign", providers.OpSign: "sign",
	providers.OpWrap: "wrap", providers.OpUnwrap: "unwrap", providers.OpPublicKey: "tell its public half",
}

// others tries the keys of a prefix that nobody has asked for by name.
func (d *keyDoctor) others(ctx context.Context, kind, prefix string) {
	var names []string
	for name := range d.versions {
		if strings.HasPrefix(name, prefix) && !d.tried[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > maxTried {
		d.warn(advice{"key", ""}, "of %d keys %s…, only %d were tried", len(names), prefix, maxTried)
		names = names[:maxTried]
	}
	bad := d.problems()
	for _, name := range names {
		for _, p := range kinds[kind] {
			if len(kinds[kind]) == 1 || strings.HasSuffix(name, p.suffix) {
				d.key(ctx, kind, name, p.duty)
			}
		}
	}
	if len(names) > 0 && d.problems() == bad {
		d.ok("key", "%s: %d more keys %s… can be used", kind, len(names), prefix)
	}
}
