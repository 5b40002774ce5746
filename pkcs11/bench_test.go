// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"sync/atomic"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// BenchmarkToken verifies and decrypts what a master token has, through the provider, and straight with the
// module and as many sessions.
func BenchmarkToken(b *testing.B) {
	h := newHSM(b)
	p := h.open(b, h.config())
	mac := made[*macKey](b, p, "mac", providers.HMACSHA256)
	enc := made[*cipherKey](b, p, "enc", providers.AES128)
	ctx, iv := b.Context(), make([]byte, 16)
	c, err := enc.Encrypt(ctx, providers.AESCBC, iv, make([]byte, 512), nil)
	if err != nil {
		b.Fatal(err)
	}
	sum, err := mac.MAC(ctx, c)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Provider", func(b *testing.B) {
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				err := mac.VerifyMAC(ctx, c, sum)
				if err == nil {
					_, err = enc.Decrypt(ctx, providers.AESCBC, iv, c, nil)
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("Straight", func(b *testing.B) {
		raw := p.module.ctx
		macHandle, encHandle := mac.handle.Load().number, enc.handle.Load().number
		list := []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_CBC_PAD, iv)}
		var failed atomic.Int64
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			session, err := raw.OpenSession(p.link.slot, p11.CKF_SERIAL_SESSION)
			for pb.Next() {
				if err == nil {
					err = raw.VerifyInit(session, hmacSHA256, macHandle)
				}
				if err == nil {
					err = raw.Verify(session, c, sum)
				}
				if err == nil {
					err = raw.DecryptInit(session, list, encHandle)
				}
				if err == nil {
					_, err = raw.Decrypt(session, c)
				}
			}
			if err != nil {
				failed.Add(1)
			}
			raw.CloseSession(session)
		})
		if failed.Load() > 0 {
			b.Error("a call failed")
		}
	})
}
