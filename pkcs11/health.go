// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/providers"
)

// Health uses every version of every key once, and says what is wrong with the first that fails. Keys that the
// provider would not open are passed over: the token may have others for other programs.
func (p *Provider) Health(ctx context.Context) error {
	if _, err := p.Random(ctx, 16); err != nil {
		return err
	}
	infos, err := p.Keys(ctx)
	if err != nil {
		return err
	}
	for _, info := range infos {
		k, err := p.Open(ctx, info.Name, info.Version)
		if errors.Is(err, providers.Denied) || errors.Is(err, providers.NotSupported) || errors.Is(err, providers.NoSuchKey) {
			continue
		}
		if err == nil {
			err = try(ctx, k)
		}
		if errors.Is(err, providers.NoSuchKey) { // destroyed since it was listed
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// try uses a key once. Keys that only undo things are not tried: there is nothing to undo.
func try(ctx context.Context, k providers.Key) (err error) {
	switch k := k.(type) {
	case *cipherKey:
		iv := make([]byte, 16)
		if k.mechanisms[0] == providers.AESGCM {
			return nil // a random nonce spent on each check would come to an end
		}
		_, err = k.Encrypt(ctx, k.mechanisms[0], iv, nil, nil)
	case *macKey:
		_, err = k.MAC(ctx, nil)
	case *wrapKey:
		_, err = k.Wrap(ctx, make([]byte, 16))
	case *rsaSigner:
		_, err = k.Sign(ctx, providers.RSAPKCS1, nil)
	case *rsaBoth:
		_, err = k.Sign(ctx, providers.RSAPKCS1, nil)
	case *ecSigner:
		_, err = k.Sign(ctx, providers.ECDSAP256, nil)
	case *ecBoth:
		_, err = k.Sign(ctx, providers.ECDSAP256, nil)
	}
	return err
}

// warnings says what an operator should see to, as far as the token tells.
func (c *Config) warnings(info *p11.TokenInfo) (list []string) {
	const unknown = ^uint(0) // CK_UNAVAILABLE_INFORMATION; a maximum of 0 means no limit
	most, used := info.MaxRwSessionCount, info.RwSessionCount
	if most == 0 || most == unknown {
		most, used = info.MaxSessionCount, info.SessionCount
	}
	if most != 0 && most != unknown && used != unknown {
		others := used - min(used, 1) // the one that stays open is ours
		if free := most - min(most, others); free < uint(c.Sessions)+1 {
			list = append(list, fmt.Sprintf("the token has %d free sessions of %d, and %d are wanted: raise its limit, end other programs, or set sessions lower",
				free, most, c.Sessions+1))
		}
	}
	if info.Flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0 {
		list = append(list, "the token wants a new PIN: its user should set one")
	}
	if info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0 {
		list = append(list, "the PIN was wrong lately: find out who tried it")
	}
	if info.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		list = append(list, "the token lets its keys be used without a PIN")
	}
	return list
}
