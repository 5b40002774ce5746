// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/providers"
)

// TestCommands counts what each use of a key asks of the chip.
func TestCommands(t *testing.T) {
	config := newTPM(t).config(t)
	config.PersistRoot = true
	p := open(t, config)
	ctx := t.Context()
	makeAll(t, p)
	for name, kt := range map[string]providers.KeyType{"rsa.decrypt": providers.RSA2048, "ec.agree": providers.ECP256, "aes.wrap": providers.AES128} {
		if _, err := p.Generate(ctx, name, kt); err != nil {
			t.Fatal(err)
		}
	}
	pub, _ := x509.ParsePKIXPublicKey(publicOf(t, opened[providers.PublicKeyer](t, p, "rsa.decrypt")))
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub.(*rsa.PublicKey), []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var last map[tpm2.TPMCC]uint64
	commands(p, &last)
	for _, c := range []struct {
		o       providers.Operation
		command tpm2.TPMCC
		count   uint64
	}{
		{providers.Operation{Key: "sign", Op: providers.OpSign, Mechanism: providers.ECDSAP256}, tpm2.TPMCCSign, 1},
		{providers.Operation{Key: "rsa.decrypt", Op: providers.OpDecryptRSA, Mechanism: providers.RSAOAEP, Input: sealed}, tpm2.TPMCCRSADecrypt, 1},
		{providers.Operation{Key: "ec.agree", Op: providers.OpAgree, Input: peer.PublicKey().Bytes()}, tpm2.TPMCCECDHZGen, 1},
		{providers.Operation{Key: "mac", Op: providers.OpMAC, Input: make([]byte, 1024)}, tpm2.TPMCCHMAC, 1},
		{providers.Operation{Key: "cipher", Op: providers.OpEncrypt, Mechanism: providers.AESCBC, IV: make([]byte, 16), Input: make([]byte, 1000)}, tpm2.TPMCCEncryptDecrypt2, 1},
		{providers.Operation{Key: "aes.wrap", Op: providers.OpWrap, Input: make([]byte, 16)}, tpm2.TPMCCEncryptDecrypt2, 12},
		{providers.Operation{Key: "storage", Op: providers.OpEncrypt, Mechanism: providers.AESGCM, IV: make([]byte, 12)}, tpm2.TPMCCUnseal, 1},
		{providers.Operation{Key: "sign", Op: providers.OpPublicKey}, 0, 0},
	} {
		for first := range 2 {
			if r := providers.Do(ctx, p, []providers.Operation{c.o}, true); r[0].Err != nil {
				t.Fatalf("%s: %v", c.o.Key, r[0].Err)
			}
			if _, err := p.Keys(ctx); err != nil {
				t.Error(err)
			}
			got := commands(p, &last)
			var sum uint64
			for cc, n := range got {
				if first != 0 || cc != tpm2.TPMCCLoad && cc != tpm2.TPMCCFlushContext {
					sum += n
				}
			}
			if got[c.command] != c.count && c.count > 0 || sum != c.count || got[tpm2.TPMCCLoad] > 1 {
				t.Errorf("%s, use %d: %v", c.o.Key, first+1, got)
			}
		}
	}
	if err := p.Health(ctx); err != nil {
		t.Fatal(err)
	}
	commands(p, &last)
	if err := p.Health(ctx); err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, n := range commands(p, &last) {
		sum += n
	}
	if sum > 3 {
		t.Errorf("a check takes %d commands", sum)
	}
}

