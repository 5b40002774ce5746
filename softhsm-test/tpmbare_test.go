// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"net"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A bare is what a session's start cannot do without: a signature, two decryptions, data unsealed, a count, each authorised by one
// salted session, and the keys loaded, for whom a chip has no room all at once.
type bare struct {
	b    *testing.B
	chip *chip
	tpm  transport.TPM
	root tpm2.NamedHandle
	auth tpm2.Session
	keys [3]tpm2.Load // of the signing key, the decryption key, the sealed data

	ciphertext []byte
	counter    tpm2.NamedHandle
}

func newBare(b *testing.B, c *chip) *bare {
	b.Helper()
	conn, err := net.Dial("unix", c.path("bus"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	x := &bare{b: b, chip: c, tpm: tpmConn{conn}}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	primary, err := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(x.tpm)
	if err != nil {
		b.Fatal(err)
	}
	const handle tpm2.TPMHandle = 0x81000001
	if _, err := (tpm2.EvictControl{Auth: owner, ObjectHandle: tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name}, PersistentHandle: handle}).Execute(x.tpm); err != nil {
		b.Fatal(err)
	}
	x.flush(primary.ObjectHandle)
	x.root = tpm2.NamedHandle{Handle: handle, Name: primary.Name}
	public, err := primary.OutPublic.Contents()
	if err != nil {
		b.Fatal(err)
	}
	session, end, err := tpm2.HMACSession(x.tpm, tpm2.TPMAlgSHA256, 16, tpm2.Salted(handle, *public))
	if err != nil {
		b.Fatal(err)
	}
	x.auth = session
	b.Cleanup(func() { end() })
	x.makeKeys()
	x.makeCounter(owner)
	return x
}

func (x *bare) check(err error) {
	x.b.Helper()
	if err != nil {
		x.b.Fatal(err)
	}
}

func (x *bare) flush(h tpm2.TPMHandle) {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(x.tpm)
	x.check(err)
}

// makeKeys makes the keys, and what is to be decrypted.
func (x *bare) makeKeys() {
	b := x.b
	attributes := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true}
	sign, decrypt, sealed := attributes, attributes, attributes
	sign.SignEncrypt, decrypt.Decrypt, sealed.SensitiveDataOrigin = true, true, false
	none := tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}
	templates := [3]tpm2.TPMTPublic{
		{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: sign, Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: none,
			CurveID: tpm2.TPMECCNistP256, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})},
		{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: decrypt, Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: none,
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull}, KeyBits: 2048})},
		{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: sealed,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull}})},
	}
	parent := tpm2.AuthHandle{Handle: x.root.Handle, Name: x.root.Name, Auth: x.auth}
	for i, template := range templates {
		create := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}
		if i == 2 {
			create.InSensitive = tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: make([]byte, 32)})}}
		}
		made, err := create.Execute(x.tpm)
		if err != nil {
			b.Fatal(err)
		}
		x.keys[i] = tpm2.Load{ParentHandle: parent, InPrivate: made.OutPrivate, InPublic: made.OutPublic}
		if i == 1 {
			public, err := made.OutPublic.Contents()
			if err != nil {
				b.Fatal(err)
			}
			key, err := tpm2.Pub(*public)
			if err != nil {
				b.Fatal(err)
			}
			if x.ciphertext, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, key.(*rsa.PublicKey), make([]byte, 100), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func (x *bare) makeCounter(owner tpm2.AuthHandle) {
	index := tpm2.TPMHandle(0x01800000)
	_, err := tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTCounter}})}.Execute(x.tpm)
	x.check(err)
	for range 2 { // its name changes when it is first counted up
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(x.tpm)
		x.check(err)
		x.counter = tpm2.NamedHandle{Handle: index, Name: public.NVName}
		x.countUp()
	}
}

func (x *bare) countUp() {
	_, err := tpm2.NVIncrement{AuthHandle: x.authorised(x.counter), NVIndex: x.counter}.Execute(x.tpm)
	x.check(err)
}

func (x *bare) authorised(h tpm2.NamedHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: x.auth}
}

func (x *bare) load(i int) tpm2.NamedHandle {
	loaded, err := x.keys[i].Execute(x.tpm)
	x.check(err)
	return tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}
}

// session sends what a session's start asks a chip.
func (x *bare) session() {
	key := x.load(0)
	_, err := tpm2.Sign{KeyHandle: x.authorised(key), Digest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(x.tpm)
	x.check(err)
	x.flush(key.Handle)
	key = x.load(1)
	for range 2 {
		_, err = tpm2.RSADecrypt{KeyHandle: x.authorised(key), CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: x.ciphertext},
			InScheme: tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA1})}}.Execute(x.tpm)
		x.check(err)
	}
	x.flush(key.Handle)
	key = x.load(2)
	_, err = tpm2.Unseal{ItemHandle: x.authorised(key)}.Execute(x.tpm)
	x.check(err)
	x.flush(key.Handle)
	x.countUp()
	_, err = tpm2.NVRead{AuthHandle: x.authorised(x.counter), NVIndex: x.counter, Size: 8}.Execute(x.tpm)
	x.check(err)
}
