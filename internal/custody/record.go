// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/providers"
)

// A record is the pre-shared keys of an entity in a form that may rest in any database:
//
//	format   1 byte: 1 AES-GCM with a nonce of ours, 2 the provider's own authenticated encryption
//	length   1 byte, of the name of the wrapping key, and the name
//	version  4 bytes, big-endian: of the wrapping key
//	nonce    12 bytes, random; format 1 only
//	then, encrypted under the wrapping key,
//	  three keys, each 1 byte of length, and the key: encryption, signature, wrapping
//
// The associated data is a label, all before the nonce, and the identity: a record opens for its own identity only.
const (
	recordGCM   = 1 // formats
	recordAEAD  = 2
	maxRecord   = 2 << 10 // bytes
	recordLabel = "mslkeep entity record"
)

// recordKeys are the keys of a record that was opened.
type recordKeys struct {
	keySet
	keys []*secret.Bytes
}

func (r *recordKeys) wipe() {
	for _, s := range r.versions {
		if m, ok := s.mac.(interface{ wipe() }); ok {
			m.wipe()
		}
		s.enc, s.mac, s.kw = nil, nil, nil
	}
	for _, k := range r.keys {
		k.Wipe()
	}
}

// pskOf returns the pre-shared keys of an entity, from its record or, without one, from a provider. The caller calls
// done after their last use.
func (a *Agent) pskOf(ctx context.Context, identity string, record []byte) (set *keySet, done func(), err error) {
	if len(record) == 0 {
		set, err = a.preSharedKeys(ctx, identity)
		return set, func() {}, err
	}
	key := recordHash(identity, record)
	e := a.records.find(key)
	if e == nil {
		keys, err := a.openRecord(ctx, identity, record)
		if err != nil {
			return nil, nil, err
		}
		if e, err = a.records.add(keys, &key); err != nil {
			return nil, nil, err
		}
	}
	return &e.value.keySet, func() { a.records.release(e, 0, 0) }, nil
}

func recordHash(identity string, record []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(identity)))
	h.Write(length[:])
	h.Write([]byte(identity))
	h.Write(record)
	h.Sum(sum[:0])
	return sum
}

// wrappingKey opens one version of the key under which records are sealed; 0 is the newest.
func (a *Agent) wrappingKey(ctx context.Context, version uint32) (*storageKey, byte, error) {
	if a.cfg.RecordKey == "" {
		return nil, 0, errNoRecordKey
	}
	key, err := a.openKey(ctx, a.cfg.RecordKey, version)
	if err != nil {
		return nil, 0, err
	}
	enc, ok1 := key.Key.(providers.Encrypter)
	dec, ok2 := key.Key.(providers.Decrypter)
	can := providers.MechanismsOf(key.Key)
	switch {
	case !ok1 || !ok2:
	case slices.Contains(can, providers.AEAD):
		return &storageKey{key, enc, dec}, recordAEAD, nil
	case slices.Contains(can, providers.AESGCM) && key.Info().Type == providers.AES256:
		return &storageKey{key, enc, dec}, recordGCM, nil
	}
	return nil, 0, unsupported(noNumber, "sealing records with a key that can neither AEAD nor AES-256-GCM")
}

// recordHead returns what precedes the nonce, and the associated data.
func recordHead(format byte, name string, version uint32, identity string) (head, aad []byte) {
	head = append([]byte{format, byte(len(name))}, name...)
	head = binary.BigEndian.AppendUint32(head, version)
	aad = append(append([]byte(recordLabel), head...), identity...)
	return head, aad
}

// sealing is the use of the wrapping key that makes keys, Kenc || Khmac || Kwrap, the record of an entity: head and what
// comes out of it. Its input is appended to plain, which the caller wipes.
func (a *Agent) sealing(key *storageKey, format byte, identity string, keys []byte, plain *[]byte) (op providers.Operation, head []byte) {
	begin := len(*plain)
	for _, m := range keySetMembers {
		*plain = append(append(*plain, byte(m.size)), keys[:m.size]...)
		keys = keys[m.size:]
	}
	head, aad := recordHead(format, a.cfg.RecordKey, key.Info().Version, identity)
	op = providers.Operation{Key: a.cfg.RecordKey, Version: key.Info().Version, Op: providers.OpEncrypt, Mechanism: providers.AEAD,
		Input: (*plain)[begin:], AAD: aad}
	if format == recordGCM {
		op.Mechanism, op.IV = providers.AESGCM, make([]byte, gcmNonce)
		rand.Read(op.IV)
		head = append(head, op.IV...)
	}
	return op, head
}