// TestDescription: what the chip lacks is said.
func TestDescription(t *testing.T) {
	large := false
	bus := newBus(t, newTPM(t))
	config := bus.config(t)
	config.PersistRoot = true
	p := open(t, config)
	d, err := p.Describe(t.Context())
	if err != nil || d.Name != "tpm IBM" || len(d.Warnings) > 0 {
		t.Errorf("%+v, %v", d, err)
	}
	p.Close()

	config.PersistRoot, config.Folder = false, t.TempDir()
	bus.setAnswer(func(cc tpm2.TPMCC, b []byte) []byte {
		if cc == tpm2.TPMCCGetCapability && len(b) == 23 && b[14] == byte(tpm2.TPMCapCommands) {
			b[22]++ // TPM2_EncryptDecrypt2 is another command
		}
		return b
	})
	p = open(t, config)
	k := generate[providers.Encrypter](t, p, "aes", providers.AES128)
	if _, ok := k.(*sealedKey); !ok {
		t.Errorf("on a chip without AES a key is a %T", k)
	}
	if _, err := k.Encrypt(t.Context(), providers.AESCBC, make([]byte, 16), nil, nil); err != nil {
		t.Error(err)
	}
	if d, err = p.Describe(t.Context()); err != nil || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "AES") {
		t.Errorf("%+v, %v", d, err)
	}
	p.Close()

	// A chip that has AES with keys of 128 bits only.
	bus.setAnswer(func(cc tpm2.TPMCC, b []byte) []byte {
		if cc == tpm2.TPMCCTestParms && large {
			return refusal(tpm2.TPMRCKeySize)
		}
		return b
	})
	bus.set(func(cc tpm2.TPMCC, command []byte) ([]byte, bool) {
		if cc == tpm2.TPMCCTestParms {
			large = command[14] == 1 // 0100: 256 bits
		}
		return nil, true
	})
	p = open(t, config)
	if k := generate[providers.Encrypter](t, p, "small", providers.AES128); !isA[*cipherKey](k) {
		t.Errorf("a key of 128 bits is a %T", k)
	}
	if k := generate[providers.Encrypter](t, p, "large", providers.AES256); !isA[*sealedKey](k) {
		t.Errorf("a key of 256 bits, which the chip does not have, is a %T", k)
	}
}

// TestCommandMissing: a chip without a command says so, and in its place the kernel does, in its own way.
func TestCommandMissing(t *testing.T) {
	bus := newBus(t, newTPM(t))
	p := open(t, bus.config(t))
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCCommandCode, 0xb0000 | tpm2.TPMRCCommandCode} {
		bus.set(func(cc tpm2.TPMCC, _ []byte) ([]byte, bool) {
			if cc == tpm2.TPMCCGetRandom || cc == tpm2.TPMCCTestParms {
				return refusal(rc), true
			}
			return nil, true
		})
		_, err := p.Random(t.Context(), 16)
		code(t, rc.Error(), err, providers.NotSupported)
		k := generate[providers.Encrypter](t, p, fmt.Sprintf("aes-%x", uint32(rc)), providers.AES128)
		if !isA[*sealedKey](k) {
			t.Errorf("without TPM2_TestParms, a key is a %T", k)
		}
	}
}

func isA[T any](k any) bool { _, ok := k.(T); return ok }

// BenchmarkSign compares with the command alone, which has no session to speak of.
func BenchmarkSign(b *testing.B) {
	config := newTPM(b).config(b)
	config.PersistRoot = true
	p := open(b, config)
	key := generate[providers.Signer](b, p, "sign", providers.ECP256)
	b.Run("provider", func(b *testing.B) {
		for b.Loop() {
			if _, err := key.Sign(b.Context(), providers.ECDSAP256, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		_, err := do(b.Context(), p, "test", useKeys, func(c *chip) (none struct{}, err error) {
			k := key.(*signer).stored
			h, err := c.load(k)
			if err != nil {
				return none, err
			}
			digest := sha256.Sum256(nil)
			for b.Loop() {
				_, err := tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: h, Name: k.name, Auth: tpm2.PasswordAuth(nil)}, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
					InScheme: key.(*signer).scheme, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(c)
				if err != nil {
					return none, err
				}
			}
			return none, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkSealed compares the use of a sealed key with TPM2_Unseal.
func BenchmarkSealed(b *testing.B) {
	p := open(b, newTPM(b).config(b))
	key := generate[providers.Encrypter](b, p, "storage", providers.AES256)
	b.Run("provider", func(b *testing.B) {
		for b.Loop() {
			if _, err := key.Encrypt(b.Context(), providers.AESGCM, make([]byte, 12), make([]byte, 200), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unseal", func(b *testing.B) {
		_, err := do(b.Context(), p, "test", useKeys, func(c *chip) (none struct{}, err error) {
			for b.Loop() {
				err := c.use(key.(*sealedKey).stored, encryptOut, func(h tpm2.AuthHandle) error {
					response, err := tpm2.Unseal{ItemHandle: h}.Execute(c)
					if err == nil {
						secret.Wipe(response.OutData.Buffer)
					}
					return err
				})
				if err != nil {
					return none, err
				}
			}
			return none, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	})
}