// recordSize is the bytes of a record's plaintext.
func recordSize() (n int) {
	for _, m := range keySetMembers {
		n += 1 + m.size
	}
	return n
}

var (
	errRecord      = unverified(mslEntityNotFound, "reading the record of an entity")
	errNoRecordKey = unsupported(noNumber, "using records of entities, for which no key is configured")
)

// unsealing is the use of the wrapping key that opens a record. What the record itself tells to be wrong with it is errRecord;
// without a wrapping key, any record is told that by errNoRecordKey.
func (a *Agent) unsealing(identity string, record []byte) (op providers.Operation, format byte, err error) {
	if a.cfg.RecordKey == "" {
		return op, 0, errNoRecordKey
	}
	if len(record) < 2 || len(record) > maxRecord || record[0] != recordGCM && record[0] != recordAEAD {
		return op, 0, errRecord
	}
	nameEnd := 2 + int(record[1])
	if len(record) < nameEnd+4 || string(record[2:nameEnd]) != a.cfg.RecordKey {
		return op, 0, errRecord
	}
	format = record[0]
	op = providers.Operation{Key: a.cfg.RecordKey, Version: binary.BigEndian.Uint32(record[nameEnd:]), Op: providers.OpDecrypt,
		Mechanism: providers.AEAD, Input: record[nameEnd+4:]}
	if op.Version == 0 || format == recordGCM && len(op.Input) < gcmNonce+gcmTag {
		return op, 0, errRecord
	}
	if format == recordGCM {
		op.Mechanism, op.IV, op.Input = providers.AESGCM, op.Input[:gcmNonce], op.Input[gcmNonce:]
	}
	_, op.AAD = recordHead(format, a.cfg.RecordKey, op.Version, identity)
	return op, format, nil
}

// unsealRecord opens a record. The caller wipes what it gets. Whatever is wrong with the record is
// VerificationFailed, and so is a version of the wrapping key that is gone.
func (a *Agent) unsealRecord(ctx context.Context, identity string, record []byte) ([]byte, error) {
	op, format, err := a.unsealing(identity, record)
	if err != nil {
		return nil, err
	}
	key, can, err := a.wrappingKey(ctx, op.Version)
	if err == nil && can != format {
		return nil, errRecord
	}
	var plain []byte
	if err == nil {
		key.used()
		plain, err = key.dec.Decrypt(ctx, op.Mechanism, op.IV, op.Input, op.AAD)
	}
	if codeOf(err) == wire.NoSuchKey {
		err = errRecord
	}
	return plain, err
}

// openRecord makes the crypto context of a record.
func (a *Agent) openRecord(ctx context.Context, identity string, record []byte) (*recordKeys, error) {
	plain, err := a.unsealRecord(ctx, identity, record)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	r := &recordKeys{keySet: keySet{name: "record", latest: 1}}
	rest := plain
	for _, m := range keySetMembers {
		key, after, ok := cutKey(rest)
		if !ok || len(key) != m.size {
			r.wipe()
			return nil, unverified(mslEntityNotFound, "reading the keys of an entity")
		}
		k := secret.Take(bytes.Clone(key))
		r.keys, rest = append(r.keys, k), after
		a.cfg.KeyLog.Add("psk"+m.suffix+" "+identity, k)
	}
	s, err := wrapSuite(r.keys[2])
	if err == nil {
		s.label = keyLabel(identity)
		r.versions = []*suite{s}
		s.enc, err = newAESCBC(r.keys[0])
	}
	if err == nil {
		s.mac, err = newHMACKey(r.keys[1])
	}
	if err != nil {
		r.wipe()
		return nil, err
	}
	return r, nil
}
